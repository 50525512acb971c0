import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from chromagan_jax.config.schema import HintsConfig
from chromagan_jax.gan.hints import draw_hints


def drawn(config, target, seed=0):
    return np.asarray(draw_hints(config, jnp.asarray(target), jax.random.key(seed)))


def noise(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def test_hints_reveal_the_mean_target_of_squares_and_nothing_else():
    target = noise(24, 32, 32, 2)
    hints = drawn(HintsConfig(none=0.0, mean=1.001, most=1), target)
    assert set(np.unique(hints[..., 2])) == {0, 1}
    assert (hints[hints[..., 2] == 0] == 0).all()
    sides = set()
    for image, hint in zip(target, hints, strict=True):
        inside = hint[..., 2] == 1
        rows, columns = np.nonzero(inside)
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert inside.sum() == height * width
        assert max(height, width) <= 9
        sides.add(max(height, width))
        np.testing.assert_allclose(
            hint[inside][:, :2], np.tile(image[inside].mean(0), (inside.sum(), 1)), atol=1e-5
        )
    assert len(sides) >= 4


def test_the_number_of_hints_is_geometric_and_a_share_of_images_has_none():
    config = HintsConfig(none=0.25, mean=4.0, most=32)
    hints = drawn(config, noise(400, 48, 48, 2))
    counts = np.array([ndimage.label(hint[..., 2])[1] for hint in hints])
    assert (counts == 0).mean() == pytest.approx(0.25, abs=0.04)
    some = counts[counts > 0]
    assert some.mean() == pytest.approx(3.7, abs=0.5)  # squares that touch count once
    assert some.max() > 10


def test_hints_lie_everywhere():
    hints = drawn(HintsConfig(none=0.0, mean=8.0), noise(200, 16, 16, 2))
    assert hints[..., 2].mean(0).min() > 0.1
