"""Colour versions at full resolution: what they keep of the photograph, and the command."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
from PIL import Image, ImageCms
from skimage import data
from skimage.color import rgb2lab
from skimage.transform import resize

import chromagan_jax.colorize as colorize
from chromagan_jax import config as config_lib
from chromagan_jax import sharding
from chromagan_jax.color import encode
from chromagan_jax.config.postprocess import PostProcess
from chromagan_jax.data import decode
from chromagan_jax.errors import UserError
from chromagan_jax.gan import checkpoints
from chromagan_jax.gan import state as state_lib
from chromagan_jax.gan.model import make_model, predict
from chromagan_jax.gan.workdir import read_run
from chromagan_jax.inference import encode as encode_lib
from chromagan_jax.inference import layout, predictor
from chromagan_jax.inference import output as output_lib
from chromagan_jax.inference import photos as photo_lib
from chromagan_jax.utils import files
from configs import base

ROOT = Path(__file__).parents[2]
SIZE = 16
# Of L*, where every channel is off by half a level: below black's knee 0.14, more above it.
ROUNDING = 0.35


def tiny_config(space='lab'):
    config = base.get_config('tiny')
    config.color_space = space
    config.generator = config.generator.clone(depth=2, norm='instance')
    config.discriminator = config.discriminator.clone(layers=1)
    config.data.size = SIZE
    return config


def make_run(workdir, space='lab', dropout=0.0, **post):
    """A run of random weights, large enough for colours that sRGB does not have."""
    config, mesh = tiny_config(space), sharding.make_mesh(devices=jax.devices()[:1])
    if dropout:
        config.generator = config.generator.clone(depth=3, dropout=dropout)
    config.colorize = PostProcess(**post)
    model = make_model(config, mesh)
    state = state_lib.create_state(model, config, mesh)
    params = dict(state.ema['params'])
    params['out'] = jax.tree.map(lambda leaf: 40 * leaf, params['out'])
    state = state.replace(ema={**state.ema, 'params': params})
    manager = checkpoints.open_checkpoints(workdir, 1)
    with checkpoints.finishing(manager):
        checkpoints.save(manager, 0, state)
    described = {
        'schema_version': config_lib.SCHEMA_VERSION,
        'config': config_lib.to_dict(config),
    }
    files.write_json(workdir / 'config.json', described)
    return model.generator, state_lib.generator_variables(state)


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp('run')
    make_run(folder)
    return folder


@pytest.fixture(scope='module')
def network(workdir):
    run = checkpoints.load(workdir, 'newest', sharding.make_mesh(devices=jax.devices()[:1]))
    return run.model.generator, state_lib.generator_variables(run.state)


@pytest.fixture(scope='module')
def colored(network):
    """`colorize` with the tests' network."""
    return lambda *photographs: predictor.colorize(photographs, *network, SIZE)


def assert_as_function(found, expected):
    """The command compiles the quick program for few photographs, the function the fast one."""
    np.testing.assert_allclose(found.astype(int), expected.astype(int), atol=1)


@pytest.fixture
def call(workdir, tmp_path, capsys):
    """The command in this process: exit code and what it said."""

    def run(*arguments, output='out'):
        output = tmp_path / output
        code = colorize.main(
            ['', f'--workdir={workdir}', f'--output={output}', *map(str, arguments)]
        )
        return code, capsys.readouterr().err

    return run


def photograph(height=61, width=47):
    """A colour photograph with an odd size."""
    return np.ascontiguousarray(data.astronaut()[:height, 180 : 180 + width])


def chroma(rgb):
    return np.hypot(*rgb2lab(rgb)[..., 1:].transpose(2, 0, 1))


