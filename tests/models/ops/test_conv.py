import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from chromagan_jax.models.ops import backend, conv

# (px, kernel, channels, features, padding): one a branch of the kernel gradient, and more.
SHAPES = [
    (9, 3, 4, 5, (0, 0)),
    (9, 3, 4, 5, (1, 1)),
    (9, 5, 3, 4, (4, 4)),
    (10, 4, 3, 4, (1, 1)),
    (10, 4, 3, 4, (1, 2)),
    (9, 7, 3, 4, (0, 0)),
    (6, 2, 64, 64, (0, 0)),
    (6, 2, 64, 65, (1, 1)),
    (8, 3, 64, 64, (0, 0)),
    pytest.param(36, 3, 64, 64, (1, 1), marks=pytest.mark.slow),
    (2, 1, 5, 3, (0, 0)),
    (25, 3, 64, 64, (1, 1)),  # from here on by Winograd's tiles, whole and in part
    pytest.param(23, 2, 64, 65, (1, 1), marks=pytest.mark.slow),
    pytest.param(24, 4, 65, 64, (1, 1), marks=pytest.mark.slow),
    pytest.param(26, 4, 64, 64, (0, 0), marks=pytest.mark.slow),
    (25, 3, 16, 64, (1, 1)),  # the convolution alone by tiles
    (8, 3, 64, 2, (1, 1)),  # products first; gradients by patches of the narrower side
    (8, 2, 3, 64, (1, 1)),
]


def plain(x, kernel, padding):
    return lax.conv_general_dilated(
        x, kernel, (1, 1), (padding, padding), dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )


def draw(px, k, channels, features, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (2, px, px + 1, channels), dtype)
    return x, jax.random.normal(keys[1], (k, k, channels, features), dtype) / k


def assert_close(a, b, rtol=2e-5):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=rtol * float(abs(b).max())), a, b
    )


@pytest.mark.parametrize(('px', 'k', 'channels', 'features', 'padding'), SHAPES)
def test_values_and_gradients_are_those_of_the_plain_convolution(
    px, k, channels, features, padding
):
    x, kernel = draw(px, k, channels, features)

    def outcome(f):
        def loss(x, kernel):
            return jnp.square(f(x, kernel, padding)).sum()

        return jax.jit(lambda x, k: (f(x, k, padding), jax.grad(loss, (0, 1))(x, k)))(x, kernel)

    assert_close(outcome(conv.conv), outcome(plain))


@pytest.mark.parametrize(
    ('px', 'k', 'channels', 'features', 'padding'), SHAPES[:1] + SHAPES[8:9] + SHAPES[11:13]
)
def test_second_derivatives_are_those_of_the_plain_convolution(px, k, channels, features, padding):
    x, kernel = draw(px, k, channels, features)

    def penalty(f):
        def slope(kernel):  # as WGAN-GP: a gradient in x, then one in the kernel
            gradient = jax.grad(lambda x: jnp.tanh(f(x, kernel, padding)).sum())(x)
            return jnp.square(gradient).sum()

        return jax.jit(jax.grad(slope))(kernel)

    assert_close(penalty(conv.conv), penalty(plain))


def test_mixed_precision_keeps_the_type_of_its_inputs():
    x, kernel = draw(8, 3, 64, 64, jnp.bfloat16)
    y, pull = jax.vjp(conv.conv, x, kernel)
    assert {y.dtype, *(g.dtype for g in pull(y))} == {jnp.dtype('bfloat16')}


def test_off_the_cpu_it_is_the_plain_convolution(monkeypatch):
    x, kernel = draw(9, 3, 4, 5)
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    jaxpr = jax.make_jaxpr(conv.conv)(x, kernel)
    assert [equation.primitive.name for equation in jaxpr.eqns] == ['conv_general_dilated']
    assert (conv.conv(x, kernel) == plain(x, kernel, (0, 0))).all()


@pytest.mark.parametrize(
    ('px', 'k', 'channels', 'features', 'padding', 'form', 'dtype'),
    [
        (9, 2, 16, 8, (1, 1), 'product', 'float32'),
        (9, 2, 16, 8, (1, 1), 'product', 'bfloat16'),
        (9, 2, 16, 8, (1, 1), 'exchanged', 'bfloat16'),
        (9, 2, 40, 33, (1, 1), 'product', 'float32'),  # too many channels for a product
        (7, 3, 24, 20, (2, 1), 'exchanged', 'float32'),
        (6, 4, 8, 2, (3, 3), 'exchanged', 'float32'),
    ],
)
def test_kernel_gradients_on_a_gpu_are_those_of_the_plain_convolution(
    px, k, channels, features, padding, form, dtype, monkeypatch
):
    x, kernel = draw(px, k, channels, features, jnp.dtype(dtype))
    weights = jax.random.normal(jax.random.key(2), plain(x, kernel, padding).shape)

    def gradients(f):
        loss = lambda x, kernel: (weights * f(x, kernel, padding).astype(jnp.float32)).sum()
        return jax.jit(jax.grad(loss, (0, 1)))(x, kernel)

    expected = gradients(plain)
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    with backend.using(backend.Forms(kernel_gradient=form)):
        found = gradients(conv.conv)
    assert {leaf.dtype for leaf in found} == {jnp.dtype(dtype)}
    exact = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (found, expected))
    assert_close(*exact, rtol=2e-5 if dtype == 'float32' else 1e-2)


def test_second_derivatives_on_a_gpu_are_those_of_the_plain_convolution(monkeypatch):
    x, kernel = draw(7, 2, 16, 20)

    def penalty(f):
        def slope(x, kernel):
            gradients = jax.grad(lambda x, k: jnp.tanh(f(x, k, (1, 1))).sum(), (0, 1))(x, kernel)
            return sum(jnp.square(gradient).sum() for gradient in gradients)

        return jax.jit(jax.grad(slope, (0, 1)))(x, kernel)

    expected = penalty(plain)
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    assert_close(penalty(conv.conv), expected)


@pytest.mark.parametrize('features', [8, 80])  # by a product, and with exchanged roles
def test_no_kernel_gradient_on_a_gpu_is_padded_for_which_xla_does_not_take_it_for_one(
    features, monkeypatch
):
    x, kernel = draw(9, 2, 80, features)
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')

    def padded(f):
        jaxpr = jax.make_jaxpr(jax.grad(lambda kernel: f(x, kernel, (1, 1)).sum()))(kernel)
        return [e.params.get('padding') for e in jaxpr.eqns].count(((1, 1), (1, 1)))

    assert (padded(plain), padded(conv.conv)) == (2, 1)  # one is forward


@pytest.mark.parametrize('padding', ['SAME', 'VALID', 1, ((1, 2), (1, 2))])
@pytest.mark.parametrize('strides', [1, 2])
def test_the_layer_is_flaxs(padding, strides):
    x, _ = draw(12, 4, 3, 5)
    layers = [c(5, (4, 4), strides, padding) for c in (conv.Conv, nn.Conv)]
    variables = layers[1].init(jax.random.key(1), x)
    assert_close(*(layer.apply(variables, x) for layer in layers))
