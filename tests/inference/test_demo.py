"""The demonstration page of docs/demo/ in Chromium, served as the docs say, without other hosts."""

import functools
import json
import shutil
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data
from skimage.color import lab2rgb, rgb2lab

DEMO = Path(__file__).parents[2] / 'docs/demo'
RUNTIME = 'node_modules/onnxruntime-web'
NAMES = ('index.html', 'page.js', 'colorize.js', 'lab.js')

needs_node = pytest.mark.skipif(shutil.which('node') is None, reason='there is no node')


@pytest.fixture(scope='module')
def model():
    """An ONNX file with the inputs and outputs of an export, which gives all pixels one colour."""
    onnx = pytest.importorskip('onnx', reason='needs the extra [export]')
    text = """<ir_version: 9, opset_import: ["" : 17]>
    one_colour (float[B, H, W, 1] condition) => (float[B, H, W, 2] ab)
    <float[2] colour = {20, 40}>
    { zero = Sub(condition, condition)  ab = Add(zero, colour) }"""
    return onnx.parser.parse_model(text).SerializeToString()


@pytest.fixture(scope='module')
def served(tmp_path_factory, model):
    if not (DEMO / RUNTIME).is_dir():
        pytest.skip('docs/demo/node_modules has no onnxruntime-web: `npm install` there')
    folder = tmp_path_factory.mktemp('demo')
    for name in NAMES:
        shutil.copy(DEMO / name, folder)
    (folder / 'node_modules').symlink_to(DEMO / 'node_modules')
    (folder / 'colorizer.onnx').write_bytes(model)
    handler = functools.partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}/'
        server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope='module')
def browser():
    playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
    if shutil.which('chromium') is None:
        pytest.skip('there is no chromium')
    with playwright.sync_playwright() as started:
        path, options = shutil.which('chromium'), ['--no-sandbox']
        one = started.chromium.launch(executable_path=path, args=options)
        yield one
        one.close()


@pytest.fixture
def page(browser, served):
    """The page with its network loaded, and the addresses that it asks for."""
    one = browser.new_page(viewport={'width': 900, 'height': 900})
    asked, errors = [], []
    one.on('request', lambda request: asked.append(request.url))
    one.on('pageerror', lambda error: errors.append(str(error)))
    one.goto(served)
    one.get_by_text('Ready.').wait_for()
    yield one
    assert errors == []
    assert all(url.startswith((served, 'data:', 'blob:')) for url in asked), asked
    one.close()


@pytest.mark.slow
def test_a_photograph_is_colorized_compared_and_downloaded_without_another_host(page, tmp_path):
    gray = np.dstack([data.camera()[:301, :403]] * 3)
    Image.fromarray(gray).save(tmp_path / 'mill.png')
    page.locator('#file').set_input_files(tmp_path / 'mill.png')
    page.get_by_text('mill.png: 403 × 301 px').wait_for()

    edge = 'getComputedStyle(document.getElementById("after")).clipPath'
    page.locator('#line').fill('25')
    assert page.evaluate(edge) == 'inset(0px 0px 0px 25%)'

    with page.expect_download() as waiting:
        page.get_by_text('Download').click()
    assert waiting.value.suggested_filename == 'mill-colorized.png'
    result = np.asarray(Image.open(waiting.value.path()).convert('RGB'))
    lab = rgb2lab(gray)
    lab[..., 1:] = 20, 40
    np.testing.assert_allclose(result, lab2rgb(lab) * 255, atol=0.51)


@pytest.mark.slow
def test_a_file_that_is_no_image_is_named_and_the_page_goes_on(page, tmp_path):
    (tmp_path / 'letter.png').write_text('Dear all')
    page.locator('#file').set_input_files(tmp_path / 'letter.png')
    page.get_by_text('letter.png is not an image').wait_for()
    Image.fromarray(data.camera()[:50, :50]).save(tmp_path / 'mill.png')
    page.locator('#file').set_input_files(tmp_path / 'mill.png')
    page.get_by_text('mill.png: 50 × 50 px').wait_for()
    assert not page.get_by_text('is not an image').is_visible()


