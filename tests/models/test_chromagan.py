import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from chromagan_jax.color import lightness_to_gray
from chromagan_jax.errors import UserError
from chromagan_jax.models.chromagan import Classified, TwoBranch
from tests.models.lite import random_variables

KEY = jax.random.key(0)
TINY = {'size': 24, 'width': 4, 'classes': 3}


def shapes(module, size=None):
    inputs = jax.ShapeDtypeStruct((1, size or module.size, size or module.size, 1), jnp.float32)
    return jax.eval_shape(lambda x: module.init_with_output(KEY, x, train=True), inputs)


def pictures(count, seed=1, size=24):
    return jax.random.uniform(jax.random.key(seed), (count, size, size, 1), minval=-1)


def predict(module, variables, x):
    return jax.jit(lambda variables, x: module.apply(variables, x, train=False))(variables, x)


@pytest.fixture(scope='module')
def variables():
    return random_variables(TwoBranch(**TINY), pictures(2), True)


@pytest.mark.parametrize(('classes', 'count'), [(1000, 171_166_090), (0, 47_523_234)])
def test_at_224_px_it_has_the_parameters_of_the_original(classes, count):
    output, variables = shapes(TwoBranch(classes=classes))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables['params'])) == count
    target = output.target if classes else output
    assert target.shape == (1, 224, 224, 2)


def test_its_parts_have_the_parameters_of_the_original():
    params = shapes(TwoBranch())[1]['params']
    count = lambda *starts: sum(
        leaf.size
        for name in params
        if name.startswith(starts)
        for leaf in jax.tree.leaves(params[name])
    )
    convolution = lambda inputs, outputs, side=3: outputs * (side * side * inputs + 1)
    dense = lambda inputs, outputs: outputs * (inputs + 1)
    assert count('global_') == 4 * (convolution(512, 512) + 2 * 512)
    assert count('vector_') == dense(25088, 1024) + dense(1024, 512) + dense(512, 256)
    assert count('class_') == dense(25088, 4096) + dense(4096, 4096) + dense(4096, 1000)
    assert count('local_') == convolution(512, 512) + convolution(512, 256) + 2 * (512 + 256)
    assert count('fusion') == convolution(512, 256, side=1)
    assert count('out_') == sum(
        convolution(*pair) for pair in ((256, 128), (128, 64), (64, 64), (64, 32), (32, 2))
    )
    assert count('backbone') == 7_635_264
    # The global map is 7 x 7 at 224 px.
    assert params['vector_0']['kernel'].shape == (7 * 7 * 512, 1024)


@pytest.mark.parametrize('channels', [2, 3])
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_target_and_logits_are_float32_whatever_the_types(channels, dtype):
    output, variables = shapes(TwoBranch(**TINY, channels=channels, dtype=dtype))
    assert isinstance(output, Classified)
    assert (output.target.shape, output.target.dtype) == ((1, 24, 24, channels), jnp.float32)
    assert (output.class_logits.shape, output.class_logits.dtype) == ((1, 3), jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype('float32')}


def test_without_classes_there_is_only_the_target(variables):
    output, headless = shapes(TwoBranch(**{**TINY, 'classes': 0}))
    names = set(variables['params']) - set(headless['params'])
    assert names == {'class_0', 'class_1', 'class_2'}
    assert output.shape == (1, 24, 24, 2)


