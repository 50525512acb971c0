import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chromagan_jax import config as config_lib
from chromagan_jax.config import Config
from chromagan_jax.errors import UserError
from chromagan_jax.gan.model import make_generator
from chromagan_jax.models import lite_unet
from chromagan_jax.models.lite_unet import LiteUNet
from chromagan_jax.models.ops.conv import conv
from chromagan_jax.models.pretrained import efficientnet_lite
from configs import lite_unet as recipe
from tests.models import lite

KEY = jax.random.key(0)
COARSE = {'output_stride': 8, 'decoder_widths': (12, 8, 8)}  # the network that compiles fastest


@pytest.fixture(autouse=True)
def _shallow(monkeypatch):
    monkeypatch.setattr(efficientnet_lite, '_STAGES', lite.SHALLOW)


def shapes(module, size=(32, 32)):
    x = jax.ShapeDtypeStruct((2, *size, 1), jnp.float32)
    return jax.eval_shape(lambda x: module.init_with_output(KEY, x, True), x)


def condition(*size):
    return jax.random.uniform(KEY, (2, *size, 1), minval=-1)


@pytest.mark.parametrize('size', [(3, 4), (1, 1)])
def test_a_convolution_of_a_doubled_map_is_that_of_the_map_with_repeated_pixels(size):
    keys = jax.random.split(KEY, 3)
    x = jax.random.normal(keys[0], (2, *size, 3))
    skip = jax.random.normal(keys[1], (2, 2 * size[0], 2 * size[1], 2))
    kernel = jax.random.normal(keys[2], (3, 3, 5, 4))

    def repeated(x, skip, kernel):
        joined = jnp.concatenate([x.repeat(2, axis=1).repeat(2, axis=2), skip], -1)
        return conv(joined, kernel, (1, 1))

    def with_gradients(f):
        loss = lambda *inputs: jnp.sin(f(*inputs)).sum()
        gradients = jax.grad(loss, argnums=(0, 1, 2))
        return jax.jit(lambda *inputs: (f(*inputs), *gradients(*inputs)))(x, skip, kernel)

    ours, expected = map(with_gradients, (lite_unet.conv_of_doubled_and, repeated))
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.slow
def test_a_picture_of_any_size_is_coloured_like_itself_with_its_borders_repeated():
    module, x = LiteUNet(**COARSE), condition(33, 7)
    larger = jnp.pad(x, ((0, 0), (0, 31), (0, 25), (0, 0)), mode='edge')
    variables = lite.random_variables(module, larger, False)
    small, whole = (
        jax.jit(module.apply, static_argnums=2)(variables, y, False) for y in (x, larger)
    )
    assert small.shape == (2, 33, 7, 2)
    assert jnp.std(small) > 0.01
    np.testing.assert_allclose(small, whole[:, :33, :7], atol=1e-6)


@pytest.mark.parametrize('size', [(1, 1), (31, 65)])
def test_the_smallest_picture_has_colours_too(size):
    assert shapes(LiteUNet(**COARSE), size)[0].shape == (2, *size, 2)


@pytest.mark.parametrize(
    ('stride', 'widths'),
    [(1, (12, 8, 8, 8, 8, 4)), (2, (12, 8, 8, 8, 4)), (4, (12, 8, 8, 4)), (8, (12, 8, 4))],
)
def test_the_decoder_ends_at_the_stride_of_the_colours(stride, widths):
    out, variables = shapes(LiteUNet(output_stride=stride, decoder_widths=widths), (64, 32))
    assert out.shape == (2, 64, 32, 2)
    params = variables['params']
    strides = [32, 16, 8, 4, 2, 1][: len(widths)]
    assert strides[-1] == stride
    levels = {f'level_{s}': width for s, width in zip(strides, widths, strict=True)}
    assert {name for name in params if name.startswith('level')} == levels.keys()
    for name, width in levels.items():
        assert params[name]['norm_0']['scale'].shape == (width,)
    assert params['out']['kernel'].shape == (3, 3, 4, 2)


def test_coarse_colours_are_interpolated_linearly():
    module, x = LiteUNet(**COARSE), condition(32, 64)
    variables = lite.random_variables(module, x, False)
    apply = jax.jit(lambda v: module.apply(v, x, False, capture_intermediates=True))
    made, state = apply(variables)
    (coarse,) = state['intermediates']['out']['__call__']
    assert coarse.shape == (2, 4, 8, 2)
    expected = np.tanh(coarse)
    for axis in (1, 2):
        n = expected.shape[axis]
        at = np.clip((np.arange(8 * n) + 0.5) / 8 - 0.5, 0, n - 1)  # of the pixels' centres
        left = np.minimum(at.astype(int), n - 2)
        share = (at - left).reshape([-1 if a == axis else 1 for a in range(4)])
        expected = (1 - share) * expected.take(left, axis) + share * expected.take(left + 1, axis)
    np.testing.assert_allclose(made, expected, atol=1e-6)


@pytest.mark.slow
def test_in_rgb_the_colours_are_made_at_full_resolution():
    fields = {'channels': 3, 'output_stride': 1, 'decoder_widths': (12, 8, 8, 8, 8, 4)}
    module, gray = LiteUNet(**fields), jax.random.uniform(KEY, (1, 32, 32, 1))
    variables = lite.random_variables(module, gray, False)
    made = jax.jit(lambda v: module.apply(v, gray, False))(variables)
    assert made.shape == (1, 32, 32, 3)
    assert made.min() >= 0
    assert made.max() <= 1
    assert jnp.std(made) > 0.01


