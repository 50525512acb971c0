import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chromagan_jax.errors import UserError
from chromagan_jax.models.encoder_decoder import EncoderDecoder

KEY = jax.random.key(0)


def shapes(module, *sides):
    inputs = jax.ShapeDtypeStruct((1, *sides, 1), jnp.float32)
    return jax.eval_shape(lambda x: module.init(KEY, x, train=True), inputs)


def test_it_has_the_parameters_of_its_reference():
    params = shapes(EncoderDecoder(), 200, 200)['params']
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 1_406_403  # 1.41 M


def test_the_bottleneck_sees_24_pixels_less():
    inputs = jax.ShapeDtypeStruct((1, 200, 200, 1), jnp.float32)
    _, kept = jax.eval_shape(
        lambda x: EncoderDecoder().init_with_output(KEY, x, train=True, capture_intermediates=True),
        inputs,
    )
    sizes = {
        name: block['__call__'][0].shape[1:]
        for name, block in kept['intermediates'].items()
        if name != '__call__'
    }
    assert sizes == {
        'encoder_0': (192, 192, 32),
        'encoder_1': (184, 184, 64),
        'encoder_2': (176, 176, 128),
        'bottleneck': (176, 176, 128),
        'decoder_2': (184, 184, 64),
        'decoder_1': (192, 192, 32),
        'decoder_0': (196, 196, 32),
        'out': (200, 200, 3),
    }


@pytest.mark.parametrize('dtype', [jnp.float32, pytest.param(jnp.bfloat16, marks=pytest.mark.slow)])
@pytest.mark.parametrize(('channels', 'lowest'), [(3, 0), (2, -1)])
def test_the_target_has_the_size_of_the_condition_and_the_range_of_its_space(
    channels, lowest, dtype
):
    module = EncoderDecoder(channels=channels, width=2, dtype=dtype)
    x = 50 * jax.random.normal(KEY, (2, 25, 38, 1))
    out, _ = jax.jit(lambda x: module.init_with_output(KEY, x, train=True))(x)
    assert out.shape == (2, 25, 38, channels)
    assert out.dtype == jnp.float32
    assert out.min() >= lowest
    assert (out.max() > 1) == (channels == 3)  # a ReLU has no upper end
    assert out.std() > 0


def test_a_pixel_sees_a_window_of_51_pixels():
    """Encoder and decoder widen it by 24 px each, the bottleneck by 2."""
    module = EncoderDecoder(width=2)

    @jax.jit
    def influence(x):
        params = jax.tree.map(jnp.abs, module.init(KEY, x, train=True))  # no ReLU is off
        return jax.grad(lambda x: module.apply(params, x, train=False)[0, 32, 32, 0])(x)

    dark = jnp.full((1, 65, 65, 1), 1e-12)  # the bottleneck's tanh does not saturate
    for axes in ((0, 2, 3), (0, 1, 3)):
        seen = np.flatnonzero(influence(dark).sum(axes))
        assert list(seen) == list(range(32 - 25, 32 + 26))


def test_kernels_start_glorot_uniform_and_biases_at_zero():
    params = jax.jit(EncoderDecoder().init, static_argnames='train')(
        KEY, jnp.zeros((1, 25, 25, 1)), train=True
    )['params']
    kernel = params['decoder_2']['conv_0']['kernel']  # 3x3, 256 -> 128
    limit = np.sqrt(6 / (9 * (256 + 128)))
    assert 0.99 * limit < jnp.abs(kernel).max() <= limit
    np.testing.assert_allclose(kernel.std(), limit / np.sqrt(3), rtol=0.01)
    assert not params['decoder_2']['conv_0']['bias'].any()


@pytest.mark.parametrize(
    ('module', 'sides', 'sentence'),
    [
        (EncoderDecoder(), (24, 24), 'more than 24 px a side, not 24 x 24: raise data.size'),
        (EncoderDecoder(), (64, 20), 'not 64 x 20'),
        (EncoderDecoder(width=0), (32, 32), 'generator.width must be 1 or more, not 0'),
        (EncoderDecoder(slope=1.5), (32, 32), 'generator.slope must be 0 <= x < 1, not 1.5'),
    ],
)
def test_impossible_fields_and_sizes_are_named(module, sides, sentence):
    with pytest.raises(UserError, match=sentence):
        shapes(module, *sides)


@pytest.mark.slow
def test_remat_changes_neither_output_nor_gradient():
    x = jax.random.uniform(KEY, (1, 32, 28, 1))
    init = jax.jit(EncoderDecoder(width=2).init, static_argnames='train')
    variables = init(KEY, x, train=True)

    def loss(remat, variables):
        out = EncoderDecoder(width=2, remat=remat).apply(variables, x, train=True)
        return jnp.square(out).sum(), out

    assert 'remat' in str(jax.make_jaxpr(lambda v: loss(True, v))(variables))
    results = [
        jax.jit(jax.value_and_grad(lambda v, r=r: loss(r, v), has_aux=True))(variables)
        for r in (False, True)
    ]
    assert any(leaf.any() for leaf in jax.tree.leaves(results[0][1]))
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
