"""The page in Chromium."""

import io
import shutil
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from skimage import data

from chromagan_jax.app.photograph import Network
from chromagan_jax.config.postprocess import OFF
from tests.app.server import free_port, serving

playwright = pytest.importorskip('playwright.sync_api')
pytest.importorskip('gradio')

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(shutil.which('chromium') is None, reason='there is no chromium'),
]


@pytest.fixture(scope='module')
def browser():
    with playwright.sync_playwright() as started:
        one = started.chromium.launch(
            executable_path=shutil.which('chromium'), args=['--no-sandbox']
        )
        yield one
        one.close()


def photograph(folder, name='grandmother.jpg'):
    """A photograph of 1800 x 1350 px with a description."""
    exif = Image.Exif()
    exif[0x010E] = 'Grandmother, 1931'
    path = folder / name
    Image.fromarray(data.astronaut()).convert('L').resize((1800, 1350)).save(path, exif=exif)
    return path


def opened(browser, url):
    """The page, and the addresses that it asks for."""
    page = browser.new_page(viewport={'width': 1300, 'height': 950})
    asked = []
    page.on('request', lambda request: asked.append(request.url))
    page.goto(url)
    page.get_by_text('Colorize old photographs').wait_for()
    return page, asked


def upload(page, *paths):
    page.locator('input[type=file]').first.set_input_files([str(path) for path in paths])
    page.get_by_text(f'{paths[0].name} ·').wait_for()


def downloaded(page, button):
    with page.expect_download() as waiting:
        page.get_by_role('button', name=button, exact=True).click()
    return waiting.value.suggested_filename, waiting.value.path()


def after(page):
    """The address of the picture that shows the result."""
    return page.locator('img[src*="after."]').first.get_attribute('src')


def test_a_visitor_colorizes_adjusts_and_downloads(browser, tmp_path):
    with serving(tmp_path / 'served') as server:
        page, asked = opened(browser, server.url)
        upload(page, photograph(tmp_path))
        first = after(page)
        name, path = downloaded(page, 'Download')
        assert name == 'grandmother.png'
        with Image.open(path) as image:
            assert image.size == (1800, 1350)
            assert image.getexif()[0x010E] == 'Grandmother, 1931'
            plain = np.asarray(image).astype(int)
        assert np.ptp(plain, axis=2).mean() > 2  # in colour

        page.get_by_label('number input for Saturation').fill('0')
        page.get_by_label('number input for Saturation').press('Enter')
        page.wait_for_function(
            f'!document.querySelector("img[src*=\'{first.rsplit("/", 1)[1]}\']")'
        )
        _, path = downloaded(page, 'Download')
        assert np.ptp(np.asarray(Image.open(path)).astype(int), axis=2).max() <= 1
        page.get_by_role('button', name='Reset the adjustments').click()

        letter = tmp_path / 'letter.jpg'
        letter.write_text('Dear all')
        upload(page, photograph(tmp_path, 'a second.jpg'), letter)
        page.get_by_role('alert').get_by_text('letter.jpg: not a JPEG').wait_for()
        name, path = downloaded(page, 'Download all (zip)')
        assert name == 'colorized.zip'
        with zipfile.ZipFile(path) as archive:
            assert archive.namelist() == ['grandmother.png', 'a second.png']
            sizes = [Image.open(io.BytesIO(archive.read(n))).size for n in archive.namelist()]
        assert sizes == [(1800, 1350)] * 2

        assert {address.split('/')[2] for address in asked if address.startswith('http')} == {
            server.url.split('/')[2]
        }
        assert server.files()
        page.close()
        other, _ = opened(browser, server.url)  # keeps the server busy until it has noticed
        for _ in range(100):
            if not [path for path in server.files() if path.stat().st_size]:
                break
            other.wait_for_timeout(200)
        assert [path for path in server.files() if path.stat().st_size] == []
        other.close()


@pytest.fixture
def hinted(tmp_path, monkeypatch):
    """Serves a page in this process whose network gives all pixels the mean colour of the hints."""
    monkeypatch.setenv('GRADIO_TEMP_DIR', str(tmp_path / 'served'))
    from chromagan_jax.app import page as page_lib
    from chromagan_jax.app.events import Page

    def predict(images, samples, points):
        means = [p[..., :2].sum((0, 1)) / max(p[..., 2].sum(), 1) * 110 for p in points]
        return np.stack([np.broadcast_to(m, (64, 64, 2)).astype(np.float32) for m in means])

    welcome = str(photograph(tmp_path, 'welcome.jpg'))
    port = free_port()
    with ThreadPoolExecutor(1) as worker:
        network = Network(predict, 64, 10**7, takes_hints=True)
        page = Page(network, OFF, tmp_path / 'served', [], (welcome, welcome), worker, {})
        (tmp_path / 'served').mkdir()
        monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))  # so that `welcome` is served
        blocks = page_lib.build(page, 'a stand-in').queue()
        page_lib.launch(blocks, '127.0.0.1', port, tmp_path / 'served')
        yield f'http://127.0.0.1:{port}/'
        blocks.close(verbose=False)


def test_a_visitor_chooses_colours_where_the_weights_take_them(browser, hinted, tmp_path):
    page, _ = opened(browser, hinted)
    upload(page, photograph(tmp_path))
    assert spread(downloaded(page, 'Download')[1]) <= 1  # gray without hints
    first = after(page)
    page.locator('img[src*="points."]').click(position={'x': 60, 'y': 60})
    gone = f'!document.querySelector("img[src*=\'{first.rsplit("/", 1)[1]}\']")'
    page.wait_for_function(gone)
    assert spread(downloaded(page, 'Download')[1]) > 30
    first = after(page)
    page.get_by_role('button', name='Remove all points').click()
    page.wait_for_function(gone.replace(gone.split("'")[1], first.rsplit('/', 1)[1]))
    assert spread(downloaded(page, 'Download')[1]) <= 1
    page.close()


def test_a_phone_shows_the_result_above_the_adjustments_and_needs_no_scrolling_sideways(
    browser, hinted, tmp_path
):
    page = browser.new_page(viewport={'width': 390, 'height': 844})
    page.goto(hinted)
    upload(page, photograph(tmp_path))
    assert page.evaluate('document.documentElement.scrollWidth') <= 390
    tops = [page.locator(f'#{part}').bounding_box()['y'] for part in ('add', 'result', 'adjust')]
    assert tops == sorted(set(tops))
    assert page.locator('#compare').bounding_box()['height'] < 390
    page.close()


def spread(path):
    """The largest difference of R, G and B in a pixel."""
    return np.ptp(np.asarray(Image.open(path)).astype(int), axis=2).max()
