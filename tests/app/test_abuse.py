"""Many visitors, hostile files and clients that go away."""

import http.client
import io
import json
import socket
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from chromagan_jax.training import loop
from tests.app.server import serving
from tests.conftest import small_config

client_lib = pytest.importorskip('gradio_client')
pytest.importorskip('gradio')

pytestmark = pytest.mark.cluster
_CLIENTS, _VISITS, _FILES = 20, 10, 5  # 1,000 uploads
_MEGAPIXELS = 8


def encoded(pixels, kind='PNG'):
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, kind)
    return data.getvalue()


def bomb(side=60_000):
    """A PNG of 3.6 gigapixels in 500 kB."""

    def chunk(name, content):
        body = name + content
        return struct.pack('>L', len(content)) + body + struct.pack('>L', zlib.crc32(body))

    head = struct.pack('>LLBBBBB', side, side, 1, 0, 0, 0, 0)
    packer = zlib.compressobj(9)
    rows = b''.join(packer.compress(bytes(side // 8 + 1)) for _ in range(side)) + packer.flush()
    parts = chunk(b'IHDR', head) + chunk(b'IDAT', rows) + chunk(b'IEND', b'')
    return b'\x89PNG\r\n\x1a\n' + parts


def files(folder: Path) -> dict[str, Path]:
    """Files of visitors by what they are; those whose name begins with bad cannot be read."""
    random = np.random.default_rng(3)
    gray = random.integers(0, 255, (400, 500), np.uint8)
    largest = np.full((2000, 4000), 128, np.uint8)  # 8 megapixels
    content = {
        'good.png': encoded(gray),
        'good.jpg': encoded(gray, 'JPEG'),
        'good large.jpg': encoded(largest, 'JPEG'),
        'good.tif': encoded(gray, 'TIFF'),
        'bad cut.png': encoded(gray)[:900],
        'bad cut.tif': encoded(gray, 'TIFF')[:900],
        'bad large.png': encoded(np.zeros((3000, 4000), np.uint8)),
        'bad bomb.png': bomb(),
        'bad empty.jpg': b'',
        'bad page.png': b'<html><script>alert(1)</script></html>',
        'bad noise.jpg': b'\xff\xd8\xff' + random.bytes(5000),
    }
    for name, data in content.items():
        (folder / name).write_bytes(data)
    return {name: folder / name for name in content}


def connection(url):
    return http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)


def post(url, name, data):
    """Uploads a file under any name; returns the paths on the server, or the status."""
    body = (
        (
            f'--b\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n'
            'Content-Type: image/png\r\n\r\n'
        ).encode()
        + data
        + b'\r\n--b--\r\n'
    )
    one = connection(url)
    kind = {'Content-Type': 'multipart/form-data; boundary=b'}
    one.request('POST', '/gradio_api/upload', body, kind)
    answer = one.getresponse()
    content = answer.read()
    return json.loads(content) if answer.status == 200 else answer.status


def go_away(url):
    """Half an upload, then silence."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port)) as half:
        half.sendall(
            b'POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n'
            b'Content-Type: multipart/form-data; boundary=b\r\n\r\n'
            b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
            + bytes(300_000)
        )


def visit(url, found, seed, number=_VISITS):
    """Adds `_FILES` files `number` times in one session; returns the answers that are wrong."""
    random = np.random.default_rng(seed)
    client = client_lib.Client(url, verbose=False)
    wrong = []
    for _ in range(number):
        names = [str(name) for name in random.choice(list(found), _FILES)]
        uploads = [client_lib.handle_file(found[name]) for name in names]
        said = str(client.predict(uploads, api_name='/colorize')[1])
        if [said.count(f'{name}:') for name in found] != [
            names.count(name) * name.startswith('bad') for name in found
        ]:
            wrong.append((names, said))
        go_away(url)
    client.close()
    return wrong


def test_a_thousand_uploads_of_twenty_visitors_leave_memory_and_page_as_they_were(tmp_path):
    run = tmp_path / 'run'
    loop.train_and_evaluate(small_config(), run)
    found = files(tmp_path)
    flags = (f'--workdir={run}', f'--max_megapixels={_MEGAPIXELS}')
    with serving(tmp_path / 'served', *flags) as server:
        visit(server.url, {'good large.jpg': found['good large.jpg']}, 0, 1)
        warm, peak, done = server.memory(), [0], threading.Event()

        def watch():
            while not done.wait(0.1):
                peak[0] = max(peak[0], server.memory())

        watcher = threading.Thread(target=watch)
        watcher.start()
        with ThreadPoolExecutor(_CLIENTS) as pool:
            wrong = list(pool.map(lambda seed: visit(server.url, found, seed), range(_CLIENTS)))
        done.set()
        watcher.join()
        print(f'memory: {warm / 1e6:.0f} MB, then at most {peak[0] / 1e6:.0f} MB')
        assert wrong == [[]] * _CLIENTS
        assert peak[0] < 1.5e9 + 20 * _MEGAPIXELS * 1e6
        assert peak[0] - warm < 300e6

        (path,) = post(server.url, '../../../../escaped.png', b'x')
        assert Path(path).is_relative_to(server.folder)
        assert list(tmp_path.rglob('escaped.png')) == [Path(path)]
        for stolen in ('/etc/passwd', f'{server.folder}/../run/config.json', str(run)):
            one = connection(server.url)
            one.request('GET', f'/gradio_api/file={stolen}')
            assert one.getresponse().status in (403, 404)
        assert visit(server.url, {'good.png': found['good.png']}, 99, 1) == []
