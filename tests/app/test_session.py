import asyncio
import dataclasses
import os
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage import color as skimage_color

from chromagan_jax.app import photograph as photograph_lib
from chromagan_jax.app import session as session_lib
from chromagan_jax.app.photograph import Network
from chromagan_jax.app.session import Session
from chromagan_jax.config.postprocess import OFF
from chromagan_jax.errors import UserError
from chromagan_jax.inference import layout
from chromagan_jax.inference.encode import DEFAULT, Encoding
from chromagan_jax.inference.hints import Hint

MARK = 'colours by chromagan_jax'


class Counted:
    """A network whose colours depend on the input and the hints; counts its inputs."""

    def __init__(self):
        self.inputs = 0

    def __call__(self, images, samples, points):
        self.inputs += len(images)
        rows = np.linspace(-30, 30, 32, dtype=np.float32)
        flat = np.stack(np.meshgrid(rows, rows), axis=-1)
        return np.stack([flat + 60 * planes[..., 2:].max() for planes in points])


@pytest.fixture
def network():
    return Network(Counted(), 32, 5 * 10**6, takes_hints=True)


@pytest.fixture
def session(tmp_path):
    return Session(tmp_path / 'session')


def call(function, *arguments):
    return function(*arguments)


def photo(path, width=300, height=200, **options):
    """A gray gradient with noise, in a folder of its own as uploads have."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(width).integers(0, 60, (height, width))
    gray = (np.linspace(40, 190, width)[None] + noise).astype(np.uint8)
    Image.fromarray(gray).save(path, **options)
    return path


def add(session, network, *uploads, post=OFF):
    return list(session_lib.add_all(session, uploads, network, post, call))


def test_the_network_runs_once_whatever_options_follow(tmp_path, session, network):
    add(session, network, photo(tmp_path / 'u' / 'a.png'))
    plain = photograph_lib.preview(session.shown, OFF).read_bytes()
    vivid = photograph_lib.preview(session.shown, dataclasses.replace(OFF, saturation=2.0))
    assert vivid.read_bytes() != plain
    assert photograph_lib.preview(session.shown, OFF).read_bytes() == plain
    assert network.predict.inputs == 1
    post = dataclasses.replace(OFF, saturation=0.5, contrast=1.0, white_balance='gray_world')
    session_lib.save(session, 'png', network, post, DEFAULT, call)
    assert network.predict.inputs == 1


def test_the_file_is_what_the_library_makes_at_full_resolution_with_metadata(
    tmp_path, session, network
):
    exif = Image.Exif()
    exif[0x010E] = 'Grandmother, 1931'
    upload = photo(tmp_path / 'u' / 'a.jpg', 1500, 900, exif=exif, dpi=(600, 600))
    add(session, network, upload)
    post = dataclasses.replace(OFF, saturation=1.5, denoise_after=2.0)
    path = session_lib.save(session, 'png', network, post, DEFAULT, call).path
    view = layout.prepare(cv2.imread(str(upload), cv2.IMREAD_GRAYSCALE), 32)
    wanted = layout.recolor(view, network.predict(view.inputs, [None], view.points), post)
    with Image.open(path) as result:
        assert path.name == 'a.png'
        assert result.getexif()[0x010E] == 'Grandmother, 1931'
        assert MARK in result.getexif()[0x0131]
        assert result.info['dpi'] == pytest.approx((600, 600), abs=0.1)
        np.testing.assert_array_equal(np.asarray(result), wanted)
    path = session_lib.save(session, 'jpg', network, post, Encoding(metadata=False), call).path
    with Image.open(path) as result:
        assert 0x010E not in result.getexif()
        assert MARK in result.getexif()[0x0131]  # that a machine made it is always said


def test_a_16_bit_scan_keeps_its_steps_of_lightness_if_16_bits_are_chosen(
    tmp_path, session, network
):
    steps = np.tile(np.arange(20000, 20000 + 40 * 300, 40, dtype=np.uint16), (200, 1))
    (tmp_path / 'u').mkdir()
    cv2.imwrite(str(tmp_path / 'u' / 'scan.png'), steps)
    add(session, network, tmp_path / 'u' / 'scan.png')
    for kind, depth, dtype in (
        ('png', 16, np.uint16),
        ('tif', 16, np.uint16),
        ('png', 8, np.uint8),
        ('jpg', 16, np.uint8),
    ):
        path = session_lib.save(session, kind, network, OFF, Encoding(depth=depth), call).path
        result = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert result.dtype == dtype
        lightness = skimage_color.rgb2lab(result[..., ::-1] / np.iinfo(dtype).max)[100, :, 0]
        assert (len(np.unique(lightness.round(3))) > 250) == (dtype == np.uint16)


def test_the_zip_has_each_photograph_under_a_name_of_its_own(tmp_path, session, network):
    uploads = [photo(tmp_path / str(i) / 'a.jpg', 60 + i, 50) for i in range(3)]
    add(session, network, *uploads)
    session.photographs[1].source.unlink()
    done = session_lib.save_all(session, 'jpg', network, OFF, DEFAULT, call)
    assert done.problems == (
        'a.jpg: The photograph is no longer there: reload the page and add it again.',
    )
    with zipfile.ZipFile(done.path) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        widths = [Image.open(archive.open(name)).width for name in names]
    assert names == ['a.jpg', 'a.jpg.2.jpg']
    assert widths == [60, 62]
    assert [path.name for path in done.path.parent.iterdir()] == ['colorized.zip']


def test_files_that_cannot_be_read_are_named_and_leave_nothing(tmp_path, session, network):
    good = photo(tmp_path / 'u' / 'good.png')
    cut = tmp_path / 'u' / 'cut.png'
    cut.write_bytes(good.read_bytes()[:400])
    text = tmp_path / 'u' / 'letter.jpg'
    text.write_text('Dear all')
    large = photo(tmp_path / 'u' / 'large.png', 3000, 2000)
    steps = add(session, network, cut, text, tmp_path / 'u' / 'gone.png', large, good)
    problems = steps[-1]
    assert [problem.split(':')[0] for problem in problems] == [
        *('cut.png', 'letter.jpg', 'gone.png', 'large.png'),
    ]
    assert 'not a JPEG, PNG' in problems[1]
    assert problems[2] == 'gone.png: the upload is no longer there: add it again.'
    assert all(problem.endswith('.') for problem in problems)
    assert [p.source.name for p in session.photographs] == ['good.png']
    assert len(list(session.folder.iterdir())) == 1


def test_many_uploads_show_the_first_new_one_and_have_a_limit(
    tmp_path, session, network, monkeypatch
):
    monkeypatch.setattr(session_lib, 'MAX_PHOTOGRAPHS', 3)
    uploads = [photo(tmp_path / 'u' / f'{i}.png', 40 + i, 40) for i in range(4)]
    add(session, network, uploads[0])
    steps = add(session, network, *uploads[1:])
    assert session.shown.width == 41
    assert steps[-1] == ('3.png: a page takes 3 photographs: download them, then reload it.',)


@pytest.mark.parametrize(
    ('name', 'kept'),
    [
        ('../../etc/passwd', 'passwd'),
        ('C:\\photos\\a.jpg', 'a.jpg'),
        ('.hidden.png', 'hidden.png'),
        ('a\n\x1b[31mb.png', 'a[31mb.png'),
        ('colors.npz', 'photograph.colors.npz'),
        ('..', 'photograph.'),
        ('x' * 400 + '.png', 'x' * 120 + '.png'),
    ],
)
def test_names_have_no_folders_and_no_control_characters(name, kept):
    assert photograph_lib.plain_name(name) == kept


def test_hints_and_denoising_of_the_photograph_run_the_network_again(tmp_path, session, network):
    add(session, network, photo(tmp_path / 'u' / 'a.png', 2560, 1290))
    hint = photograph_lib.hint_at(session.shown, 100, 50, 'rgb(200, 40, 60)')
    assert hint == Hint(201, 101, (200, 40, 60))  # a preview is half as large
    before = session_lib.save(session, 'jpg', network, OFF, DEFAULT, call).path.read_bytes()
    hinted = photograph_lib.colorize_again(session.shown, [hint], network, OFF)
    assert network.predict.inputs == 2
    session.replace(session.shown, hinted)
    path = session_lib.save(session, 'jpg', network, OFF, DEFAULT, call).path
    assert path.read_bytes() != before
    with Image.open(photograph_lib.draw_points(hinted)) as drawn:
        rgb = np.asarray(drawn)[50, 100]
    np.testing.assert_allclose(
        skimage_color.rgb2lab(rgb / 255),
        skimage_color.rgb2lab(np.array([200, 40, 60]) / 255),
        atol=8,
    )
    add(session, network, photo(tmp_path / 'u' / 'b.png', 90, 60))
    denoised = photograph_lib.colorize_again(
        session.shown, (), network, dataclasses.replace(OFF, denoise_before=8.0)
    )
    assert (network.predict.inputs, denoised.denoised, denoised.hints) == (4, 8.0, ())


@pytest.mark.parametrize('name', ['after.scan.jpg', 'points.x.jpg'])
def test_an_upload_that_is_named_as_a_preview_stays(tmp_path, session, network, name):
    add(session, network, photo(tmp_path / 'u' / name))
    source = session.shown.source
    previews = [photograph_lib.preview(session.shown, OFF)]
    previews.append(photograph_lib.draw_points(session.shown))
    for path in (source, *previews):
        os.utime(path, (time.time() - 31,) * 2)
    photograph_lib.preview(session.shown, OFF)
    photograph_lib.draw_points(session.shown)
    assert source.name == name
    assert [path.exists() for path in (source, *previews)] == [True, False, False]


def test_the_download_before_the_last_one_stays(tmp_path, session, network):
    add(session, network, photo(tmp_path / 'u' / 'a.png'))
    first, second, third = (
        session_lib.save(session, 'jpg', network, OFF, DEFAULT, call).path for _ in range(3)
    )
    assert [path.exists() for path in (first, second, third)] == [False, True, True]


def test_requests_of_a_visitor_wait_for_one_another(tmp_path, session, network):
    events = pytest.importorskip('chromagan_jax.app.events')
    add(session, network, photo(tmp_path / 'u' / 'a.png'))
    free = []

    def work(function, *arguments):
        with ThreadPoolExecutor(1) as pool:
            free.append(pool.submit(session.lock.acquire, blocking=False).result())
        return function(*arguments)

    page = SimpleNamespace(network=network, work=work)
    hint = photograph_lib.hint_at(session.shown, 100, 50, 'rgb(200, 40, 60)')
    events.update(page, session, OFF, lambda one: (*one.hints, hint))
    events.saved(page, session, 'png', DEFAULT, OFF, session_lib.save_all)
    assert session.shown.hints == (hint,)
    assert free == [False] * 3  # new colours, their preview, and the download


@pytest.mark.parametrize(
    ('path', 'free', 'answer'),
    [('/gradio_api/upload', 0, 507), ('/gradio_api/upload', 10**12, 200), ('/', 0, 200)],
)
def test_uploads_are_refused_while_the_disk_is_nearly_full(
    tmp_path, monkeypatch, path, free, answer
):
    page = pytest.importorskip('chromagan_jax.app.page')
    monkeypatch.setattr(page.shutil, 'disk_usage', lambda folder: SimpleNamespace(free=free))
    statuses = []

    async def app(scope, receive, send):
        await send({'type': 'http.response.start', 'status': 200})

    async def send(message):
        if message['type'] == 'http.response.start':
            statuses.append(message['status'])

    asyncio.run(page._refusing(app, tmp_path)({'type': 'http', 'path': path}, None, send))
    assert statuses == [answer]


def test_a_point_outside_and_a_wrong_colour_are_refused(tmp_path, session, network):
    add(session, network, photo(tmp_path / 'u' / 'a.png'))
    with pytest.raises(UserError, match='is not a hint'):
        photograph_lib.hint_at(session.shown, 1, 1, 'no colour')
    outside = photograph_lib.hint_at(session.shown, 400, 1, '#fff')
    with pytest.raises(UserError, match='lies outside'):
        photograph_lib.colorize_again(session.shown, [outside], network, OFF)


def test_the_end_of_a_session_removes_its_files_and_its_uploads_only(tmp_path, network):
    uploads = tmp_path / 'uploads'
    mine = photo(uploads / '1' / 'a.png')
    again = photo(uploads / '2' / 'b.png')
    first, second = Session(tmp_path / 's1'), Session(tmp_path / 's2')
    add(first, network, mine, again)
    photo(uploads / 'new' / 'b.png').replace(again)  # another visitor uploads the same
    add(second, network, again)
    session_lib.remove(first.folder, uploads)
    assert not first.folder.exists()
    assert (mine.exists(), again.exists()) == (False, True)
    session_lib.save(second, 'same', network, OFF, DEFAULT, call)
    assert second.shown.source.exists()


def test_sessions_that_were_not_used_are_removed_after_hours(tmp_path, session, network):
    add(session, network, photo(tmp_path / 'u' / 'a.png'))
    other = Session(tmp_path / 'other', used=time.monotonic() - 7 * 3600)
    other.folder.mkdir()
    sessions = {'a': session, 'b': other}
    session_lib.remove_idle(sessions, tmp_path / 'u')
    assert list(sessions) == ['a']
    assert (session.folder.exists(), other.folder.exists()) == (True, False)


def test_an_unknown_format_is_refused(tmp_path, session, network):
    add(session, network, photo(tmp_path / 'u' / 'a.png'))
    with pytest.raises(UserError, match='no file format'):
        session_lib.save(session, '../../x', network, OFF, DEFAULT, call)