@pytest.mark.parametrize(
    ('fields', 'sentence'),
    [
        ({'encoder': 'lite3'}, "generator.encoder is 'lite3'; choose one of lite0, lite1, lite2"),
        ({'dropout': 1.0}, 'generator.dropout must be 0 <= x < 1, not 1.0'),
        ({'output_stride': 16}, 'generator.output_stride must be 1, 2, 4 or 8, not 16'),
        ({'output_stride': 3}, 'generator.output_stride must be 1, 2, 4 or 8, not 3'),
        ({'output_stride': 0}, 'generator.output_stride must be 1, 2, 4 or 8, not 0'),
        ({'channels': 3}, "generator.output_stride must be 1 unless color_space is 'lab', not 2"),
        (
            {'decoder_widths': (8, 8, 8)},
            'generator.decoder_widths must be 5 widths of 1 or more for output_stride 2',
        ),
        ({'decoder_widths': ()}, 'generator.decoder_widths must be 5 widths'),
        ({'decoder_widths': (8, 8, 8, 8, 0)}, 'generator.decoder_widths must be 5 widths of 1'),
        (
            {'output_stride': 8, 'decoder_widths': (8, 8)},
            'must be 3 widths of 1 or more for output_stride 8',
        ),
    ],
)
def test_an_impossible_field_is_named(fields, sentence):
    with pytest.raises(UserError, match=sentence):
        shapes(LiteUNet(**fields))


def test_dropout_is_the_only_noise_and_only_where_the_stream_is_given():
    module, x = LiteUNet(**COARSE, dropout=0.5), condition(32, 32)
    variables = lite.random_variables(module, x, False)

    @jax.jit
    def colours(seed):
        noise = {'noise': jax.random.key(seed)}
        return module.apply(variables, x, False, rngs=noise)

    still = jax.jit(lambda: module.apply(variables, x, False))()
    plain = jax.jit(lambda: LiteUNet(**COARSE).apply(variables, x, False))()
    assert jnp.array_equal(still, plain)
    assert jnp.array_equal(colours(1), colours(1))
    assert not jnp.array_equal(colours(1), colours(2))
    assert not jnp.array_equal(colours(1), still)


def gradient_of(module, variables, x):
    def loss(params):
        variables_ = {**variables, 'params': params}
        out, _ = module.apply(variables_, x, True, mutable=['batch_stats'])
        return jnp.square(out).sum()

    return jax.grad(loss)


@pytest.mark.slow
def test_in_bfloat16_the_parameters_stay_float32_and_the_colours_nearly_the_same():
    plain, half = LiteUNet(**COARSE), LiteUNet(**COARSE, dtype=jnp.bfloat16)
    x = condition(32, 32)
    variables = lite.random_variables(half, x, True)
    apply = lambda module: jax.jit(lambda v: module.apply(v, x, False))(variables)
    expected, found = apply(plain), apply(half)
    assert found.dtype == jnp.float32
    assert 1e-6 < jnp.abs(found - expected).mean() < 0.05 * jnp.std(expected)
    gradient = jax.eval_shape(gradient_of(half, variables, x), variables['params'])
    for tree in (shapes(half)[1], gradient):
        assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype('float32')}


@pytest.mark.slow
def test_remat_is_of_each_block_and_level_and_keeps_the_names_of_the_parameters():
    x = condition(32, 32)
    plain, remat = (LiteUNet(**COARSE, remat=r) for r in (False, True))
    assert jax.tree.map(jnp.shape, shapes(plain)) == jax.tree.map(jnp.shape, shapes(remat))
    variables = lite.random_variables(plain, x, True)
    count = lambda module: str(
        jax.make_jaxpr(gradient_of(module, variables, x))(variables['params'])
    ).count('remat2[')
    blocks, levels = 7, 3
    assert (count(plain), count(remat)) == (0, blocks + levels)


def test_running_statistics_keep_98_hundredths_of_the_old_ones():
    module, x = LiteUNet(**COARSE), condition(32, 32)
    variables = lite.random_variables(module, x, True)

    @jax.jit
    def updated(stats):
        variables_ = {**variables, 'batch_stats': stats}
        return module.apply(variables_, x, True, mutable=['batch_stats'])[1]['batch_stats']

    old = variables['batch_stats']
    moved = jax.tree.map(lambda stat: stat + 1, old)
    assert len(jax.tree.leaves(old)) == 2 * 5
    for before, a, b in zip(
        *map(jax.tree.leaves, (old, updated(old), updated(moved))), strict=True
    ):
        np.testing.assert_allclose(b - a, 0.98, atol=1e-5)
        assert jnp.abs(a - before).max() > 1e-4


def test_a_network_from_a_saved_config_is_the_same():
    config = recipe.get_config()
    config.generator = config.generator.clone(decoder_widths=(8, 8, 8, 8, 4))
    saved = config_lib.from_dict(Config, json.loads(json.dumps(config_lib.to_dict(config))))
    assert make_generator(saved) == make_generator(config)
    assert make_generator(saved).decoder_widths == (8, 8, 8, 8, 4)
    hash(make_generator(saved))
