import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from chromagan_jax.config.schema import AugmentConfig
from chromagan_jax.gan import augment


def condition(batch=64, size=12, seed=0):
    return jax.random.uniform(jax.random.key(seed), (batch, size, size, 1), minval=-1)


def test_lightness_is_bent_by_one_exponent_an_image_and_colours_stay():
    batch = {'condition': condition(), 'target': condition(seed=1)}
    config = AugmentConfig(lightness_std=0.25)
    bent = augment.random_gamma(config, batch, jax.random.key(2))
    assert bent['target'] is batch['target']
    old, new = (np.asarray((x['condition'] + 1) / 2, np.float64) for x in (batch, bent))
    exponents = np.log(new) / np.log(old)
    per_image = np.median(exponents, axis=(1, 2, 3))
    assert np.allclose(old ** per_image[:, None, None, None], new, atol=1e-5)
    assert 0.7 - 1e-4 <= per_image.min() < 0.9
    assert 1.1 < per_image.max() <= 1.4 + 1e-4
    assert np.log(per_image).std() == pytest.approx(0.2, abs=0.05)


def test_black_and_white_stay_black_and_white():
    x = jnp.stack([jnp.full((4, 4, 1), -1.0), jnp.full((4, 4, 1), 1.0)])
    bent = augment.random_gamma(
        AugmentConfig(lightness_std=0.25), {'condition': x}, jax.random.key(0)
    )
    np.testing.assert_allclose(bent['condition'], x, atol=1e-3)


def test_micro_batches_are_bent_image_by_image():
    batch = {'condition': condition().reshape(4, 16, 12, 12, 1)}
    bent = augment.random_gamma(AugmentConfig(lightness_std=0.25), batch, jax.random.key(2))
    changes = np.abs(bent['condition'] - batch['condition']).mean(axis=(2, 3, 4))
    assert len(np.unique(changes.round(6))) > 50


def test_without_strengths_the_very_same_arrays_come_back():
    x = condition()
    assert augment.random_gamma(AugmentConfig(), {'x': x, 'condition': x}, None)['condition'] is x
    assert augment.degrade(AugmentConfig(), x, None) is x


def test_blur_is_the_mean_of_nine_pixels_with_a_repeated_border():
    x = condition(4)
    blurred = augment.degrade(AugmentConfig(blur=1.0), x, jax.random.key(0))
    expected = ndimage.uniform_filter(np.asarray(x), (1, 3, 3, 1), mode='nearest')
    np.testing.assert_allclose(blurred, expected, atol=1e-6)


def test_the_shares_of_blurred_and_grainy_images_are_those_of_the_config():
    x = condition(2000, 4)
    for config, share in (
        (AugmentConfig(blur=0.2), 0.2),
        (AugmentConfig(grain=0.35, grain_std=0.05), 0.35),
    ):
        changed = np.asarray(augment.degrade(config, x, jax.random.key(1)) != x).any((1, 2, 3))
        assert changed.mean() == pytest.approx(share, abs=0.04)


def test_grain_is_white_noise_of_at_most_the_given_deviation():
    x = jnp.zeros((200, 16, 16, 1))
    noise = np.asarray(
        augment.degrade(AugmentConfig(grain=1.0, grain_std=0.08), x, jax.random.key(1))
    )
    deviations = noise.std(axis=(1, 2, 3))
    assert 0.07 < deviations.max() < 0.09
    assert deviations.mean() == pytest.approx(0.04, abs=0.005)
    neighbours = (noise[:, 1:] * noise[:, :-1]).mean() / noise.var()
    assert abs(neighbours) < 0.02


def test_the_result_lies_in_the_range_of_the_condition():
    x = jnp.sign(condition())
    noisy = augment.degrade(AugmentConfig(grain=1.0, grain_std=0.5), x, jax.random.key(0))
    assert jnp.abs(noisy).max() <= 1