def in_node(program):
    """What a module beside lab.js prints, as JSON."""
    command = ['node', '--input-type=module', '-e', program]
    done = subprocess.run(command, cwd=DEMO, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


@needs_node
def test_lab_and_rgb_of_the_page_are_those_of_scikit_image():
    rgb = np.random.default_rng(0).integers(0, 256, (200, 3), dtype=np.uint8)
    rgb[0], rgb[1] = 0, 255
    lab = rgb2lab(rgb / 255)
    lab[::2, 1:] *= 2  # some outside the gamut
    found = in_node(f"""
        import {{ lightness, toLab, toRgb }} from './lab.js';
        const rgb = {rgb.tolist()}, lab = {lab.tolist()};
        const back = new Uint8ClampedArray(3 * lab.length);
        lab.forEach((colour, i) => toRgb(...colour, back, 3 * i));
        console.log(JSON.stringify({{
            lab: rgb.map((colour) => toLab(...colour)),
            lightness: rgb.map((colour) => lightness(...colour)),
            rgb: Array.from(back),
        }}));
    """)
    np.testing.assert_allclose(found['lab'], rgb2lab(rgb / 255), atol=2e-3)
    np.testing.assert_allclose(found['lightness'], rgb2lab(rgb / 255)[:, 0], atol=1e-3)
    expected = lab2rgb(lab) * 255
    assert np.abs(np.reshape(found['rgb'], (-1, 3)) - expected).max() < 0.51


@needs_node
def test_the_network_sees_the_aspect_ratio_in_sides_that_it_takes():
    sizes = [[256, 256], [4000, 3000], [3000, 4000], [10, 10], [20000, 30], [1, 5000]]
    found = in_node(f"""
        import {{ inputSize }} from './colorize.js';
        console.log(JSON.stringify({sizes}.map((size) => inputSize(...size))));
    """)
    assert found == [[256, 256], [288, 224], [224, 288], [256, 256], [1024, 64], [64, 1024]]


# What page.js needs of a browser. A photograph is "colorized" by a function of the test.
BROWSER = """
const elements = {};
const element = () => ({
    handlers: {}, classList: { toggle() {} }, style: { setProperty() {} }, hidden: true, href: '',
    addEventListener(kind, handler) { this.handlers[kind] = handler; },
    getContext: () => ({ drawImage() {}, getImageData: () => ({}), putImageData() {} }),
    toBlob(done) { done(globalThis.blob); },
});
globalThis.document = {
    getElementById: (id) => (elements[id] ??= element()),
    addEventListener() {},
};
globalThis.fetch = async () => new Response('network');
globalThis.createImageBitmap = async (file) => {
    if (file.broken) { throw new Error('no image'); }
    return { width: 4, height: 3, close() {} };
};
globalThis.blob = new Blob(['png']);
await import('./page.js');
const states = [];
async function open(name, broken = false) {
    const [file, save, status] = ['file', 'save', 'status'].map(document.getElementById);
    await file.handlers.change({ target: { files: [{ name, broken }] } });
    do { await new Promise((resolve) => setTimeout(resolve, 1)); } while (file.disabled);
    states.push({ hidden: save.hidden, name: save.download ?? '', said: status.textContent });
}
"""


def in_page(folder, program):
    """The states of the page after each photograph that `program` opens."""
    runtime = folder / RUNTIME / 'dist'
    runtime.mkdir(parents=True)
    (runtime / 'ort.wasm.min.mjs').write_text(
        'export const env = { wasm: {} };'
        'export const InferenceSession = { create: async () => ({}) };'
    )
    shutil.copy(DEMO / 'page.js', folder)
    (folder / 'package.json').write_text('{"type": "module"}')
    (folder / 'colorize.js').write_text(
        'export async function colorize() { globalThis.colorizing?.(); }'
    )
    text = f'{BROWSER}{program}\nconsole.log(JSON.stringify(states));'
    (folder / 'program.js').write_text(text)
    done = subprocess.run(
        ['node', 'program.js'], cwd=folder, check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout)


@needs_node
def test_the_download_is_never_that_of_the_photograph_before(tmp_path):
    first, broken, failed = in_page(
        tmp_path,
        """
        await open('a.png');
        await open('letter.txt', true);  // a stays on the page
        globalThis.colorizing = () => { throw new Error('out of memory'); };
        await open('b.png');
        """,
    )
    assert (first['hidden'], first['name']) == (False, 'a-colorized.png')
    assert (broken['hidden'], broken['name']) == (False, 'a-colorized.png')
    assert 'letter.txt is not an image' in broken['said']
    assert (failed['hidden'], failed['said']) == (True, 'out of memory')


@needs_node
def test_a_result_that_the_browser_cannot_write_is_named(tmp_path):
    (state,) = in_page(tmp_path, "globalThis.blob = null; await open('a.png');")
    assert state['hidden']
    assert 'a.png is colorized, but this browser cannot make a PNG' in state['said']
