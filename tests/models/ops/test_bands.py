"""A level in bands of rows against its formula, written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from chromagan_jax.models import lite_unet
from chromagan_jax.models.ops import bands


def plain(x, skip, *layers):
    y = np.concatenate([x.repeat(2, 1).repeat(2, 2), skip], axis=-1)
    for layer in layers:
        y = lax.conv_general_dilated(
            y, layer.kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
        )
        y = jnp.maximum(y * layer.scale + layer.shift, 0)
    return y


@pytest.mark.parametrize('size', [(8, 12), (7, 5), (3, 300)])
def test_a_level_in_bands_is_two_convolutions_of_the_doubled_map_and_its_skip(size, monkeypatch):
    monkeypatch.setattr(bands, '_TILES', 24)
    draw = np.random.default_rng(0).normal
    x = draw(size=(2, *size, 6)).astype(np.float32)
    skip = draw(size=(2, 2 * size[0], 2 * size[1], 3)).astype(np.float32)
    layers = [
        bands.Layer(*(draw(size=s).astype(np.float32) for s in ((3, 3, c, 5), (5,), (5,))))
        for c in (9, 5)
    ]
    expected = plain(x, skip, *layers)
    result = jax.jit(bands.doubled_level)(x, skip, *layers)
    np.testing.assert_allclose(result, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


@pytest.mark.slow
def test_a_generator_has_the_same_colours_with_bands_and_without(monkeypatch):
    generator = lite_unet.LiteUNet(decoder_widths=(16, 16, 16, 8, 8))
    x = np.random.default_rng(0).uniform(-1, 1, (1, 128, 160, 1)).astype(np.float32)
    variables = generator.init(jax.random.key(0), x, train=False)
    colours = []
    for pays in (lambda x: True, lambda x: False):
        monkeypatch.setattr(bands, 'pays', pays)
        colours.append(jax.jit(lambda v, x: generator.apply(v, x, train=False))(variables, x))
    np.testing.assert_allclose(*colours, rtol=0, atol=1e-5 * np.abs(colours[1]).max())
