"""The Python interface: what it takes, what it returns, and that it is the command's result."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from skimage import data

import chromagan_jax
from chromagan_jax import api
from chromagan_jax.config import Config
from chromagan_jax.data import decode
from chromagan_jax.errors import UserError
from chromagan_jax.gan.released import Trained
from tests.data.profiles import gray_profile

ROOT = Path(__file__).parents[1]
GRAY = np.asarray(Image.fromarray(data.chelsea()[:120, :160]).convert('L'))


@pytest.fixture
def compiled(monkeypatch):
    """The arguments that networks were compiled with; a network answers a = 20, b = -10."""
    made = []

    def make_predict(generator, variables, sizes, *rest):
        made.append((sizes, *rest))
        side = max(sizes)
        return lambda small, samples, points: np.tile(
            np.float32([20, -10]), (len(small), side, side, 1)
        )

    monkeypatch.setattr(api.predictor, 'make_predict', make_predict)
    return made


@pytest.fixture
def colorizer(compiled):
    config = Config()
    config.data.size = 32
    return api.Colorizer(Trained('a stand-in', config, SimpleNamespace(), {}, 0))


def test_arrays_images_and_paths_give_the_same_colours(colorizer, tmp_path):
    Image.fromarray(GRAY).save(tmp_path / 'a.png')
    array = colorizer.colorize(GRAY)
    assert array.shape == (120, 160, 3)
    assert array.dtype == np.uint8
    assert (array[..., 0] > array[..., 1]).mean() > 0.9
    image = colorizer.colorize(Image.fromarray(GRAY))
    both = colorizer.colorize([tmp_path / 'a.png', str(tmp_path / 'a.png')])
    assert isinstance(both, list)
    for other in (image, *both):
        assert isinstance(other, Image.Image)
        np.testing.assert_array_equal(np.asarray(other), array)


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK', 'YCbCr', 'I;16'])
def test_images_of_every_mode_are_colorized_and_keep_their_size_and_transparency(colorizer, mode):
    image = Image.fromarray(GRAY)
    image = Image.fromarray(GRAY.astype(np.uint16) * 257) if mode == 'I;16' else image.convert(mode)
    result = colorizer.colorize(image)
    assert result.size == image.size
    assert result.mode == ('RGBA' if mode in ('LA', 'RGBA') else 'RGB')


@pytest.mark.parametrize('mode', ['I', 'I;16B', 'F'])
def test_deep_gray_images_have_the_colours_of_their_array(colorizer, mode):
    deep = GRAY.astype(np.uint16) * 257
    values = {'I': deep.astype(np.int32), 'F': (deep / 65535).astype(np.float32)}
    if mode == 'I;16B':
        size = deep.shape[::-1]
        image = Image.frombytes('I;16B', size, deep.astype('>u2').tobytes())
    else:
        image = Image.fromarray(values[mode])
    assert image.mode == mode
    expected = colorizer.colorize(Image.fromarray(deep))
    np.testing.assert_array_equal(np.asarray(colorizer.colorize(image)), np.asarray(expected))


@pytest.mark.parametrize('mode', ['I', 'F'])
def test_gray_images_up_to_255_have_the_colours_of_their_array_in_every_mode(colorizer, mode):
    image = Image.fromarray(GRAY)
    expected = np.asarray(colorizer.colorize(image))
    np.testing.assert_array_equal(np.asarray(colorizer.colorize(image.convert(mode))), expected)


def test_the_profile_of_an_image_is_applied(colorizer):
    image = Image.fromarray(GRAY)
    plain = np.asarray(colorizer.colorize(image))
    image.info['icc_profile'] = gray_profile(1.0)
    assert np.asarray(colorizer.colorize(image)).mean() > plain.mean() + 20


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'L with a key', 'RGB', 'RGBA', 'RGB with a key'])
def test_an_image_has_the_pixels_of_its_file(mode, tmp_path):
    image = Image.fromarray(GRAY)
    mode, _, key = mode.partition(' ')
    options = {'transparency': 60 if mode == 'L' else (60, 60, 60)} if key else {}
    if mode in ('LA', 'RGBA'):
        image.putalpha(Image.fromarray(GRAY[::-1]))
    if mode in ('L', 'LA'):
        options['icc_profile'] = gray_profile(1.0)
    image.convert(mode).save(tmp_path / 'a.png', **options)
    expected = decode.read(tmp_path / 'a.png').pixels
    assert expected.ndim == (2 if mode in ('1', 'L') and not key else 3)
    np.testing.assert_array_equal(api._pixels(Image.open(tmp_path / 'a.png')), expected)


def test_a_network_is_compiled_once_for_each_size(colorizer, compiled):
    for options in ({}, {'saturation': 1.5}, {'size': 48}, {'size': [32, 48]}, {'size': 48}):
        colorizer.colorize(GRAY, **options)
    assert [sizes for sizes, *_ in compiled] == [(32,), (48,), (32, 48)]


def test_options_of_the_post_processing_take_effect(colorizer):
    strong = colorizer.colorize(GRAY, saturation=2.0).astype(int)
    assert (
        np.ptp(strong, axis=2).mean() > np.ptp(colorizer.colorize(GRAY).astype(int), 2).mean() + 5
    )


@pytest.mark.parametrize(
    ('image', 'options', 'sentence'),
    [
        (GRAY, {'saturaton': 1.2}, "no field 'saturaton' .* did you mean 'saturation'"),
        (GRAY, {'saturation': -1.0}, 'saturation must be 0 <= x <= 10'),
        (GRAY / 255, {}, 'must be .* of uint8 or uint16, not .* of float64'),
        (GRAY[None], {}, r'not \(1, 120, 160\) of uint8'),
        (GRAY[:0], {}, r'not \(0, 160\) of uint8'),
        (None, {}, 'NoneType is no photograph: give a path'),
        ([GRAY, 5], {}, 'int is no photograph: give a path'),
        (GRAY, {'size': 0}, r'size must be px, as 256 or \(192, 256\), not 0'),
        (GRAY, {'size': 2.5}, 'size must be px, .* not 2.5'),
        (GRAY, {'size': []}, r'size must be px, .* not \[\]'),
        (GRAY, {'batch_size': 0}, 'batch_size must be 1 or more, not 0'),
        ([GRAY, GRAY], {'hints': [[(1, 1, 'red')]]}, 'a list for each of the 2 photographs'),
        ([GRAY], {'hints': 5}, 'a list for each of the 1 photographs'),
    ],
)
def test_what_cannot_be_used_is_named(colorizer, image, options, sentence):
    with pytest.raises(UserError, match=sentence):
        colorizer.colorize(image, **options)


def test_the_function_and_the_command_share_a_name():
    assert chromagan_jax.load is api.load
    program = 'from chromagan_jax import colorize, load; print(colorize.__name__, load.__module__)'
    done = subprocess.run(
        [sys.executable, '-c', program],
        cwd=ROOT,
        env=os.environ | {'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ['colorize', 'chromagan_jax.api']
    command = importlib.import_module('chromagan_jax.colorize')
    assert callable(command)
    assert callable(command.main)
    with pytest.raises(AttributeError, match="no attribute 'colorise'"):
        chromagan_jax.colorise  # noqa: B018


@pytest.mark.slow
def test_the_examples_of_the_docs_run_and_give_the_result_of_the_command(tmp_path):
    Image.fromarray(GRAY).save(tmp_path / 'photo.jpg', quality=95)
    (tmp_path / 'scan.tif').write_bytes((tmp_path / 'photo.jpg').read_bytes())
    blocks = re.findall(r'```python\n(.*?)```', (ROOT / 'docs' / 'colorize.md').read_text(), re.S)
    assert len(blocks) == 1
    environment = os.environ | {'PYTHONPATH': str(ROOT)}
    run = [sys.executable, '-c', blocks[0]]
    subprocess.run(run, cwd=tmp_path, env=environment, check=True)
    command = [sys.executable, '-m', 'chromagan_jax.colorize', '--output=out', 'photo.jpg']
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    (made,) = (tmp_path / 'out').iterdir()
    images = [np.asarray(Image.open(p), int) for p in (tmp_path / 'colorized.png', made)]
    np.testing.assert_allclose(*images, atol=1)  # the command compiles another program
