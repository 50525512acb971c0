import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import linen as nn

from chromagan_jax import color
from chromagan_jax.errors import UserError
from chromagan_jax.models import layers
from chromagan_jax.models.unet import UNet

KEY = jax.random.key(0)


def shapes(module, size):
    inputs = jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32)
    init = lambda x: module.init({'params': KEY, 'noise': KEY}, x, train=True)
    return jax.eval_shape(init, inputs)


def test_unet_256_has_the_parameters_of_pix2pix():
    params = shapes(UNet(size=256), 256)['params']
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 54_409_858


def features(params, part):
    """Output features of the blocks whose name begins with `part`, in the order of the name."""
    ways = {'down': 1, 'up': 4}  # the kernel of a transposed convolution holds four phases
    names = sorted(name for name in params if name.startswith(part))
    return [params[name]['conv']['kernel'].shape[-1] // ways[part] for name in names]


def test_widths_and_a_stem_make_the_encoder_and_decoder_of_image_colorizer():
    module = UNet(widths=(64, 128, 256, 512, 512, 512, 512), stem=64, activation='leaky_relu')
    params = shapes(module, 128)['params']
    assert params['stem']['kernel'].shape == (3, 3, 1, 64)
    assert features(params, 'down') == [64, 128, 256, 512, 512, 512, 512]
    assert features(params, 'up')[::-1] == [512, 512, 512, 256, 128, 64, 64]
    assert params['out']['kernel'].shape == (3, 3, 128, 2)
    kernels = 9 * (64 + 128 * 2) + 16 * (
        (64 + 128) * 64 + 128 * 256 + 256 * 512 + 3 * 512**2  # down
        + 512 * 512 + 2 * 1024 * 512 + 1024 * 256 + 512 * 128 + 256 * 64 + 128 * 64  # up
    )  # fmt: skip
    down_norms = 64 + 128 + 256 + 3 * 512  # none on the stem and the innermost
    up_norms = 3 * 512 + 256 + 128 + 64 + 64
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert total == kernels + 2 * (down_norms + up_norms) + 2 == 42_019_522


def test_widths_are_what_width_stands_for():
    x = jax.random.normal(KEY, (1, 16, 32, 1))
    plain, given = UNet(width=4, depth=4), UNet(width=7, widths=(4, 8, 16, 32))
    init = jax.jit(lambda: plain.init({'params': KEY, 'noise': KEY}, x, train=True))
    variables = init()
    outs = [jax.jit(lambda m=m: m.apply(variables, x, train=False))() for m in (plain, given)]
    assert jnp.array_equal(*outs)


def test_checkpoints_of_the_plain_network_keep_their_names():
    variables = shapes(UNet(width=4, depth=3), 16)
    conv, norm = {'conv': {'kernel'}}, {'norm': {'scale', 'bias'}}
    blocks = {name: block for name, block in variables['params'].items() if name != 'out'}
    names = {name: {k: set(v) for k, v in block.items()} for name, block in blocks.items()}
    assert names == {
        'down_0': conv,
        'down_1': conv | norm,
        'down_2': conv,
        'up_2': conv | norm,
        'up_1': conv | norm,
    }
    assert set(variables['params']['out']) == {'kernel', 'bias'}
    assert set(variables['batch_stats']) == {'down_1', 'up_1', 'up_2'}


@pytest.mark.parametrize(
    ('fields', 'blocks'),
    [
        ({'depth': 8}, {'up_6', 'up_5', 'up_4'}),
        ({'depth': 7, 'stem': 4, 'dropout_from': 0}, {'up_6', 'up_5', 'up_4'}),
        ({'depth': 3}, {'up_1'}),
        ({'depth': 8, 'dropout': 0.0}, set()),
    ],
)
def test_dropout_follows_three_transposed_convolutions(fields, blocks):
    seen = set()

    def watch(call, args, kwargs, context):
        if isinstance(context.module, layers.Dropout) and context.module.rate > 0:
            seen.add(context.module.path[0])
        return call(*args, **kwargs)

    with nn.intercept_methods(watch):
        shapes(UNet(width=1, **fields), 256)
    assert seen == blocks


@pytest.mark.slow
def test_an_encoder_adds_its_maps_to_the_levels_of_their_sizes():
    fields = {'width': 4, 'depth': 5, 'norm': 'none'}
    condition = jax.random.uniform(jax.random.key(0), (2, 32, 32, 1), minval=-1)
    module = UNet(**fields, encoder='squeezenet')
    variables = module.init(jax.random.key(1), condition, train=False)
    params = variables['params']
    added = {name: params[name]['conv']['kernel'].shape for name in params if 'context' in name}
    assert added == {
        'context_1': (1, 1, 128, 8),
        'context_2': (1, 1, 256, 16),
        'context_3': (1, 1, 512, 32),
    }
    got = module.apply(variables, condition, train=False)
    without = {k: v for k, v in params.items() if k not in {*added, 'squeezenet'}}
    plain = UNet(**fields).apply({'params': without}, condition, train=False)
    assert jnp.abs(got - plain).max() > 1e-3
    for name in added:
        params[name]['conv']['kernel'] *= 0
    still = module.apply(variables, condition, train=False)
    np.testing.assert_array_equal(still, plain)


@pytest.mark.parametrize('space', ['lab', 'rgb'])
def test_an_encoder_sees_the_same_gray_in_every_colour_space(space):
    gray = np.linspace(0, 1, 256, dtype=np.float32).reshape(1, 16, 16, 1)
    condition, target = color.encode((gray * 255).round().astype(np.uint8).repeat(3, 3), space)
    seen = color.gray_of_condition(jnp.asarray(condition), target.shape[-1])
    np.testing.assert_allclose(seen, (gray * 255).round() / 255, atol=1e-4)


@pytest.mark.parametrize(
    ('fields', 'stride', 'ups', 'out'),
    [
        ({}, 2, ['up_1', 'up_2', 'up_3'], (3, 3, 8, 2)),
        pytest.param({}, 4, ['up_2', 'up_3'], (3, 3, 16, 2), marks=pytest.mark.slow),
        pytest.param({}, 16, [], (3, 3, 32, 2), marks=pytest.mark.slow),
        ({'stem': 3}, 2, ['up_1', 'up_2', 'up_3'], (3, 3, 8, 2)),
    ],
)
def test_colours_of_a_stride_come_from_fewer_pixels(fields, stride, ups, out):
    module = UNet(width=4, depth=4, output_stride=stride, **fields)
    condition = jax.random.uniform(KEY, (1, 32, 48, 1), minval=-1)
    init = jax.jit(lambda: module.init({'params': KEY, 'noise': KEY}, condition, train=True))
    variables = init()
    params = variables['params']
    assert sorted(name for name in params if name.startswith('up')) == ups
    assert params['out']['kernel'].shape == out
    apply = jax.jit(lambda: module.apply(variables, condition, False, capture_intermediates=True))
    made, state = apply()
    (coarse,) = state['intermediates']['out']['__call__']
    assert coarse.shape == (1, 32 // stride, 48 // stride, 2)
    sharp = cv2.resize(np.tanh(coarse[0]), (48, 32), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(made[0], sharp, atol=1e-6)


@pytest.mark.parametrize(('channels', 'size', 'depth'), [(2, 32, 0), (3, 64, 3), (2, 24, 2)])
def test_the_target_has_the_size_of_the_condition(channels, size, depth):
    module = UNet(channels=channels, size=size, depth=depth, width=4)
    init = lambda x: module.init_with_output({'params': KEY, 'noise': KEY}, x, train=True)
    out, _ = jax.eval_shape(init, jnp.zeros((2, size, size, 1)))
    assert out.shape == (2, size, size, channels)
    assert out.dtype == jnp.float32


def test_depth_0_goes_down_to_one_pixel():
    blocks = [name for name in shapes(UNet(size=64, width=4), 64)['params'] if 'down' in name]
    assert len(blocks) == 6


def test_a_network_of_one_size_takes_multiples_of_it():
    module = UNet(size=16, width=4)
    apply = lambda variables, x: module.apply(variables, x, train=False)
    out = jax.eval_shape(apply, shapes(module, 16), jnp.zeros((1, 48, 32, 1)))
    assert out.shape == (1, 48, 32, 2)


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
        (UNet(activation='elu', size=16), 16, "generator.activation is 'elu'; choose one of relu"),
        (UNet(stem=-1, size=16), 16, 'generator.stem must be 0 or more, not -1'),
        (UNet(dropout_from=-1, size=16), 16, 'generator.dropout_from must be 0 or more'),
        (UNet(noise_channels=-1, size=16), 16, 'generator.noise_channels must be 0 or more'),
        (UNet(output_stride=3, size=16), 16, 'output_stride must be 1, 2, 4 or another power'),
        (UNet(output_stride=0, size=16), 16, 'generator.output_stride must be 1, 2, 4'),
        (UNet(output_stride=8, depth=2), 16, 'output_stride must be 4 or less for a U-Net of'),
        (UNet(output_stride=2, channels=3, size=16), 16, "must be 1 unless color_space is 'lab'"),
        (UNet(widths=(4, 0)), 16, 'generator.widths must be 1 or more each, not 0'),
        (UNet(widths=(4, 8), depth=3), 16, 'generator.depth is 3, but generator.widths has 2'),
        (UNet(widths=(4, 8, 8)), 20, 'A U-Net of depth 3 takes sides that 8 divides'),
    ],
)
def test_impossible_fields_are_named(module, size, sentence):
    with pytest.raises(UserError, match=sentence):
        shapes(module, size)


def test_dropout_is_the_only_noise_and_only_in_training():
    module = UNet(size=32, width=4, dropout=0.5)
    x = jax.random.normal(KEY, (1, 32, 32, 1))
    variables = jax.jit(lambda: module.init({'params': KEY, 'noise': KEY}, x, train=True))()

    @jax.jit
    def train(seed):
        rngs = {'noise': jax.random.key(seed)}
        return module.apply(variables, x, train=True, mutable=['batch_stats'], rngs=rngs)[0]

    assert jnp.array_equal(train(1), train(1))
    assert not jnp.array_equal(train(1), train(2))
    jax.eval_shape(lambda: module.apply(variables, x, train=False))  # asks for no random numbers


def test_noise_channels_are_normal_and_only_where_the_stream_is_given():
    x = jax.random.normal(KEY, (2, 64, 64, 1))
    beside = lambda **rngs: UNet(noise_channels=3).apply({}, x, rngs=rngs, method='_with_noise')
    for out in (beside(), beside(noise=KEY)):
        np.testing.assert_array_equal(out[..., :1], x)
    np.testing.assert_array_equal(beside()[..., 1:], np.zeros((2, 64, 64, 3)))
    noise = beside(noise=KEY)[..., 1:].reshape(-1, 3)
    np.testing.assert_allclose(noise.mean(0), 0, atol=0.05)
    np.testing.assert_allclose(np.cov(noise.T), np.eye(3), atol=0.05)
    np.testing.assert_allclose(scipy.stats.kurtosis(noise), 0, atol=0.2)


def test_noise_channels_change_the_colours_and_only_where_the_stream_is_given():
    module = UNet(depth=2, width=4, dropout=0.0, noise_channels=2)
    x = jax.random.normal(KEY, (1, 8, 8, 1))
    variables = jax.jit(lambda: module.init({'params': KEY, 'noise': KEY}, x, train=True))()

    @jax.jit
    def colours(seed):
        return module.apply(variables, x, train=False, rngs={'noise': jax.random.key(seed)})

    still = jax.jit(lambda: module.apply(variables, x, train=False))()
    assert jnp.array_equal(colours(1), colours(1))
    assert not jnp.array_equal(colours(1), colours(2))
    assert not jnp.array_equal(colours(1), still)


@pytest.mark.parametrize('fields', [{'stem': 3, 'activation': 'leaky_relu'}, {'norm': 'group'}])
@pytest.mark.slow
def test_variants_train_in_bfloat16_with_remat(fields):
    module = UNet(widths=(4, 6, 8), dtype=jnp.bfloat16, remat=True, noise_channels=1, **fields)
    x = jax.random.normal(KEY, (2, 16, 24, 1))
    rngs = {'params': KEY, 'noise': KEY}

    @jax.jit
    def gradient():
        variables = module.init(rngs, x, train=True)

        def loss(params):
            out, _ = module.apply(
                {**variables, 'params': params}, x, train=True, mutable=['batch_stats'], rngs=rngs
            )
            assert out.shape == (2, 16, 24, 2)
            assert out.dtype == jnp.float32
            return jnp.square(out).sum()

        return jax.grad(loss)(variables['params'])

    for leaf in jax.tree.leaves(gradient()):
        assert leaf.dtype == jnp.float32
        assert jnp.isfinite(leaf).all()
        assert jnp.abs(leaf).max() > 0


@pytest.mark.slow
def test_remat_changes_the_memory_and_not_the_gradient():
    x = jax.random.normal(KEY, (2, 32, 32, 1))
    init = lambda: UNet(size=32, width=4).init({'params': KEY, 'noise': KEY}, x, train=True)
    variables = jax.jit(init)()

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