def convolved(x, params, strides=1):
    """A SAME convolution, in NumPy."""
    side, size = params['kernel'].shape[0], x.shape[1]
    padding = max((-(-size // strides) - 1) * strides + side - size, 0)
    before_after = (padding // 2, padding - padding // 2)
    x = np.pad(x, ((0, 0), before_after, before_after, (0, 0)))
    windows = sliding_window_view(x, (side, side), (1, 2))[:, ::strides, ::strides]
    return np.einsum('bhwcij,ijcf->bhwf', windows, params['kernel']) + params['bias']


def written_out(variables, condition):
    """The network in NumPy, a line a layer: target and class logits."""
    params, statistics = variables['params'], variables['batch_stats']
    relu = lambda x: np.maximum(x, 0)
    enlarged = lambda x: np.kron(x, np.ones((1, 2, 2, 1)))

    def dense(x, *names):
        for name in names:
            x = x @ params[name]['kernel'] + params[name]['bias']
        return x

    def normed(x, name, strides=1):
        x = relu(convolved(x, params[name]['conv'], strides))
        norm, running = params[name]['norm'], statistics[name]['norm']
        return (x - running['mean']) / np.sqrt(running['var'] + 1e-5) * norm['scale'] + norm['bias']

    x = (lightness_to_gray((condition + 1) * 50) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    for block, convolutions in enumerate((2, 2, 3, 3), start=1):
        for number in range(1, convolutions + 1):
            x = relu(convolved(x, params['backbone'][f'conv{block}_{number}']))
        if block < 4:
            b, h, w, c = x.shape
            x = x.reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))
    y = normed(normed(x, 'global_0', 2), 'global_1')
    y = normed(normed(y, 'global_2', 2), 'global_3')
    flat = y.reshape(len(y), -1)
    vector = dense(flat, 'vector_0', 'vector_1', 'vector_2')
    x = normed(normed(x, 'local_0'), 'local_1')
    x = np.concatenate([x, np.tile(vector[:, None, None], (1, *x.shape[1:3], 1))], axis=-1)
    x = relu(convolved(x, params['fusion']['conv']))
    x = enlarged(relu(convolved(x, params['out_0']['conv'])))
    x = relu(convolved(x, params['out_1']['conv']))
    x = enlarged(relu(convolved(x, params['out_2']['conv'])))
    x = relu(convolved(x, params['out_3']['conv']))
    target = enlarged(np.tanh(convolved(x, params['out_4'])))
    return target, dense(flat, 'class_0', 'class_1', 'class_2')


def test_it_computes_what_the_original_does_line_by_line():
    # 6 -> 3 -> 2: the strided convolutions meet an even map and an odd one, padded differently.
    module, x = TwoBranch(**{**TINY, 'size': 48}), pictures(2, size=48)
    variables = random_variables(module, x, True)
    output = predict(module, variables, x)
    double = lambda leaf: np.asarray(leaf, np.float64)
    target, class_logits = written_out(jax.tree.map(double, variables), double(x))
    assert min(target.std(), class_logits.std()) > 0.01
    np.testing.assert_allclose(output.target, target, atol=1e-5)
    np.testing.assert_allclose(output.class_logits, class_logits, atol=1e-4)


@pytest.mark.parametrize(('channels', 'low', 'high'), [(2, -1, 1), (3, 0, 1)])
def test_the_target_keeps_to_its_range(channels, low, high):
    module, x = TwoBranch(**TINY, channels=channels), pictures(1)
    variables = random_variables(module, x, True)
    kernel = variables['params']['out_4']['kernel']
    variables['params']['out_4']['kernel'] = 1e6 * kernel
    target = predict(module, variables, x).target
    assert (target.min(), target.max()) == (low, high)


def test_each_pixel_of_half_the_size_becomes_four(variables):
    target = np.asarray(predict(TwoBranch(**TINY), variables, pictures(1)).target)
    blocks = target.reshape(1, 12, 2, 12, 2, 2)
    np.testing.assert_array_equal(blocks, np.broadcast_to(blocks[:, :, :1, :, :1], blocks.shape))
    assert np.ptp(target[0, ::2, ::2], axis=0).min() > 0


@pytest.mark.slow
def test_a_pixel_reaches_every_other_through_the_global_branch_alone():
    """With the vector's last layer at zero, a change in a corner stays in its neighbourhood."""
    module = TwoBranch(**{**TINY, 'size': 96, 'classes': 0})
    x = pictures(1, size=96)
    params = random_variables(module, x, True)
    silent = jax.tree.map(jnp.zeros_like, params['params']['vector_2'])
    muted = {**params, 'params': {**params['params'], 'vector_2': silent}}
    changed = x.at[0, 0, 0, 0].add(1.0)
    both = jnp.concatenate([x, changed])

    def far(variables):
        before, after = predict(module, variables, both)[:, -8:, -8:]
        return np.abs(after - before).max()

    assert far(params) > 0
    assert far(muted) == 0


@pytest.mark.slow
def test_train_mode_moves_the_running_statistics_and_test_mode_uses_them(variables):
    module, x = TwoBranch(**TINY), pictures(2)
    train = jax.jit(lambda v: module.apply(v, x, train=True, mutable=['batch_stats'])[1])
    changed = train(variables)
    names = set(changed['batch_stats'])
    assert names == {'global_0', 'global_1', 'global_2', 'global_3', 'local_0', 'local_1'}
    old, new = (predict(module, {**variables, **v}, x).target for v in ({}, changed))
    assert not np.allclose(old, new, atol=1e-4)


@pytest.mark.slow
def test_test_mode_batch_uses_the_statistics_of_each_image_by_itself(variables):
    x = pictures(2)
    output = lambda mode, x: predict(TwoBranch(**TINY, test_mode=mode), variables, x)
    together, alone = output('batch', x), output('batch', x[:1])
    np.testing.assert_allclose(together.target[:1], alone.target, atol=1e-5)
    assert not np.allclose(together.target, output('running', x).target, atol=1e-4)


@pytest.mark.parametrize(
    ('fields', 'size', 'sentence'),
    [
        ({'size': 32}, 40, '32 x 32 px, not 40 x 40: set eval.size to data.size'),
        ({'size': 36}, 36, 'data.size must be a multiple of 8 px, 24 or more, not 36'),
        ({'size': 16}, 16, 'data.size must be a multiple of 8 px, 24 or more, not 16'),
        ({'width': 1}, 24, 'generator.width must be 2 or more, not 1'),
        ({'classes': -1}, 24, 'generator.classes must be 0 or more, not -1'),
        ({'test_mode': 'x'}, 24, "generator.test_mode is 'x'"),
    ],
)
def test_impossible_fields_are_named(fields, size, sentence):
    with pytest.raises(UserError, match=sentence):
        shapes(TwoBranch(**{**TINY, **fields}), size)


def test_odd_maps_are_halved_upwards():
    params = shapes(TwoBranch(**{**TINY, 'size': 40}))[1]['params']
    assert params['vector_0']['kernel'].shape == (2 * 2 * 32, 64)  # 5 -> 3 -> 2


@pytest.mark.slow
def test_remat_changes_the_memory_and_not_the_gradient(variables):
    def loss(remat):
        def value(params):
            output, _ = TwoBranch(**TINY, remat=remat).apply(
                {**variables, 'params': params}, pictures(2), train=True, mutable=['batch_stats']
            )
            return jnp.square(output.target).sum() + jnp.square(output.class_logits).sum()

        return value

    # Four blocks of the backbone and the eleven convolutions after it.
    assert str(jax.make_jaxpr(jax.grad(loss(True)))(variables['params'])).count('remat') >= 15
    plain, remat = (jax.jit(jax.grad(loss(r)))(variables['params']) for r in (False, True))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(remat), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
