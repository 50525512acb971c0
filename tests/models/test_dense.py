import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from chromagan_jax.errors import UserError
from chromagan_jax.gan import losses
from chromagan_jax.models.dense import DenseDiscriminator
from chromagan_jax.models.layers import max_pool

KEY = jax.random.key(0)

# As in the reference, but small: two blocks that need 20 px.
SMALL = {'widths': (4, 6), 'kernels': (5, 3), 'hidden': (8, 4)}


def pair(size, channels=3, batch=2):
    keys = jax.random.split(jax.random.key(1))
    condition = jax.random.uniform(keys[0], (batch, size, size, 1))
    return condition, jax.random.uniform(keys[1], (batch, size, size, channels))


def initialised(module, inputs):
    return jax.jit(lambda inputs: module.init(KEY, *inputs, train=True))(inputs)


def shapes(module, size, channels=3):
    inputs = [jax.ShapeDtypeStruct((1, size, size, c), jnp.float32) for c in (1, channels)]
    return jax.eval_shape(lambda *x: module.init_with_output(KEY, *x, train=True), *inputs)


def test_it_has_the_parameters_of_its_reference():
    out, variables = shapes(DenseDiscriminator(), 200)
    params = variables['params']
    assert out.shape == (1, 1)
    assert params['dense_0']['kernel'].shape == (7 * 7 * 256, 512)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 7_806_145  # 7.81 M


@pytest.mark.parametrize(
    ('fields', 'smallest'),
    [
        ({}, 92),
        (SMALL, 20),
        ({**SMALL, 'convolutions': 1}, 12),
        ({**SMALL, 'padding': 'same'}, 4),
        ({**SMALL, 'kernels': (2, 4)}, 18),
    ],
)
def test_the_smallest_size_leaves_one_pixel(fields, smallest):
    module = DenseDiscriminator(**fields)
    assert module.smallest_size() == smallest
    flat = shapes(module, smallest)[1]['params']['dense_0']['kernel'].shape[0]
    assert flat == module.widths[-1]
    with pytest.raises(UserError, match=rf'{smallest} px or more, not .*: raise data.size'):
        shapes(module, smallest - 1)


@pytest.mark.parametrize('norm', ['batch', 'instance', 'group', 'none'])
def test_one_class_serves_same_padding_norms_and_no_hidden_layers(norm):
    module = DenseDiscriminator(
        widths=(4, 8),
        kernels=(3, 3),
        convolutions=1,
        padding='same',
        hidden=(),
        norm=norm,
        slope=0.2,
        conditional=True,
    )
    out, variables = shapes(module, 16, channels=2)
    assert out.shape == (1, 1)
    assert variables['params']['out']['kernel'].shape == (4 * 4 * 8, 1)
    first = variables['params']['block_0']
    assert first['conv_0']['kernel'].shape == (3, 3, 1 + 2, 4)
    assert ('norm_0' in first) == (norm != 'none')
    assert ('bias' in first['conv_0']) == (norm != 'batch')
    assert ('batch_stats' in variables) == (norm == 'batch')


@pytest.mark.parametrize('conditional', [True, False])
def test_conditional_says_whether_the_condition_matters(conditional):
    module = DenseDiscriminator(**SMALL, conditional=conditional, slope=0.2)
    condition, target = pair(20)
    variables = initialised(module, (condition, target))
    judge = jax.jit(lambda condition: module.apply(variables, condition, target, train=True))
    assert jnp.array_equal(judge(condition), judge(-condition)) is not conditional
    slope = jax.jit(jax.grad(lambda condition: judge(condition).sum()))(condition)
    assert bool(slope.any()) is conditional


def test_each_picture_has_its_own_logit():
    module = DenseDiscriminator(**SMALL, slope=0.2)
    condition, target = pair(20)
    variables = initialised(module, (condition, target))
    judge = jax.jit(lambda *inputs: module.apply(variables, *inputs, train=True))
    both = judge(condition, target)
    assert both[0] != both[1]
    alone = judge(condition[1:], target[1:])
    np.testing.assert_allclose(both[1:], alone, rtol=1e-5)


