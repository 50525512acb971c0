"""The PyTorch program that `colorize` is compared with; the network is a stand-in."""

import importlib

import numpy as np
import pytest
from absl import flags
from PIL import Image
from skimage import data
from skimage.color import lab2rgb, rgb2lab


@pytest.fixture(scope='module')
def program():
    module = importlib.import_module('benchmarks.torch_colorize')
    flags.FLAGS.mark_as_parsed()
    return module


def predict(light):
    """A constant colour, at half the resolution of the input, as the released network has it."""
    return np.broadcast_to(np.float32([12, -20]), (light.shape[0] // 2, light.shape[1] // 2, 2))


@pytest.mark.parametrize('name', ['plain', 'with_opencv'])
def test_both_ways_keep_the_lightness_and_write_the_colours_of_the_network(name, program, tmp_path):
    path, target = tmp_path / 'a.png', tmp_path / 'b.png'
    Image.fromarray(data.astronaut()[:90, 150:260]).save(path)
    getattr(program, name)(predict, path, str(target))
    lab = rgb2lab(np.asarray(Image.open(path)))
    lab[..., 1:] = 12, -20
    expected = 255 * lab2rgb(lab)
    np.testing.assert_allclose(np.asarray(Image.open(target)), expected, atol=2)
