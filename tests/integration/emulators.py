"""Buckets on loopback: emulators of GCS and S3, and a proxy before them that fails on demand."""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

BUCKET = 'bucket'
Fault = Callable[[str, str], int | None]  # method and path -> status to answer with; None: pass


class Store(NamedTuple):
    """A bucket that clients reach through a proxy."""

    root: str  # gs://bucket or s3://bucket
    env: dict[str, str]  # of the clients
    proxy: 'Proxy'


class Proxy(ThreadingHTTPServer):
    """Passes requests on to an emulator, unless `fault` says what to answer."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(('127.0.0.1', 0), _Handler)
        self.upstream = free_port()  # of the emulator
        self.fault: Fault = lambda method, path: None
        self.requests: list[tuple[str, str]] = []

    def handle_error(self, *_: Any) -> None:
        pass  # a client that is killed, or does not wait for the end of an answer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    server: Proxy

    def _serve(self) -> None:
        body = self._body()
        self.server.requests.append((self.command, self.path))
        status = self.server.fault(self.command, self.path)
        if status is None:
            headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP_BY_HOP}
            status, sent, content = _request(
                self.server.upstream, self.command, self.path, body, headers
            )
            if self.command == 'GET' and 'alt=media' in self.path and status < 300:
                # GCS sends it with the content, the emulator only with the description.
                description = self.path.partition('?')[0].removeprefix('/download')
                described = json.loads(_request(self.server.upstream, 'GET', description)[2])
                sent.append(('x-goog-generation', described['generation']))
        else:
            content, sent = b'not now', []
        self.send_response_only(status)
        for name, value in sent:
            if name.lower() not in (*_HOP_BY_HOP, 'content-length'):
                self.send_header(name, value)
        length = len(content)
        if self.command == 'HEAD':
            length = int(dict((k.lower(), v) for k, v in sent).get('content-length', 0))
        self.send_header('Content-Length', str(length))
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = _serve  # noqa: N815

    def _body(self) -> bytes | None:
        if self.headers.get('Transfer-Encoding', '').lower() == 'chunked':
            parts = []
            while size := int(self.rfile.readline().split(b';')[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b''.join(parts)
        length = int(self.headers.get('Content-Length', 0))
        return self.rfile.read(length) if length else None

    def log_message(self, *_: Any) -> None:
        pass


_HOP_BY_HOP = ('connection', 'transfer-encoding', 'keep-alive', 'expect')


@contextlib.contextmanager
def serve(kind: str, log: Path) -> Iterator[Store]:
    """An empty bucket of a kind, 'gs' or 's3'; what the emulator says goes to `log`."""
    proxy = Proxy()
    port = proxy.upstream
    gcs = ('start', '--host=127.0.0.1', '--in-memory', f'--default-bucket={BUCKET}')
    commands = {
        'gs': ('gcp_storage_emulator', *gcs, f'--port={port}'),
        's3': ('moto.server', '-H', '127.0.0.1', '-p', str(port)),
    }
    with log.open('wb') as output:
        server = subprocess.Popen(
            [sys.executable, '-m', *commands[kind]], stdout=output, stderr=output
        )
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        _wait_for(port, server)
        if kind == 's3':
            assert _request(port, 'PUT', f'/{BUCKET}')[0] < 300
        url = f'http://127.0.0.1:{proxy.server_address[1]}'
        yield Store(f'{kind}://{BUCKET}', environment(kind, url), proxy)
    finally:
        proxy.shutdown()
        proxy.server_close()
        server.kill()
        server.wait()


def environment(kind: str, url: str) -> dict[str, str]:
    """Variables that send the clients to an emulator."""
    if kind == 'gs':
        return {
            'STORAGE_EMULATOR_HOST': url,
            'TENSORSTORE_GCS_HTTP_URL': url,
            # gcsfs would otherwise ask an API for a minute that the emulator lacks.
            'GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT': 'false',
        }
    return {
        'AWS_ENDPOINT_URL': url,
        'AWS_ACCESS_KEY_ID': 'test',
        'AWS_SECRET_ACCESS_KEY': 'test',
        'AWS_DEFAULT_REGION': 'us-east-1',
    }


def download(store: Store, location: str, target: Path) -> Path:
    """Copies a folder of the bucket to a local one."""
    program = (
        'import sys; from chromagan_jax.utils import paths; '
        "paths.filesystem(sys.argv[1]).get(sys.argv[1] + '/', sys.argv[2] + '/', recursive=True)"
    )
    run(store, program, location, target)
    return target


def upload(store: Store, source: Path, location: str) -> None:
    """Copies a local folder into the bucket."""
    program = (
        'import sys; from chromagan_jax.utils import paths; '
        "paths.filesystem(sys.argv[2]).put(sys.argv[1] + '/', sys.argv[2] + '/', recursive=True)"
    )
    run(store, program, source, location)


def run(store: Store, program: str, *arguments: str | Path) -> str:
    """What a Python program prints that reaches the bucket."""
    done = subprocess.run(
        [sys.executable, '-c', program, *map(str, arguments)],
        env=os.environ | store.env,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(('127.0.0.1', port), timeout=1).close()
            return
        except OSError:
            assert server.poll() is None, 'the emulator ended'
            assert time.monotonic() < end, 'the emulator does not start'


def _request(
    port: int,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, list[tuple[str, str]], bytes]:
    """Status, headers and content of an emulator's answer."""
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=60)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.getheaders(), content