@pytest.mark.parametrize(
    ('fields', 'sentence'),
    [
        ({'widths': (4,)}, 'discriminator.widths has 1 blocks and discriminator.kernels 4'),
        ({**SMALL, 'widths': (4, 0)}, 'discriminator.widths must be 1 or more each, not 0'),
        ({**SMALL, 'kernels': (3, -1)}, 'discriminator.kernels must be 1 or more each, not -1'),
        ({**SMALL, 'hidden': (0,)}, 'discriminator.hidden must be 1 or more each, not 0'),
        ({'convolutions': 0}, 'discriminator.convolutions must be 1 or more, not 0'),
        ({'slope': -0.1}, 'discriminator.slope must be 0 <= x < 1, not -0.1'),
        ({'padding': 'full'}, "discriminator.padding is 'full'; choose one of valid, same"),
        ({'norm': 'layer'}, "discriminator.norm is 'layer'"),
    ],
)
def test_impossible_fields_are_named(fields, sentence):
    with pytest.raises(UserError, match=sentence):
        shapes(DenseDiscriminator(**fields), 128)


def test_logits_are_float32_whatever_is_computed_in():
    module = DenseDiscriminator(**SMALL, dtype=jnp.bfloat16)
    out, variables = shapes(module, 20)
    assert out.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype('float32')}


@pytest.mark.slow
def test_remat_changes_neither_logits_nor_gradient():
    inputs = pair(20)
    fields = {**SMALL, 'norm': 'batch', 'slope': 0.2}
    variables = initialised(DenseDiscriminator(**fields), inputs)

    def loss(remat, params):
        module = DenseDiscriminator(**fields, remat=remat)
        out, updated = module.apply(
            {**variables, 'params': params}, *inputs, train=True, mutable=['batch_stats']
        )
        return jnp.square(out).sum(), (out, updated)

    params = variables['params']
    assert 'remat' in str(jax.make_jaxpr(lambda p: loss(True, p))(params))
    results = [
        jax.jit(jax.value_and_grad(lambda p, r=r: loss(r, p), has_aux=True))(params)
        for r in (False, True)
    ]
    assert all(leaf.any() for leaf in jax.tree.leaves(results[0][1]['block_0']))
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('sides', [(6, 8), (7, 5)])
def test_max_pool_has_the_values_and_the_gradient_of_a_window_by_window_one(sides):
    x = jax.random.randint(KEY, (2, *sides, 3), 0, 3).astype(jnp.float32)  # many are equal
    pooled, pull_back = jax.vjp(max_pool, x)
    weights = np.random.default_rng(0).standard_normal(pooled.shape, np.float32)
    pictures, expected = np.asarray(x), np.zeros(x.shape)
    for b, i, j, c in np.ndindex(pooled.shape):
        window = pictures[b, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c]
        row, column = divmod(int(window.argmax()), 2)  # the first, as in Keras and PyTorch
        expected[b, 2 * i + row, 2 * j + column, c] = weights[b, i, j, c]
    np.testing.assert_array_equal(pull_back(weights)[0], expected)
    np.testing.assert_array_equal(pooled, nn.max_pool(x, (2, 2), (2, 2)))


@pytest.mark.slow
def test_the_gradient_penalty_has_the_gradient_of_its_finite_differences():
    module = DenseDiscriminator(**SMALL)
    condition, real = pair(20)
    params = initialised(module, (condition, real))['params']

    @jax.jit
    def penalty(params):
        critic = lambda x: module.apply({'params': params}, condition, x, train=True)
        return losses.gradient_penalty(critic, real, 1 - real, KEY)

    gradient = jax.jit(jax.grad(penalty))(params)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    kernel = params['out']['kernel']
    moved = lambda h: penalty({**params, 'out': {**params['out'], 'kernel': (1 + h) * kernel}})
    expected = (moved(1e-2) - moved(-1e-2)) / 2e-2
    assert abs(expected) > 1e-3
    np.testing.assert_allclose((gradient['out']['kernel'] * kernel).sum(), expected, rtol=1e-2)
