import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chromagan_jax.errors import UserError
from chromagan_jax.models.unet import UNet

KEY = jax.random.key(0)


def shapes(module, size):
    inputs = jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32)
    init = lambda x: module.init({'params': KEY, 'noise': KEY}, x, train=True)
    return jax.eval_shape(init, inputs)


def test_unet_256_has_the_parameters_of_pix2pix():
    params = shapes(UNet(size=256), 256)['params']
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 54_409_858


@pytest.mark.parametrize(('channels', 'size', 'depth'), [(2, 32, 0), (3, 64, 3), (2, 24, 2)])
def test_the_target_has_the_size_of_the_condition(channels, size, depth):
    module = UNet(channels=channels, size=size, depth=depth, width=4)
    x = jnp.zeros((2, size, size, 1))
    out, _ = module.init_with_output({'params': KEY, 'noise': KEY}, x, train=True)
    assert out.shape == (2, size, size, channels)
    assert out.dtype == jnp.float32


def test_depth_0_goes_down_to_one_pixel():
    blocks = [name for name in shapes(UNet(size=64, width=4), 64)['params'] if 'down' in name]
    assert len(blocks) == 6


def test_a_network_of_one_size_takes_multiples_of_it():
    module = UNet(size=16, width=4)
    variables = module.init({'params': KEY, 'noise': KEY}, jnp.zeros((1, 16, 16, 1)), train=True)
    assert module.apply(variables, jnp.zeros((1, 48, 32, 1)), train=False).shape == (1, 48, 32, 2)


@pytest.mark.parametrize(
    ('module', 'size', 'sentence'),
    [
        (UNet(size=200), 200, 'power of two'),
        (UNet(depth=5), 48, 'takes sides that 32 divides, not 48 x 48'),
        (UNet(width=0, size=16), 16, 'generator.width must be 1 or more, not 0'),
        (UNet(depth=-1, size=16), 16, 'generator.depth must be 0 or more, not -1'),
        (UNet(dropout=1.5, size=16), 16, 'generator.dropout must be 0 <= x < 1, not 1.5'),
        (UNet(norm='layer', size=16), 16, "generator.norm is 'layer'"),
        (UNet(test_mode='x', size=16), 16, "generator.test_mode is 'x'"),
    ],
)
def test_impossible_fields_are_named(module, size, sentence):
    with pytest.raises(UserError, match=sentence):
        shapes(module, size)


def test_dropout_is_the_only_noise_and_only_in_training():
    module = UNet(size=32, width=4, dropout=0.5)
    x = jax.random.normal(KEY, (1, 32, 32, 1))
    variables = module.init({'params': KEY, 'noise': KEY}, x, train=True)

    def train(seed):
        rngs = {'noise': jax.random.key(seed)}
        return module.apply(variables, x, train=True, mutable=['batch_stats'], rngs=rngs)[0]

    assert jnp.array_equal(train(1), train(1))
    assert not jnp.array_equal(train(1), train(2))
    module.apply(variables, x, train=False)  # asks for no random numbers


def test_remat_changes_the_memory_and_not_the_gradient():
    x = jax.random.normal(KEY, (2, 32, 32, 1))
    variables = UNet(size=32, width=4).init({'params': KEY, 'noise': KEY}, x, train=True)

    def loss(remat):
        module = UNet(size=32, width=4, remat=remat)

        def value(params):
            out, _ = module.apply(
                {**variables, 'params': params},
                x,
                train=True,
                mutable=['batch_stats'],
                rngs={'noise': KEY},
            )
            return jnp.square(out).sum()

        return value

    plain, remat = (jax.jit(jax.grad(loss(r))) for r in (False, True))
    assert 'remat' in str(jax.make_jaxpr(jax.grad(loss(True)))(variables['params']))
    for a, b in zip(
        jax.tree.leaves(plain(variables['params'])),
        jax.tree.leaves(remat(variables['params'])),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
