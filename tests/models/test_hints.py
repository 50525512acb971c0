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


def spread(params, ab, hints, maps):
    return np.asarray(hints_lib.SpreadHints().apply(params, ab, hints, maps, 2))


def scene(points):
    """Automatic ab of 0, hints at points (row, column, a, b), and maps of two flat halves."""
    left = np.arange(16) < 8
    fine = np.broadcast_to(np.stack([left, ~left], -1), (1, 16, 16, 2)).astype(np.float32)
    hints = np.zeros((1, 32, 32, 3), np.float32)
    for row, column, *ab in points:
        hints[0, row, column] = *ab, 1
    return (
        np.zeros((1, 16, 16, 2), np.float32),
        hints,
        {8: fine[:, ::4, ::4], 4: fine[:, ::2, ::2], 2: fine},
    )


@pytest.fixture(scope='module')
def params():
    return hints_lib.SpreadHints().init(jax.random.key(0), *scene([]), 2)


def test_without_hints_the_colours_stay_as_they_are_in_any_state_of_training(params):
    ab, hints, maps = scene([])
    trained = jax.tree.map(lambda leaf: leaf + 0.1, params)
    np.testing.assert_array_equal(spread(trained, ab + 0.3, hints, maps), ab + np.float32(0.3))


def test_a_hint_recolours_the_area_with_the_same_features_and_hardly_the_other(params):
    changed = spread(params, *scene([(16, 4, 0.5, -0.25)]))[0]
    assert changed[6:10, 1:4, 0].min() > 0.2
    assert changed[6:10, 1:4, 1].max() < -0.1
    assert np.abs(changed[:, 9:]).max() < 0.5 * np.abs(changed[6:10, 1:4]).min()


def test_a_hint_of_the_automatic_colour_changes_nothing(params):
    ab, hints, maps = scene([(16, 4, 0.3, 0.3)])
    np.testing.assert_allclose(spread(params, ab + 0.3, hints, maps), ab + 0.3, atol=1e-6)


def test_each_of_two_hints_counts_most_in_its_own_area(params):
    changed = spread(params, *scene([(16, 4, 0.5, 0.0), (16, 28, -0.5, 0.0)]))[0, 8, :, 0]
    assert changed[:6].min() > 0.1
    assert changed[10:].max() < -0.1


@pytest.mark.slow
def test_a_generator_with_hints_is_the_automatic_one_until_a_hint_is_given():
    widths = {'decoder_widths': (8, 8, 8, 8, 8)}
    plain, hinted = LiteUNet(**widths), LiteUNet(**widths, hints=True)
    gray, points = random(1, 40, 48, 1), np.zeros((1, 40, 48, 3), np.float32)
    both = jax.jit(lambda key: hinted.init(key, gray, train=False))(jax.random.key(0))
    without = {k: v for k, v in both['params'].items() if k != 'hints'}
    automatic = plain.apply({**both, 'params': without}, gray, train=False)
    apply = jax.jit(lambda x: hinted.apply(both, x, train=False))
    np.testing.assert_allclose(apply(gray), automatic, atol=1e-6)
    np.testing.assert_allclose(apply(np.concatenate([gray, points], axis=-1)), automatic, atol=1e-6)
    points[0, 10:13, 20:23] = 0.5, -0.5, 1
    changed = np.abs(apply(np.concatenate([gray, points], axis=-1)) - automatic)[0].max(-1)
    assert changed[:32, :32].min() > 0  # a hint reaches far beyond its pixels
