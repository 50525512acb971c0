import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import color as skimage_color

from chromagan_jax.config.schema import SteeringConfig
from chromagan_jax.gan.steering import init_steering, mean_chroma, update_steering


def targets(scale, seed=0):
    return scale * np.random.default_rng(seed).uniform(-1, 1, (2, 8, 8, 2)).astype(np.float32)


def steered(config, state, fake, real, steps, first=1000):
    update = jax.jit(lambda state, step: update_steering(config, state, step, fake, real))
    for step in range(first, first + steps):
        state = update(state, jnp.int32(step))
    return state


def test_the_mean_chroma_is_that_of_scikit_image():
    rgb = np.random.default_rng(1).random((3, 8, 8, 3))
    lab = skimage_color.rgb2lab(rgb)
    chroma = skimage_color.lab2lch(lab)[..., 1]
    assert mean_chroma(jnp.asarray(lab[..., 1:])) == pytest.approx(chroma.mean(), rel=1e-5)


@pytest.mark.parametrize(('scale', 'direction'), [(0.5, -1), (1.0, 1)])
def test_pale_fakes_lower_the_weight_and_strong_ones_raise_it(scale, direction):
    config = SteeringConfig(chroma_share=0.75, rate=0.01)
    real = targets(0.3)
    new = steered(config, init_steering(30.0), scale * real, real, 1)
    assert new.share == pytest.approx(scale, rel=1e-5)
    assert new.weight == pytest.approx(30 * np.exp(0.01 * (scale - 0.75)), rel=1e-5)
    assert np.sign(new.weight - 30) == direction


def test_the_weight_stays_within_its_limits_and_constant_during_the_delay():
    config = SteeringConfig(chroma_share=0.5, rate=1.0, delay=400)
    real = targets(0.3)
    assert steered(config, init_steering(30.0), real, real, 20).weight == 60
    assert steered(config, init_steering(30.0), 0 * real, real, 20).weight == 8
    assert steered(config, init_steering(30.0), real, real, 20, first=380).weight == 30


def test_the_share_is_an_average_over_steps_that_gray_batches_do_not_make_infinite():
    config = SteeringConfig(chroma_share=0.5)
    real = targets(0.3)
    state = steered(config, init_steering(30.0), real, real, 1)
    state = steered(config, state, 0 * real, real, 50)
    assert state.share == pytest.approx(0.7, rel=1e-3)
    gray = steered(config, state, 0 * real, 0 * real, 1)
    assert np.isfinite(gray.share)
    assert np.isfinite(gray.weight)
