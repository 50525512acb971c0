import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chromagan_jax.models import hints as hints_lib
from chromagan_jax.models.lite_unet import LiteUNet


def random(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def test_pooled_hints_are_the_mean_colour_of_the_hinted_pixels_of_each_block():
    mask = (random(2, 12, 8, 1) > 0.5).astype(np.float32)
    hints = np.concatenate([random(2, 12, 8, 2, seed=1) * mask, mask], axis=-1)
    pooled = np.asarray(hints_lib.pool(jnp.asarray(hints), 4))
    assert pooled.shape == (2, 3, 2, 3)
    for b, i, j in np.ndindex(2, 3, 2):
        block = hints[b, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].reshape(-1, 3)
        inside = block[block[:, 2] == 1]
        expected = [*inside[:, :2].mean(0), 1] if len(inside) else [0, 0, 0]
        np.testing.assert_allclose(pooled[b, i, j], expected, atol=1e-6)


def test_a_map_stays_as_it_is_without_hints_and_at_initialisation():
    x, hints = random(1, 4, 4, 6), random(1, 4, 4, 3, seed=1)
    add = hints_lib.AddHints()
    params = add.init(jax.random.key(0), x, hints)
    np.testing.assert_array_equal(add.apply(params, x, hints), x)
    trained = jax.tree.map(lambda leaf: leaf + 0.1, params)
    np.testing.assert_array_equal(add.apply(trained, x, 0 * hints), x)
    assert np.abs(add.apply(trained, x, hints) - x).max() > 0.01


@pytest.mark.slow
def test_a_generator_with_hints_is_the_automatic_one_until_a_hint_is_given():
    widths = {'decoder_widths': (8, 8, 8, 8, 8)}
    plain, hinted = LiteUNet(**widths), LiteUNet(**widths, hints=True)
    gray, points = random(1, 40, 48, 1), np.zeros((1, 40, 48, 3), np.float32)
    both = jax.jit(lambda key: hinted.init(key, gray, train=False))(jax.random.key(0))
    params = {
        k: jax.tree.map(lambda x: x + 0.1, v) if k.startswith('hints_') else v
        for k, v in both['params'].items()
    }
    both = {**both, 'params': params}
    without = {k: v for k, v in both['params'].items() if not k.startswith('hints_')}
    automatic = plain.apply({**both, 'params': without}, gray, train=False)
    apply = jax.jit(lambda x: hinted.apply(both, x, train=False))
    np.testing.assert_allclose(apply(gray), automatic, atol=1e-6)
    np.testing.assert_allclose(apply(np.concatenate([gray, points], axis=-1)), automatic, atol=1e-6)
    points[0, 10:13, 20:23] = 0.5, -0.5, 1
    changed = np.abs(apply(np.concatenate([gray, points], axis=-1)) - automatic)[0].max(-1)
    assert changed[:32, :32].min() > 0  # a hint reaches far beyond its pixels
