"""Starts the command in a process of its own."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
_START = 180  # s, at most


class Server(NamedTuple):
    url: str
    process: subprocess.Popen[str]
    folder: Path  # of its temporary files

    def memory(self) -> int:
        """Resident bytes."""
        status = Path(f'/proc/{self.process.pid}/status').read_text()
        return int(status.split('VmRSS:')[1].split()[0]) * 1024

    def files(self) -> list[Path]:
        """Files of visitors that the server holds."""
        found = [path for path in self.folder.rglob('*') if path.is_file()]
        kept = [
            self.folder.glob(f'chromagan_jax-*/page/{name}') for name in ('examples', 'welcome')
        ]
        own = [folder for folders in kept for folder in folders]
        return [path for path in found if not any(path.is_relative_to(one) for one in own)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}
    return kept | {'TMPDIR': str(folder), 'PYTHONPATH': str(ROOT)}


@contextlib.contextmanager
def serving(folder: Path, *flags: str) -> Iterator[Server]:
    """A server that answers; at the end it must stop on SIGTERM and leave no files.

    `folder` is made, for its temporary files.
    """
    folder.mkdir()
    port = free_port()
    command = [sys.executable, '-m', 'chromagan_jax.app', f'--port={port}', *flags]
    with folder.with_suffix('.log').open('w') as log:
        process = subprocess.Popen(command, env=environment(folder), stderr=log, text=True)
    try:
        _wait(process, f'http://127.0.0.1:{port}/', folder.with_suffix('.log'))
        yield Server(f'http://127.0.0.1:{port}/', process, folder)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 75
        assert list(folder.iterdir()) == []
        assert 'Traceback' not in (folder.with_suffix('.log')).read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[str], url: str, log: Path) -> None:
    end = time.monotonic() + _START
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10):
                return
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)
