import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chromagan_jax.models.ops import conv
from chromagan_jax.models.ops.products import product


def draw(*shape):
    return jax.random.normal(jax.random.key(len(shape)), shape)


def rounded(x):
    return np.asarray(x.astype(jnp.bfloat16).astype(jnp.float32), np.float64)


def test_without_the_setting_a_product_is_jaxs_bit_by_bit():
    x, y = draw(64, 32), draw(3, 3, 16, 32)
    found = product('tc,ijfc->tijf', x, y)
    np.testing.assert_array_equal(found, jnp.einsum('tc,ijfc->tijf', x, y))


def test_with_the_setting_it_is_the_float32_product_of_rounded_factors():
    x, y = draw(64, 32), draw(3, 3, 16, 32)
    with jax.default_matmul_precision('bfloat16'):
        found = jax.jit(lambda x, y: product('tc,ijfc->tijf', x, y))(x, y)
    assert found.dtype == jnp.float32
    expected = np.einsum('tc,ijfc->tijf', rounded(x), rounded(y))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_the_setting_leaves_bfloat16_products_alone():
    x, y = draw(64, 32).astype(jnp.bfloat16), draw(32, 16, 1)[..., 0].astype(jnp.bfloat16)
    with jax.default_matmul_precision('bfloat16'):
        found = product('tc,cf->tf', x, y)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, x @ y)


# Winograd's tiles; patches; taps with the kernel or the gradient as the first factor.
@pytest.mark.parametrize('shape', [(2, 32, 3, 64, 64), (1, 8, 2, 64, 64), (1, 4, 2, 64, 64)])
def test_a_convolution_and_its_input_gradient_follow_the_setting_and_stay_close(shape):
    batch, px, k, channels, features = shape
    x, kernel = draw(batch, px, px, channels), draw(k, k, channels, features, 1)[..., 0]

    @jax.jit
    def both(x, kernel):
        y, vjp = jax.vjp(lambda x: conv.conv(x, kernel, (1, 1)), x)
        return y, vjp(y)[0]

    exact = both(x, kernel)
    with jax.default_matmul_precision('bfloat16'):
        found = both(x, kernel)
    for result, expected in zip(found, exact, strict=True):
        assert result.dtype == jnp.float32
        assert 1e-3 < float((result - expected).std() / expected.std()) < 1e-2
