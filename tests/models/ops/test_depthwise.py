"""Both formulations of a depthwise convolution against sums over its windows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chromagan_jax.models.ops import depthwise

FORMS = {'shifted': depthwise._shifted, 'grouped': depthwise._grouped}
SIZES = [(7, 8), (6, 1)]


def plain_taps(size, k, stride):
    """For each output row and tap, the input row (or column) under it; SAME padding."""
    outputs = -(-size // stride)
    before = max((outputs - 1) * stride + k - size, 0) // 2
    for o in range(outputs):
        for tap in range(k):
            if 0 <= o * stride + tap - before < size:
                yield o, tap, o * stride + tap - before


def plain(x, kernel, dy, stride):
    """The convolution and its gradients to the input and to the kernel for the cotangent `dy`."""
    y, dx, dkernel = np.zeros_like(dy), np.zeros_like(x), np.zeros_like(kernel)
    for i, u, row in plain_taps(x.shape[1], len(kernel), stride):
        for j, v, column in plain_taps(x.shape[2], len(kernel), stride):
            y[:, i, j] += kernel[u, v] * x[:, row, column]
            dx[:, row, column] += kernel[u, v] * dy[:, i, j]
            dkernel[u, v] += (x[:, row, column] * dy[:, i, j]).sum(0)
    return y, dx, dkernel


def draw(k, stride, size):
    rng = np.random.default_rng(k + stride)
    x, kernel = rng.normal(size=(2, *size, 3)), rng.normal(size=(k, k, 3))
    return x, kernel, rng.normal(size=(2, *(-(-n // stride) for n in size), 3))


def computed(form, stride, *arrays):
    def all_three(x, kernel, dy):
        y, pull_back = jax.vjp(lambda x, kernel: FORMS[form](x, kernel, stride), x, kernel)
        return y, *pull_back(dy)

    return jax.jit(all_three)(*arrays)


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('k', [3, 5])
@pytest.mark.parametrize('form', FORMS)
def test_the_result_and_both_gradients_are_sums_over_the_windows(form, k, stride, size):
    arrays = draw(k, stride, size)
    found = computed(form, stride, *(jnp.asarray(a, jnp.float32) for a in arrays))
    for ours, expected in zip(found, plain(*arrays, stride), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize('form', FORMS)
def test_bfloat16_stays_bfloat16(form):
    arrays = [jnp.asarray(a, jnp.bfloat16) for a in draw(3, 2, (5, 4))]
    found = computed(form, 2, *arrays)
    expected = plain(*(np.asarray(a, np.float64) for a in arrays), 2)
    for ours, value in zip(found, expected, strict=True):
        assert ours.dtype == jnp.bfloat16
        np.testing.assert_allclose(ours.astype(jnp.float32), value, atol=0.03 * abs(value).max())


def test_both_forms_have_the_same_second_derivatives():
    x, kernel, _ = (jnp.asarray(a, jnp.float32) for a in draw(3, 2, (5, 4)))

    def penalty(form):
        def gradient_norm(x, kernel):
            dx = jax.grad(lambda x: jnp.sin(FORMS[form](x, kernel, 2)).sum())(x)
            return jnp.square(dx).sum()

        return jax.jit(jax.grad(gradient_norm, argnums=(0, 1)))(x, kernel)

    for ours, expected in zip(penalty('shifted'), penalty('grouped'), strict=True):
        assert jnp.abs(expected).max() > 0.1
        np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_only_a_cpu_computes_the_sum_of_shifted_products(monkeypatch):
    x, kernel = jnp.ones((1, 4, 4, 3)), jnp.ones((3, 3, 3))
    jaxpr = lambda: str(jax.make_jaxpr(lambda x: depthwise.depthwise_conv(x, kernel, 2))(x))
    assert 'conv_general_dilated' not in jaxpr()
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    assert 'feature_group_count=3' in jaxpr()