def save(pixels, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def save_result(source, path):
    """A result of earlier, with its note."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_lib.encode(photograph(), path, source))
    return path


def read(path):
    return np.asarray(Image.open(path))


# Arrays


@pytest.mark.parametrize('shape', [(61, 47), (16, 16), (1, 1), (1, 300), (300, 2), (5, 9)])
def test_lightness_is_that_of_the_photograph_at_every_size(shape, colored):
    rgb = resize(photograph(), shape, order=1, preserve_range=True).astype(np.uint8)
    (result,) = colored(rgb)
    assert result.shape == (*shape, 3)
    assert result.dtype == np.uint8
    assert np.abs(rgb2lab(result) - rgb2lab(rgb))[..., 0].max() < ROUNDING
    assert np.ptp(result.astype(int), axis=-1).max() > 5  # it is not merely the gray picture


def test_lightness_survives_colours_that_srgb_does_not_have():
    ramp = np.tile(np.arange(256, dtype=np.uint8), (3, 1))
    small = photo_lib.shrink(ramp, SIZE)
    for ab in ((110, 110), (-110, 110), (110, -110), (-110, -110), (0, 0)):
        result = photo_lib.recolor(ramp, small, np.full((SIZE, SIZE, 2), ab, np.float32))
        gray = rgb2lab(np.stack([ramp] * 3, axis=-1))
        assert np.abs(rgb2lab(result)[..., 0] - gray[..., 0]).max() < ROUNDING
        if any(ab):
            assert chroma(result)[:, 60:200].min() > 20
        else:
            assert (result == ramp[..., None]).all()


def test_a_gray_file_is_colorized_as_the_colour_photograph_of_its_gray(colored):
    gray = np.asarray(Image.fromarray(photograph()).convert('L'))
    alone, thrice = colored(gray, np.stack([gray] * 3, axis=-1))
    np.testing.assert_array_equal(alone, thrice)
    assert np.abs(rgb2lab(alone)[..., 0] - rgb2lab(np.stack([gray] * 3, -1))[..., 0]).max() < (
        ROUNDING
    )


def test_16_bits_are_used_for_lightness(colored):
    deep = np.linspace(20_000, 20_600, 40 * 50).round().astype(np.uint16).reshape(40, 50)
    (result,) = colored(deep)
    exact = 116 * np.cbrt(((deep / 65535 + 0.055) / 1.055) ** 2.4) - 16
    # Less than the half level that an 8-bit gray would already be off by before it is coloured.
    error = np.abs(rgb2lab(result)[..., 0] - exact)
    assert error.max() < ROUNDING
    assert len(np.unique(result.reshape(-1, 3), axis=0)) > 4


def test_16_bits_of_a_file_are_used(call, colored, tmp_path):
    deep = np.linspace(20_000, 20_600, 40 * 50).round().astype(np.uint16).reshape(40, 50)
    assert call(save(deep, tmp_path / 'a.png'))[0] == 0
    result = read(tmp_path / 'out/a.png')
    np.testing.assert_array_equal(result, colored(deep)[0])
    rounded = np.rint(deep / 257).astype(np.uint8)
    assert not np.array_equal(result, colored(rounded)[0])


def test_alpha_is_kept_and_what_it_hides_does_not_change_the_colours(colored):
    rgba = np.dstack([photograph(), np.full((61, 47), 255, np.uint8)])
    rgba[:, :20, 3] = 0
    rgba[30:, 20:, 3] = 100
    hidden = rgba.copy()
    hidden[:, :20, :3] = 7
    first, second = colored(rgba, hidden)
    np.testing.assert_array_equal(first[..., 3], rgba[..., 3])
    np.testing.assert_array_equal(first[:, 20:], second[:, 20:])


def test_on_white_is_what_pillow_composites():
    rgba = np.random.default_rng(0).integers(0, 256, (50, 60, 4), dtype=np.uint8)
    image = Image.fromarray(rgba)
    white = Image.new('RGB', image.size, 'white')
    expected = Image.composite(image.convert('RGB'), white, image.getchannel('A'))
    difference = photo_lib.on_white(rgba).astype(int) - np.asarray(expected)
    assert np.abs(difference).max() <= 1


def test_what_becomes_of_one_does_not_depend_on_the_others(colored):
    several = [photograph(61, 47), photograph(20, 90), photograph()[..., 0], photograph(200, 200)]
    together = colored(*several)
    for pixels, result in zip(several, together, strict=True):
        np.testing.assert_array_equal(colored(pixels)[0], result)


def test_batches_padded_ones_too_change_nothing_but_rounding(network, colored):
    several = [photograph(61, 47), photograph(20, 90), photograph()[..., 0], photograph(200, 200)]
    batched = predictor.colorize(several, *network, SIZE, batch_size=3)
    for result, expected in zip(batched, colored(*several), strict=True):
        difference = np.abs(result.astype(int) - expected)
        assert difference.max() <= 1
        assert difference.mean() < 1e-3


def test_the_network_runs_at_its_size_and_its_ab_is_what_is_seen(network):
    """With a photograph as large as the network's input nothing is interpolated."""
    generator, variables = network
    rgb = photo_lib.shrink(data.astronaut(), SIZE)
    (result,) = predictor.colorize([rgb], generator, variables, SIZE)
    condition = encode(rgb[None], 'lab')[0]
    ab = np.asarray(predict(generator, variables, condition))[0] * 110
    expected = np.dstack([rgb2lab(rgb)[..., 0], ab])
    inside = np.abs(rgb2lab(result) - expected).max(axis=-1) < 1.5  # the rest left the gamut
    assert inside.mean() > 0.5
    # Of these the chroma shrank, to nothing in black and white, and the hue stayed.
    assert np.sum(rgb2lab(result)[..., 1:] * ab, axis=-1).min() > -1


def test_an_rgb_generator_gives_its_ab_alone(tmp_path):
    generator, variables = make_run(tmp_path, 'rgb')
    rgb = photo_lib.shrink(data.astronaut(), SIZE)
    (result,) = predictor.colorize([rgb], generator, variables, SIZE)
    assert np.abs(rgb2lab(result) - rgb2lab(rgb))[..., 0].max() < ROUNDING
    condition = encode(rgb[None], 'rgb')[0]
    target = np.asarray(predict(generator, variables, condition))[0]
    ab, found = rgb2lab(np.clip(target, 0, 1))[..., 1:], rgb2lab(result)[..., 1:]
    assert (np.abs(found - ab).max(axis=-1) < 2).mean() > 0.3
    assert np.corrcoef(found.ravel(), ab.ravel())[0, 1] > 0.8


def test_a_size_that_the_network_does_not_take_is_its_own_sentence(network):
    with pytest.raises(UserError, match='takes sides that 4 divides, not 18 x 18 px'):
        predictor.colorize([photograph()], *network, 18)


def bleeding(n=512, size=64):
    """ab error within 8 px of edges that L* shows too, of nearest, bicubic and ours."""
    y, x = np.mgrid[:n, :n] / n
    inside = (x + 0.3 * y > 0.62) ^ ((x - 0.3) ** 2 + (y - 0.6) ** 2 < 0.03)
    rng = np.random.default_rng(0)
    light = np.clip(90 + 80 * inside + rng.normal(0, 3, (n, n)), 0, 255).astype(np.uint8)
    ab = np.where(inside[..., None], [10.0, -10.0], [-10.0, 12.0])
    small = photo_lib.shrink(light, size)
    small_ab = ab.reshape(size, n // size, size, n // size, 2).mean(axis=(1, 3))
    ours = rgb2lab(photo_lib.recolor(light, small, small_ab.astype(np.float32)))[..., 1:]
    edge = np.zeros((n, n), bool)
    for axis in (0, 1):
        for shift in range(-8, 9):
            edge |= np.roll(inside, shift, axis) != inside
    edge[:8] = edge[-8:] = edge[:, :8] = edge[:, -8:] = False  # np.roll wraps
    found = {
        'nearest': resize(small_ab, (n, n), order=0),
        'bicubic': resize(small_ab, (n, n), order=3),
        'ours': ours,
    }
    return {name: np.abs(value - ab)[edge].mean() for name, value in found.items()}


def test_colours_end_at_the_edges_of_the_photograph():
    error = bleeding()
    assert error['ours'] < 0.14 * error['nearest']  # 0.15 without the bounds of the neighbourhood
    assert error['ours'] < 0.14 * error['bicubic']


def test_ab_is_upsampled_better_than_by_nearest_and_bicubic_near_edges_of_photographs():
    gains = []
    for rgb in (data.astronaut(), data.coffee(), data.chelsea()):
        small = photo_lib.shrink(rgb, 64)
        lab = rgb2lab(rgb)
        ours = rgb2lab(photo_lib.recolor(rgb, small, rgb2lab(small)[..., 1:].astype(np.float32)))
        steep = np.hypot(*np.gradient(lab[..., 0]))
        edge = steep > np.quantile(steep, 0.9)
        errors = [np.abs(ours - lab)[..., 1:][edge].mean()]
        for order in (0, 3):
            plain = resize(rgb2lab(small)[..., 1:], rgb.shape[:2], order=order)
            errors.append(np.abs(plain - lab[..., 1:])[edge].mean())
        gains.append([errors[0] / errors[1], errors[0] / errors[2]])
    assert np.max(gains) < 1
    assert np.mean(gains, axis=0)[0] < 0.88
    assert np.mean(gains, axis=0)[1] < 0.95


@pytest.mark.parametrize(('low', 'high'), [(16, 16), (16, 47), (16, 5), (16, 1), (3, 400)])
def test_colours_are_enlarged_bicubically_and_shrunk_by_areas(low, high):
    tall = np.random.default_rng(0).normal(size=(low, 7)).astype(np.float32)
    method = cv2.INTER_AREA if high < low else cv2.INTER_CUBIC
    expected = cv2.resize(tall, (7, high), interpolation=method)
    np.testing.assert_allclose(photo_lib._resized(tall, 7, high), expected, atol=1e-6)
    np.testing.assert_allclose(
        photo_lib._resized(np.ascontiguousarray(tall.T), high, 7), expected.T, atol=1e-5
    )


def test_strips_leave_no_trace(monkeypatch):
    rgb = photograph(200, 150)
    small = photo_lib.shrink(rgb, SIZE)
    ab = (encode(small, 'lab')[1] * 110).astype(np.float32)
    whole = photo_lib.recolor(rgb, small, ab)
    for pixels in (1, 1000, 10**6):
        monkeypatch.setattr(photo_lib, '_STRIP', pixels)
        np.testing.assert_array_equal(photo_lib.recolor(rgb, small, ab), whole)


# Files


def test_a_folder_is_mirrored_and_each_file_is_what_the_function_makes_of_it(
    call, colored, tmp_path
):
    photos = tmp_path / 'photos'
    rgb = photograph()
    save(rgb, photos / 'a.png')
    save(rgb[:40, :, 0], photos / 'deep/er/b.tif')
    save(rgb[:, ::-1], photos / 'deep/c.d.bmp')
    code, said = call(photos, save(rgb[::-1], tmp_path / 'single.webp', lossless=True))
    assert (code, said.splitlines()[-1]) == (0, '4 colorized, 0 failed, 0 skipped')
    out = tmp_path / 'out'
    expected = dict(
        zip(
            ('a.png', 'deep/er/b.png', 'deep/c.d.png', 'single.png'),
            colored(rgb, rgb[:40, :, 0], rgb[:, ::-1], rgb[::-1]),
            strict=True,
        )
    )
    written = {str(p.relative_to(out)) for p in out.rglob('*') if p.is_file()}
    assert written == set(expected)
    for name, pixels in expected.items():
        assert_as_function(read(out / name), pixels)


def test_a_file_has_the_same_bytes_alone_and_among_others(call, tmp_path):
    photos = [save(photograph(40 + i, 50), tmp_path / f'photos/{i:02}.png') for i in range(11)]
    assert call(tmp_path / 'photos')[0] == 0
    assert call(photos[9], output='alone')[0] == 0
    alone, among = (tmp_path / folder / '09.png' for folder in ('alone', 'out'))
    assert alone.read_bytes() == among.read_bytes()


def test_orientation_is_applied(call, colored, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    rgb = photograph()
    save(rgb, tmp_path / 'turned.png', exif=exif)
    assert call(tmp_path / 'turned.png')[0] == 0
    (expected,) = colored(np.rot90(rgb, -1))
    assert_as_function(read(tmp_path / 'out/turned.png'), expected)


@pytest.mark.parametrize('mode', ['LA', 'RGBA', 'P'])
def test_png_keeps_alpha_and_jpeg_puts_it_on_white_and_says_so(mode, call, tmp_path):
    rgba = np.dstack([photograph(), np.full((61, 47), 255, np.uint8)])
    rgba[:30, :, 3] = 0
    image = Image.fromarray(rgba)
    if mode == 'P':
        image = image.quantize(64)
    image.convert(mode).save(tmp_path / 'a.png')
    alpha = np.asarray(Image.open(tmp_path / 'a.png').convert('RGBA'))[..., 3]
    assert alpha.min() == 0
    code, said = call(tmp_path / 'a.png')
    assert code == 0
    assert 'transparen' not in said
    result = read(tmp_path / 'out/a.png')
    np.testing.assert_array_equal(result[..., 3], alpha)
    code, said = call(tmp_path / 'a.png', '--format=jpg')
    assert code == 0
    assert 'a.png: JPEG has no transparency: its transparent parts become white\n' in said
    result = Image.open(tmp_path / 'out/a.jpg')
    assert (result.format, result.mode) == ('JPEG', 'RGB')
    assert np.asarray(result)[:20].min() > 245


def test_an_existing_file_is_skipped_unless_it_shall_be_overwritten(call, tmp_path):
    photos = [save(photograph(), tmp_path / f'{name}.png') for name in 'ab']
    there = save_result(photos[0], tmp_path / 'out/a.png')
    before = there.read_bytes()
    code, said = call(*photos)
    assert code == 0
    assert said.endswith(
        '1 colorized, 0 failed, 1 skipped (there already; --overwrite replaces them)\n'
    )
    assert there.read_bytes() == before
    assert read(tmp_path / 'out/b.png').shape == (61, 47, 3)
    assert call(*photos)[1] == (
        '0 colorized, 0 failed, 2 skipped (there already; --overwrite replaces them)\n'
    )
    code, said = call(*photos, '--overwrite')
    assert said.endswith('2 colorized, 0 failed, 0 skipped\n')
    assert there.read_bytes() != before


def test_a_file_of_the_name_that_is_no_result_fails_the_photograph_and_stays(call, tmp_path):
    scan, done = (save(photograph(), tmp_path / f'{name}.jpg') for name in ('scan', 'done'))
    own = save(photograph(), tmp_path / 'scan.png')  # as large: beside the photograph
    before = own.read_bytes()
    for flags in ([], ['--overwrite']):
        code, said = call(scan, done, *flags, output='.')
        assert code == 1
        assert f'{own} is there and is not a result of this program, so it stays: move' in said
        assert said.endswith('1 colorized, 1 failed, 0 skipped\n')
        assert own.read_bytes() == before
    assert '1 failed, 1 skipped' in call(scan, done, output='.')[1]


def test_an_empty_file_of_the_name_is_made_anew(call, tmp_path):
    path = save(photograph(), tmp_path / 'a.png')
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/a.png').touch()
    assert call(path)[1].endswith('1 colorized, 0 failed, 0 skipped\n')
    assert read(tmp_path / 'out/a.png').shape == (61, 47, 3)


def test_a_link_to_itself_in_a_folder_fails_alone(call, tmp_path):
    save(photograph(), tmp_path / 'in/a.png')
    loop = tmp_path / 'in/b.jpg'
    loop.symlink_to('b.jpg')
    for state in ('1 colorized, 1 failed, 0 skipped', '0 colorized, 1 failed, 1 skipped'):
        code, said = call(tmp_path / 'in')
        assert code == 1
        assert f'{loop} failed: Too many levels of symbolic links\n' in said
        assert state in said
    save_result(tmp_path / 'in/a.png', tmp_path / 'out/b.png')  # and if its result is there
    code, said = call(tmp_path / 'in')
    assert (code, f'{loop} failed: Too many levels' in said) == (1, True)


def test_a_report_keeps_its_pairs_when_the_command_is_started_again(call, tmp_path):
    photos = [save(data.astronaut(), tmp_path / f'{name}.jpg') for name in 'ab']
    page = tmp_path / 'report.html'
    assert call(f'--report={page}', *photos)[0] == 0
    assert page.read_text().count('<figure>') == 2
    photos += [save(photograph(), tmp_path / 'c.png')]
    assert call(f'--report={page}', *photos)[1].endswith(
        '1 colorized, 0 failed, 2 skipped (there already; --overwrite replaces them)\n'
    )
    text = page.read_text()
    assert text.count('<figure>') == 3
    assert text.count('src="data:image/jpeg;base64,') == 6
    assert '<p>1 colorized, 2 there already.</p>' in text
    photos[0].write_bytes(b'')  # a photograph that cannot be read again has no pair
    (tmp_path / 'out/b.png').unlink()
    save_result(photos[1], tmp_path / 'out/b.png')
    save_result(photos[0], tmp_path / 'out/a.png')
    assert call(f'--report={page}', *photos)[0] == 0
    assert page.read_text().count('<figure>') == 2
    assert f'{photos[0]}: a result exists' in page.read_text()


def test_lines_that_nobody_reads_end_the_command_with_one_sentence(call, tmp_path, monkeypatch):
    photos = [save(photograph(height), tmp_path / f'{height}.png') for height in (30, 40)]
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, 'w') as stdout:  # its last flush must not fail either
        monkeypatch.setattr(sys, 'stdout', stdout)
        code, said = call('--json', *photos)
    assert code == 1
    assert said.splitlines()[-1] == (
        'chromagan_jax: Standard output cannot be written (Broken pipe), so the run ends: read '
        'all of its lines, or leave out --json; finished results are kept.'
    )
    assert (tmp_path / 'out/30.png').exists()


def test_a_result_of_another_photograph_with_the_name_is_neither_kept_silently_nor_lost(
    call, tmp_path
):
    mine = save(photograph(), tmp_path / 'mine/a.png')
    other = save(photograph(50, 70), tmp_path / 'other/a.png')
    assert call(mine)[0] == 0
    result = (tmp_path / 'out/a.png').read_bytes()
    code, said = call(other)
    assert (code, said.splitlines()[-1]) == (1, '0 colorized, 1 failed, 0 skipped')
    assert 'a.png was made of another file with this name' in said
    assert (tmp_path / 'out/a.png').read_bytes() == result
    assert call(other, '--overwrite')[0] == 0
    assert read(tmp_path / 'out/a.png').shape == (50, 70, 3)
    assert '1 skipped' in call(other)[1]


def test_photographs_that_differ_in_their_suffix_do_not_overwrite_each_other(call, tmp_path):
    for name, height in (('a.png', 30), ('a.bmp', 40), ('b.png', 50), ('deep/a.png', 60)):
        save(photograph(height), tmp_path / 'photos' / name)
    assert call(tmp_path / 'photos')[0] == 0
    out = tmp_path / 'out'
    heights = {str(p.relative_to(out)): len(read(p)) for p in out.rglob('*.png')}
    assert heights == {'a.png': 40, 'a.png.png': 30, 'b.png': 50, 'deep/a.png': 60}


def test_a_photograph_named_twice_is_colorized_once(call, tmp_path):
    path = save(photograph(), tmp_path / 'a.png')
    assert call(path, path)[1].endswith('1 colorized, 0 failed, 0 skipped\n')


def test_results_in_a_folder_below_the_photographs_are_not_photographs(call, tmp_path):
    save(photograph(), tmp_path / 'photos/a.png')
    for _ in range(2):
        _, said = call(tmp_path / 'photos', '--overwrite', output='photos/out')
        assert said.endswith('1 colorized, 0 failed, 0 skipped\n')


def test_jpg_is_written_at_full_colour_resolution(call, tmp_path):
    path = save(photograph(), tmp_path / 'a.png')
    assert call(path, '--format=jpg')[0] == 0
    assert call(path)[0] == 0
    jpg = Image.open(tmp_path / 'out/a.jpg')
    assert (jpg.format, jpg.mode) == ('JPEG', 'RGB')
    assert jpg.layer[1][1:3] == (1, 1)  # chroma is not subsampled
    assert np.abs(np.asarray(jpg).astype(int) - read(tmp_path / 'out/a.png')).mean() < 4


def test_an_animation_gives_its_first_frame_and_says_so(call, colored, tmp_path):
    frames = [Image.fromarray(photograph()[..., i]) for i in range(3)]
    frames[0].save(tmp_path / 'a.tiff', save_all=True, append_images=frames[1:])
    code, said = call(tmp_path / 'a.tiff')
    assert code == 0
    assert 'a.tiff: the first of its 3 frames is colorized\n' in said
    (expected,) = colored(photograph()[..., 0])
    assert_as_function(read(tmp_path / 'out/a.png'), expected)


@pytest.mark.parametrize('mode', ['1', 'L', 'P', 'CMYK', 'YCbCr', 'I;16', 'I', 'F', 'RGB', 'LAB'])
def test_every_mode_is_read_and_keeps_its_lightness(mode, call, tmp_path):
    image = Image.fromarray(photograph())
    if mode == 'I;16':
        image = Image.fromarray(photograph()[..., 0].astype(np.uint16) * 257)
    elif mode == 'P':
        image = image.quantize(64)
    elif mode != 'LAB':
        image = image.convert(mode)
    else:
        image = Image.fromarray(photograph(), 'RGB')
        image = Image.merge('LAB', image.split())
    # Pillow before 13 cannot read an uncompressed YCbCr TIFF, not even its own.
    image.save(tmp_path / 'a.tif', compression='tiff_lzw' if mode == 'YCbCr' else None)
    assert call(tmp_path / 'a.tif')[0] == 0
    result = read(tmp_path / 'out/a.png')
    if mode not in ('CMYK', 'YCbCr', 'LAB'):  # their conversion is tested with the decoder
        shown = Image.fromarray(photograph()[..., 0] if mode == 'I;16' else photograph())
        if mode in ('1', 'P'):
            shown = image
        elif mode in 'LI':
            shown = shown.convert('L')
        values = np.asarray(shown.convert('RGB')) / 255
        if mode == 'F':  # its fractions count
            values = np.dstack([np.asarray(image) / 255] * 3)
        lightness = rgb2lab(values)[..., 0]
        assert np.abs(rgb2lab(result)[..., 0] - lightness).max() < ROUNDING
    assert result.shape == (61, 47, 3)


def test_a_profile_is_converted_to_srgb(call, tmp_path):
    """A profile whose red and green primaries are swapped swaps the channels."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    for old, new in ((b'rXYZ', b'tmp_'), (b'gXYZ', b'rXYZ'), (b'tmp_', b'gXYZ')):
        profile = profile.replace(old, new)
    assert call(save(photograph(), tmp_path / 'a.png', icc_profile=profile))[0] == 0
    result = Image.open(tmp_path / 'out/a.png')
    assert 'icc_profile' not in result.info
    error = rgb2lab(np.asarray(result))[..., 0] - rgb2lab(photograph()[..., [1, 0, 2]])[..., 0]
    assert np.abs(error).mean() < 0.3  # the profile's curve is rounded
    assert np.abs(rgb2lab(photograph()) - rgb2lab(np.asarray(result)))[..., 0].mean() > 1


def test_a_photograph_above_the_bound_is_named_and_the_rest_go_on(call, tmp_path):
    large = tmp_path / 'large.png'
    Image.new('1', (1200, 1000)).save(large)
    code, said = call(large, save(photograph(), tmp_path / 'a.png'), '--max_megapixels=1')
    assert code == 1
    assert f'{large} failed: 1200 x 1000 px are more than 1 megapixels\n' in said
    assert said.endswith('1 colorized, 1 failed, 0 skipped\n')


def test_a_full_disk_ends_the_command_with_one_sentence(call, tmp_path, monkeypatch):
    paths = [save(photograph(), tmp_path / f'{i}.png') for i in range(5)]

    def full(*arguments, **options):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(output_lib.os, 'replace', full)
    code, said = call(*paths)
    assert code == 1
    assert 'out/0.png cannot be written (No space left on device): make room there' in said
    assert 'colorized,' not in said
    assert not list((tmp_path / 'out').iterdir())


def test_a_failed_write_leaves_nothing_and_names_the_file(call, tmp_path, monkeypatch):
    path = save(photograph(), tmp_path / 'a.png')
    monkeypatch.setattr(
        output_lib.os, 'replace', lambda *_: (_ for _ in ()).throw(OSError(5, 'Worn'))
    )
    code, said = call(path)
    assert code == 1
    assert f'{path} failed: Worn\n' in said
    assert not list((tmp_path / 'out').iterdir())


def test_not_enough_memory_for_one_is_not_the_end(call, tmp_path, monkeypatch):
    paths = [save(photograph(height), tmp_path / f'{height}.png') for height in (30, 40)]
    recolor = photo_lib.recolor

    def short(pixels, *others):
        if len(pixels) == 30:
            raise MemoryError
        return recolor(pixels, *others)

    monkeypatch.setattr(photo_lib, 'recolor', short)
    code, said = call(*paths)
    assert code == 1
    assert f'{paths[0]} failed: not enough memory\n' in said
    assert said.endswith('1 colorized, 1 failed, 0 skipped\n')


# Through a process


def run(*arguments):
    return subprocess.run(
        [sys.executable, '-m', 'chromagan_jax.colorize', *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {'XLA_FLAGS': ''},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_failing_files_are_named_the_rest_go_on_and_the_exit_code_says_so(workdir, tmp_path):
    good = save(photograph(), tmp_path / 'good.png')
    (tmp_path / 'torn.jpg').write_bytes(b'\xff\xd8\xff\xe0')
    (tmp_path / 'cut.png').write_bytes(good.read_bytes()[:2000])
    names = [tmp_path / name for name in ('torn.jpg', 'missing.jpg', 'cut.png', 'good.png')]
    process = run(f'--workdir={workdir}', f'--output={tmp_path}/out', *names)
    assert process.returncode == 1
    lines = process.stderr.splitlines()
    assert any(line.startswith(f'{names[0]} failed: it is damaged (') for line in lines)
    assert f'{names[1]} failed: there is no such file: correct the path' in lines
    assert any(line.startswith(f'{names[2]} failed: ') for line in lines)
    assert lines[-1] == '1 colorized, 3 failed, 0 skipped'
    assert len(lines) == 6
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['good.png']


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_with_one_sentence_and_started_again_it_goes_on(
    number, workdir, call, tmp_path
):
    for name in range(12):
        save(photograph(300, 300), tmp_path / f'photos/{name}.png')
    arguments = [f'--workdir={workdir}', f'--output={tmp_path}/out', str(tmp_path / 'photos')]
    with subprocess.Popen(
        [sys.executable, '-m', 'chromagan_jax.colorize', *arguments],
        cwd=ROOT,
        env=os.environ | {'XLA_FLAGS': ''},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        begins = process.stderr.readline()
        process.send_signal(number)
        said = process.stderr.read()
    assert begins.endswith('12 to do\n')
    assert process.returncode == 75
    counts = re.fullmatch(
        r'chromagan_jax: Interrupted: (\d+) colorized, 0 failed, (\d+) left; started again, it '
        r'continues with these\.\n',
        said,
    )
    done, left = map(int, counts.groups())
    assert done + left == 12
    files_there = sorted((tmp_path / 'out').iterdir())
    assert len(files_there) == done
    assert all(read(path).shape == (300, 300, 3) for path in files_there)
    assert f'{left} colorized, 0 failed, {done} skipped' in call(tmp_path / 'photos')[1]


def test_ctrl_c_counts_what_is_done_and_the_same_command_goes_on(call, tmp_path, monkeypatch):
    paths = [save(photograph(30 + i), tmp_path / f'{i}.png') for i in range(5)]
    make_predict = colorize.make_predict

    def interrupted(*arguments, **options):
        predict = make_predict(*arguments, **options)
        calls = iter(range(5))

        def predict_then_signal(*batch):
            if next(calls) == 1:
                os.kill(os.getpid(), signal.SIGINT)
            return predict(*batch)

        return predict_then_signal

    monkeypatch.setattr(colorize, 'make_predict', interrupted)
    code, said = call(*paths)
    assert code == 75
    done = len(list((tmp_path / 'out').iterdir()))
    assert 2 <= done < 5  # the batches that the network has at hand are finished
    assert said.splitlines()[-1] == (
        f'chromagan_jax: Interrupted: {done} colorized, 0 failed, {5 - done} left; started again, '
        'it continues with these.'
    )
    assert {p.name for p in (tmp_path / 'out').iterdir()} == {f'{i}.png' for i in range(done)}
    monkeypatch.undo()
    again = call(*paths)[1].splitlines()[-1]
    assert again.startswith(f'{5 - done} colorized, 0 failed, {done} skipped')
    monkeypatch.setattr(colorize, 'make_predict', interrupted)
    assert 'it starts anew with --overwrite' in call(*paths, '--overwrite')[1]


def test_a_second_ctrl_c_is_one_sentence_too(call, tmp_path, monkeypatch):
    def twice(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(checkpoints, 'load_generator', twice)
    assert call(save(photograph(), tmp_path / 'a.png')) == (
        75,
        'chromagan_jax: Interrupted: started again, it continues with what is missing.\n',
    )


@pytest.mark.parametrize(
    ('changed', 'sentence'),
    [
        ({'workdir': ''}, '--workdir is empty: name a run, or leave it out for the released'),
        ({'workdir': None, 'checkpoint': 'best'}, '--checkpoint chooses among those of a run: add'),
        ({'output': None}, 'No output is named: add --output=colorized.'),
        ({'path': None}, 'No photograph is named: add a file or a folder.'),
        ({'workdir': '/nowhere'}, '/nowhere is not a workdir of a run: it holds no config.json.'),
        ({'checkpoint': '7'}, "holds no checkpoint '7'; choose newest, best or 0."),
        ({'size': '18'}, 'A U-Net of depth 2 takes sides that 4 divides, not 18 x 18 px'),
        ({'size': '24,x'}, "--size must be px, as 256 or 192,256, not '24,x'."),
        ({'batch_size': '0'}, 'batch_size'),
        ({'format': 'gif'}, 'format'),
        ({'format': 'webp', 'depth': '16'}, '--depth=16 is not possible with --format=webp'),
        ({'quality': '101'}, 'quality'),
        ({'list': '/nowhere'}, '--list=/nowhere cannot be read (No such file or directory).'),
        ({'sise': '3'}, 'sise'),
        ({'saturation': 'x'}, "--saturation must be a number, not 'x'."),
        ({'clahe_tiles': '2.5'}, "--clahe_tiles must be a whole number, not '2.5'."),
        ({'contrast': '2'}, '--contrast must be 0 <= x <= 1, not 2.0.'),
        (
            {'white_balance': 'gry'},
            "--white_balance is 'gry'; choose one of none, gray_world, percentile.",
        ),
        ({'sample_noise': 'true'}, 'The network has no noise'),
        ({'size': '24,100000'}, "--size must be at most 4096 px, not '24,100000'."),
        ({'output': '/proc/nowhere'}, '/proc/nowhere cannot be written'),
        ({'report': '/proc/nowhere/r.html'}, 'permission there, or choose another --report.'),
        ({'report': '/tmp'}, '--report=/tmp is a folder: name a file in it.'),
        ({'output': 'gs://b/out'}, '--output=gs://b/out is not a local folder: mount the bucket'),
        ({'report': 's3://b/r.html'}, '--report=s3://b/r.html is not a local folder: mount the'),
    ],
)
def test_a_mistake_is_one_sentence(changed, sentence, workdir, tmp_path, capsys):
    path = save(photograph(), tmp_path / 'a.png')
    chosen = {'workdir': workdir, 'output': tmp_path / 'out', 'path': path, **changed}
    path = chosen.pop('path')
    arguments = [f'--{name}={value}' for name, value in chosen.items() if value is not None]
    assert colorize.main(['', *arguments, *([str(path)] if path else [])]) == 1
    said = capsys.readouterr().err
    assert said.startswith('chromagan_jax: ')
    assert sentence in said
    assert said.count('\n') == 1


def test_a_report_takes_no_photograph_for_its_value(tmp_path, capsys):
    first, second = (save(photograph(), tmp_path / f'{name}.jpg') for name in 'ab')
    before = first.read_bytes()
    assert colorize.main(['', f'--output={tmp_path}/out', '--report', str(first), str(second)]) == 1
    said = f'--report={first} is not the name of an HTML page: write --report=report.html.\n'
    assert capsys.readouterr().err == f'chromagan_jax: {said}'
    assert first.read_bytes() == before
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('wrong', ['--contrast=2', '--saturation=x', '--size=big'])
def test_a_wrong_value_is_named_even_if_nothing_is_left_to_do(wrong, tmp_path, capsys):
    path = save(photograph(), tmp_path / 'a.png')
    done = save_result(path, tmp_path / 'out/a.png')
    arguments = [f'--output={done.parent}', str(path)]
    assert colorize.main(['', *arguments]) == 0
    assert '1 skipped' in capsys.readouterr().err
    assert colorize.main(['', wrong, *arguments]) == 1
    assert wrong.partition('=')[0] in capsys.readouterr().err


def test_help_names_every_flag(capsys):
    assert colorize.main(['', '--help']) == 0
    said = capsys.readouterr().out
    own = ('workdir', 'output', 'checkpoint', 'format', 'overwrite', 'size', 'threads')
    for name in (*own, *config_lib.flatten(PostProcess())):
        assert f'--{name}' in said or f'--[no]{name}' in said


@pytest.mark.slow
def test_samples_differ_from_each_other_and_are_the_same_every_time(tmp_path):
    generator, variables = make_run(tmp_path, dropout=0.5)
    first, other = photograph(), photograph(50, 70)

    def sample(number, *photographs, batch_size=1):
        return predictor.colorize(photographs, generator, variables, SIZE, batch_size, number)

    plain = predictor.colorize([first], generator, variables, SIZE)[0]
    one, two = sample(1, first)[0], sample(2, first)[0]
    assert not np.array_equal(one, two)
    assert not np.array_equal(one, plain)
    np.testing.assert_array_equal(one, sample(1, first)[0])
    np.testing.assert_array_equal(one, sample(1, other, first)[1])
    close = sample(1, other, first, batch_size=2)[1].astype(int)  # noise is a photograph's own
    assert np.abs(close - one).max() <= 1


def test_the_command_writes_as_many_samples_as_asked(tmp_path, capsys):
    make_run(tmp_path / 'run', dropout=0.5)
    save(photograph(), tmp_path / 'a.png')
    arguments = [f'--workdir={tmp_path / "run"}', f'--output={tmp_path / "out"}', '--samples=3']
    assert colorize.main(['', *arguments, str(tmp_path / 'a.png')]) == 0
    assert '3 colorized' in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == [
        'a.1.png',
        'a.2.png',
        'a.3.png',
    ]


def test_a_network_without_noise_has_no_samples_to_give(call, tmp_path):
    save(photograph(), tmp_path / 'a.png')
    code, said = call('--samples=2', tmp_path / 'a.png')
    assert code == 1
    assert 'The network has no noise' in said


# Post-processing

OTHER = {
    'saturation': 1.5,
    'white_balance': 'percentile',
    'white_balance_strength': 0.5,
    'contrast': 0.5,
    'clahe_clip': 9.0,
    'clahe_tiles': 1,
    'denoise_before': 6.0,
    'denoise_after': 9.0,
    'denoise_method': 'bilateral',
}
QUICK = ('saturation', 'clahe_tiles', 'denoise_after')  # a float, an int, another float
SET = {
    'saturation': 0.5,
    'white_balance': 'gray_world',
    'white_balance_strength': 1.0,
    'contrast': 1.0,
    'denoise_before': 12.0,
    'denoise_after': 4.0,
}


def test_several_sizes_give_the_mean_of_the_colours_at_each(tmp_path):
    network = make_run(tmp_path / 'run')
    pixels = photograph(40, 50)
    small = photo_lib.shrink(pixels, 24)
    at_24, at_16 = (predictor.make_predict(*network, (size,), 1) for size in (24, 16))
    seen = decode.resize(small, 16, 16)
    enlarged = cv2.resize(at_16([seen], [None])[0], (24, 24))
    expected = (at_24([small], [None])[0] + enlarged) / 2
    found = predictor.make_predict(*network, (16, 24), 1)([small], [None])[0]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    arguments = [f'--workdir={tmp_path / "run"}', '--size=16,24', f'--output={tmp_path / "out"}']
    assert colorize.main(['', *arguments, str(tmp_path / 'a.png')]) == 0
    (result,) = predictor.colorize([pixels], *network, (16, 24))
    assert_as_function(read(tmp_path / 'out/a.png'), result)


@pytest.fixture(scope='module')
def restoring(tmp_path_factory):
    """A workdir whose config post-processes, a large enough photograph, and what becomes of it."""
    folder = tmp_path_factory.mktemp('restore')
    network = make_run(folder / 'run', **SET)
    predict = predictor.make_predict(*network, (SIZE,), 1, quick=True)  # as the command
    path = save(photograph(200, 200), folder / 'a.png')

    def expected(**fields):
        post = PostProcess(**fields)
        pixels, _, _, (small,), _ = layout.prepare(read(path), SIZE, post)
        return photo_lib.recolor(pixels, small, predict([small], [None])[0], post)

    return folder / 'run', path, expected, network


def colorized_by(workdir, path, output, *arguments):
    arguments = [f'--workdir={workdir}', f'--output={output}', *arguments, str(path)]
    assert colorize.main(['', *arguments]) == 0
    return read(output / 'a.png')


def test_command_and_function_do_what_the_config_of_the_run_says(restoring, tmp_path):
    workdir, path, expected, network = restoring
    np.testing.assert_array_equal(colorized_by(workdir, path, tmp_path), expected(**SET))
    (result,) = predictor.colorize([read(path)], *network, SIZE, post=PostProcess(**SET))
    assert_as_function(expected(**SET), result)
    assert not np.array_equal(result, expected())


@pytest.mark.parametrize(
    'field',
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in OTHER],
)
def test_a_flag_takes_the_place_of_its_field_of_the_config(field, restoring, tmp_path):
    workdir, path, expected, _ = restoring
    found = colorized_by(workdir, path, tmp_path, f'--{field}={OTHER[field]}')
    np.testing.assert_array_equal(found, expected(**{**SET, field: OTHER[field]}))
    assert not np.array_equal(found, expected(**SET))


def test_all_steps_off_give_the_bits_of_a_run_that_knows_none(restoring, tmp_path):
    workdir, path, expected, _ = restoring
    off = ['--saturation=1', '--white_balance=none', '--contrast=0']
    off += ['--denoise_before=0', '--denoise_after=0']
    plain = expected()
    np.testing.assert_array_equal(colorized_by(workdir, path, tmp_path / 'off', *off), plain)
    run = read_run(workdir)
    run['config'].pop('colorize')
    older = tmp_path / 'older'
    older.mkdir()
    (older / 'checkpoints').symlink_to(workdir / 'checkpoints')
    files.write_json(older / 'config.json', run)
    np.testing.assert_array_equal(colorized_by(older, path, tmp_path / 'new'), plain)


@pytest.mark.slow
def test_sample_noise_gives_the_first_sample_under_the_plain_name(tmp_path):
    network = make_run(tmp_path / 'run', dropout=0.5, sample_noise=True)
    path = save(photograph(), tmp_path / 'a.png')
    (first,) = predictor.colorize([read(path)], *network, SIZE, sample=1)
    (plain,) = predictor.colorize([read(path)], *network, SIZE)
    (by_post,) = predictor.colorize([read(path)], *network, SIZE, post=PostProcess(True))
    np.testing.assert_array_equal(by_post, first)
    run, out = tmp_path / 'run', tmp_path / 'out'
    assert_as_function(colorized_by(run, path, out), first)
    found = colorized_by(run, path, out, '--nosample_noise', '--overwrite')
    assert_as_function(found, plain)
    assert colorize.main(['', f'--workdir={run}', f'--output={out}', '--samples=2', str(path)]) == 0
    assert_as_function(read(out / 'a.1.png'), first)
    assert np.abs(read(out / 'a.2.png').astype(int) - first).max() > 1


def test_what_a_format_cannot_hold_fails_before_the_work(call, tmp_path):
    wide = save(np.zeros((2, 66_000), np.uint8), tmp_path / 'wide.png')
    code, said = call(wide, save(photograph(), tmp_path / 'a.png'), '--format=jpg')
    assert code == 1
    assert said.startswith(f'{wide} failed: JPEG holds at most 65500 px a side, not 66000: choose')
    assert said.endswith('1 colorized, 1 failed, 0 skipped\n')


@pytest.mark.slow
def test_a_run_with_a_list_json_and_a_report_says_how_each_photograph_ended(workdir, tmp_path):
    rgb = data.astronaut()
    save(rgb[..., 0], tmp_path / 'a b.png', dpi=(300, 300))
    save(rgb, tmp_path / 'color.jpg')
    (tmp_path / 'torn.jpg').write_bytes(b'no image')
    deep = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    save(deep, tmp_path / 'deep.tif')
    os.utime(tmp_path / 'deep.tif', (10**9, 10**9))
    leftover = tmp_path / f'out/.1{output_lib.TEMPORARY}'
    leftover.parent.mkdir()
    leftover.write_bytes(b'')
    names = ['a b.png', 'color.jpg', 'torn.jpg', 'deep.tif']
    listed = '\ufeff' + '\r\n'.join(str(tmp_path / name) for name in [*names[:2], '']) + '\r'
    listed += '\n'.join(str(tmp_path / name) for name in names[2:])
    command = [sys.executable, '-m', 'chromagan_jax.colorize', f'--workdir={workdir}']
    command += [f'--output={tmp_path / "out"}', '--list=-', '--json', '--skip_color', '--depth=16']
    command += ['--format=same', '--keep_date', f'--report={tmp_path / "report.html"}']
    done = subprocess.run(command, input=listed.encode(), capture_output=True, cwd=ROOT)
    assert done.returncode == 1, done.stderr
    lines = {Path(line['source']).name: line for line in map(json.loads, done.stdout.splitlines())}
    outcomes = {name: line['status'] for name, line in lines.items()}
    expected = ('colorized', 'in_color', 'failed', 'colorized')
    assert outcomes == dict(zip(names, expected, strict=True))
    assert b'1 in colour already' in done.stderr
    assert not leftover.exists()
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['a b.png', 'deep.tif']
    assert round(Image.open(tmp_path / 'out/a b.png').info['dpi'][0]) == 300
    written = decode.read((tmp_path / 'out/deep.tif').read_bytes(), deep=True).pixels
    assert written.dtype == np.uint16
    assert len(np.unique(written)) > 4000
    assert (tmp_path / 'out/deep.tif').stat().st_mtime == 10**9
    page = (tmp_path / 'report.html').read_text()
    assert page.count('<figure>') == 2
    assert 'torn.jpg' in page
    assert 'color.jpg: it is in colour already' in page


def test_without_pyav_the_extra_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(colorize.importlib.util, 'find_spec', lambda name: None)
    (tmp_path / 'film.mp4').touch()
    assert colorize.main(['', f'--output={tmp_path / "out"}', str(tmp_path / 'film.mp4')]) == 1
    assert "pip install 'chromagan_jax[video]'" in capsys.readouterr().err
