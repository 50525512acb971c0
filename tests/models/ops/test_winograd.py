from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate

from chromagan_jax.models.ops import winograd

TILES = [(m, k) for m in (1, 2, 3, 4, 5) for k in (2, 3, 4, 5) if m + k - 1 <= 6]
IN_USE = (3, 2), (2, 3), (3, 4)
COMPILED = [pytest.param(*tile, marks=() if tile in IN_USE else pytest.mark.slow) for tile in TILES]


@pytest.mark.parametrize(('m', 'k'), TILES)
def test_the_matrices_compute_a_correlation_in_the_least_number_of_products(m, k):
    a, g, b = winograd.matrices(m, k)
    assert a.shape[0] == g.shape[0] == b.shape[0] == m + k - 1
    rng = np.random.default_rng(m * 10 + k)
    data, kernel = rng.normal(size=m + k - 1), rng.normal(size=k)
    found = a.T @ ((g @ kernel) * (b @ data))
    np.testing.assert_allclose(found, np.correlate(data, kernel), atol=1e-12)


def test_the_matrices_of_f_2_3_are_lavins_up_to_the_scale_of_their_rows():
    # Lavin and Gray 2016, section 4.1; the evaluation points are 0, 1, -1 and infinity.
    a, g, b = winograd.matrices(2, 3)
    theirs_g = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    theirs_b = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
    theirs_a = np.array([[1, 0], [1, 1], [1, -1], [0, -1]])
    for row in range(4):
        ours = np.einsum('i,j,k->ijk', a[row], g[row], b[row])
        theirs = np.einsum('i,j,k->ijk', theirs_a[row], theirs_g[row], theirs_b[row])
        np.testing.assert_allclose(ours, theirs)


def test_rows_of_b_are_whole_numbers():
    for m, k in TILES:
        b = winograd.matrices(m, k)[2]
        assert all(Fraction(x).denominator == 1 for x in b.ravel().tolist())


def draw(k, px=(13, 10), padding=(0, 1)):
    keys = jax.random.split(jax.random.key(k), 3)
    x = jax.random.normal(keys[0], (2, *px, 5))
    kernel = jax.random.normal(keys[1], (k, k, 5, 7))
    size = [side + sum(padding) - k + 1 for side in px]
    return x, kernel, jax.random.normal(keys[2], (2, *size, 7)), padding


@pytest.mark.parametrize(('m', 'k'), COMPILED)
def test_a_convolution_is_scipys_correlation(m, k):
    x, kernel, _, padding = draw(k)
    found = winograd.convolve(x, kernel, padding, m)
    padded = np.pad(x, ((0, 0), padding, padding, (0, 0)))
    for image, result in zip(padded, found, strict=True):
        expected = [correlate(image, kernel[..., f], 'valid')[..., 0] for f in range(7)]
        np.testing.assert_allclose(result, np.stack(expected, -1), atol=2e-4)


@pytest.mark.parametrize(('m', 'k'), COMPILED)
def test_its_gradients_are_those_of_the_plain_convolution(m, k):
    x, kernel, dy, padding = draw(k)

    def plain(x, kernel):
        dimensions = ('NHWC', 'HWIO', 'NHWC')
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), (padding, padding), dimension_numbers=dimensions
        )

    dx, dkernel = jax.vjp(plain, x, kernel)[1](dy)
    other = k - 1 - padding[0], k - 1 - padding[1]
    found = winograd.convolve(dy, kernel, other, m, transposed=True)
    np.testing.assert_allclose(found, dx, atol=2e-4)
    found = winograd.kernel_gradient(x, dy, k, padding, m)
    np.testing.assert_allclose(found, dkernel, atol=2e-4 * float(jnp.abs(dkernel).max()))


@pytest.mark.parametrize(('m', 'k', 'bound'), [(3, 2, 2e-6), (2, 3, 2e-6), (3, 4, 1e-5)])
def test_the_error_with_many_channels_is_that_of_the_docstring(m, k, bound):
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (2, 16, 16, 256))
    kernel = jax.random.normal(keys[1], (k, k, 256, 64))
    found = np.asarray(winograd.convolve(x, kernel, (0, 0), m), np.float64)
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    exact = [[correlate(image, kernel[..., f], 'valid')[..., 0] for f in (0, 1)] for image in x]
    exact = np.stack(exact).transpose(0, 2, 3, 1)
    assert abs(found[..., :2] - exact).max() < bound * abs(exact).max()


@pytest.mark.parametrize(('m', 'k'), IN_USE)
def test_the_bfloat16_setting_rounds_the_factors_of_small_tiles_only(m, k):
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (2, 16, 16, 256))
    kernel = jax.random.normal(keys[1], (k, k, 256, 64))
    exact = winograd.convolve(x, kernel, (0, 0), m)
    with jax.default_matmul_precision('bfloat16'):
        found = winograd.convolve(x, kernel, (0, 0), m)
    error = float((found - exact).std() / exact.std())
    assert error == 0 if m + k - 1 > 4 else 1e-3 < error < 5e-3
