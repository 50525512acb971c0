import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from chromagan_jax.models import layers
from chromagan_jax.models.ops import backend

KEY = jax.random.key(0)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def strided(x, kernel):
    """The plain formulation: 4x4, stride 2, padding 1."""
    dimensions = ('NHWC', 'HWIO', 'NHWC')
    return lax.conv_general_dilated(x, kernel, (2, 2), [(1, 1)] * 2, dimension_numbers=dimensions)


def transposed(x, kernel):
    """The plain formulation: the scatter that defines a transposed convolution, o = 2i - 1 + k."""
    b, h, w, _ = x.shape
    out = np.zeros((b, 2 * h + 2, 2 * w + 2, kernel.shape[-1]))
    for i in range(h):
        for j in range(w):
            out[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += np.einsum(
                'bc,yxcf->byxf', x[:, i, j], kernel
            )
    return out[:, 1:-1, 1:-1]


@pytest.mark.parametrize(('height', 'width'), [(8, 12), (2, 2), (9, 7)])
def test_down_conv_equals_the_strided_convolution(height, width):
    x, kernel = normal(1, 2, height, width, 3), normal(2, 4, 4, 3, 5)
    params = {'kernel': layers.down_kernel_from_hwio(kernel)}
    actual = layers.DownConv(5).apply({'params': params}, x)
    np.testing.assert_allclose(actual, strided(x, kernel), atol=1e-5)


@pytest.mark.parametrize(('height', 'width'), [(1, 1), (4, 3)])
def test_up_conv_equals_the_scatter_that_defines_it(height, width):
    x, kernel = normal(1, 2, height, width, 3), normal(2, 4, 4, 3, 5)
    params = {'kernel': layers.up_kernel_from_hwio(kernel)}
    actual = layers.UpConv(5).apply({'params': params}, x)
    np.testing.assert_allclose(actual, transposed(np.asarray(x), np.asarray(kernel)), atol=1e-5)


def test_down_conv_has_the_gradients_of_the_strided_convolution_of_both_orders():
    x, kernel = normal(1, 1, 6, 6, 2), normal(2, 4, 4, 2, 3)

    def rewritten(x, kernel):
        params = {'kernel': layers.down_kernel_from_hwio(kernel)}
        return layers.DownConv(3).apply({'params': params}, x)

    def penalty(conv):
        def gradient_norm(kernel):
            gradient = jax.grad(lambda x: jnp.sin(conv(x, kernel)).sum())(x)
            return jnp.square(gradient).sum()

        return jax.grad(gradient_norm)(kernel)

    np.testing.assert_allclose(penalty(rewritten), penalty(strided), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('layer', [layers.DownConv, layers.UpConv])
def test_strides_and_blocks_of_pixels_are_the_same_layer(layer):
    x = jax.random.normal(jax.random.key(0), (2, 7, 6, 3))
    variables = layer(5, use_bias=True).init(jax.random.key(1), x)

    def outcome(form):
        def loss(variables):
            y = layer(5, use_bias=True).apply(variables, x)
            return jnp.square(y).sum(), y

        with backend.using(backend.Forms(stride=form)):
            return jax.jit(jax.grad(loss, has_aux=True))(variables)

    close = lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, outcome('strides'), outcome('blocks'))


@pytest.mark.parametrize('name', ['down', 'up'])
def test_stored_kernels_are_a_reindexing_that_undoes_exactly(name):
    kernel = normal(3, 4, 4, 6, 5)
    stored = getattr(layers, f'{name}_kernel_from_hwio')(kernel)
    np.testing.assert_array_equal(np.sort(stored, axis=None), np.sort(kernel, axis=None))
    np.testing.assert_array_equal(getattr(layers, f'{name}_kernel_to_hwio')(stored), kernel)


def test_batch_norm_equals_flax_in_training_and_at_test_time():
    x = 3 + 2 * normal(1, 4, 5, 5, 6)
    ours, theirs = layers.Norm('batch'), nn.BatchNorm(momentum=0.9, epsilon=1e-5)
    variables = ours.init(KEY, x, train=True)
    out, updated = ours.apply(variables, x, train=True, mutable=['batch_stats'])
    expected, expected_stats = theirs.apply(
        variables, x, use_running_average=False, mutable=['batch_stats']
    )
    np.testing.assert_allclose(out, expected, atol=1e-5)
    n = x.size // 6
    expected_stats = expected_stats['batch_stats']
    unbiased = 0.9 + (expected_stats['var'] - 0.9) * n / (n - 1)  # Flax keeps the biased variance
    np.testing.assert_allclose(updated['batch_stats']['mean'], expected_stats['mean'], rtol=1e-5)
    np.testing.assert_allclose(updated['batch_stats']['var'], unbiased, rtol=1e-4)
    variables |= updated
    np.testing.assert_allclose(
        ours.apply(variables, x, train=False),
        theirs.apply(variables, x, use_running_average=True),
        atol=1e-5,
    )


def test_instance_norm_gives_every_channel_of_every_image_mean_0_and_deviation_1():
    x = 5 + 3 * normal(1, 2, 8, 8, 4)
    norm = layers.Norm('instance')
    variables = norm.init(KEY, x, train=True)
    out = norm.apply(variables, x, train=True) / variables['params']['scale']
    np.testing.assert_allclose(out.mean((1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(out.std((1, 2)), 1, atol=1e-4)


def test_instance_norm_leaves_single_pixels_alone():
    x = normal(1, 2, 1, 1, 4)
    assert layers.Norm('instance').init(KEY, x, train=True) == {}
    np.testing.assert_array_equal(layers.Norm('instance').apply({}, x, train=True), x)


@pytest.mark.parametrize(
    ('channels', 'groups'),
    [
        (64, 32),
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in [(48, 24), (12, 12), (37, 1)]),
    ],
)
def test_group_norm_equals_flax_with_as_many_groups_as_divide_the_channels(channels, groups):
    x = 5 + 3 * normal(1, 2, 4, 3, channels) * jnp.arange(1, channels + 1)
    norm = layers.Norm('group')
    variables = norm.init(KEY, x, train=True)
    params = {'scale': normal(2, channels), 'bias': normal(3, channels)}
    assert jax.tree.map(jnp.shape, variables) == {'params': jax.tree.map(jnp.shape, params)}
    expected = nn.GroupNorm(groups, epsilon=1e-5).apply({'params': params}, x)
    for train in (True, False):
        np.testing.assert_allclose(norm.apply({'params': params}, x, train), expected, atol=1e-4)


def test_group_norm_leaves_single_pixels_alone_only_where_a_group_is_one_channel():
    one, two = normal(1, 2, 1, 1, 32), normal(1, 2, 1, 1, 64)
    norm = layers.Norm('group')
    assert norm.init(KEY, one, train=True) == {}
    np.testing.assert_array_equal(norm.apply({}, one, train=True), one)
    params = {'scale': jnp.ones(64), 'bias': jnp.zeros(64)}
    out = norm.apply({'params': params}, two, train=True).reshape(2, 32, 2)
    np.testing.assert_allclose(out.mean(-1), 0, atol=1e-5)
    assert np.median(np.abs(out)) > 0.9


def test_group_norm_computes_its_statistics_in_float32():
    x = (100 + normal(1, 1, 32, 32, 4)).astype(jnp.bfloat16)
    norm = layers.Norm('group', dtype=jnp.bfloat16)
    out = norm.apply({'params': {'scale': jnp.ones(4), 'bias': jnp.zeros(4)}}, x, train=True)
    assert out.dtype == jnp.bfloat16
    expected = nn.GroupNorm(4, epsilon=1e-5, use_bias=False, use_scale=False).apply(
        {}, x.astype(jnp.float32)
    )
    np.testing.assert_allclose(out.astype(jnp.float32), expected, atol=0.02)


def test_batch_norm_in_test_mode_batch_does_not_depend_on_neighbours():
    x = normal(1, 3, 4, 4, 2) * jnp.arange(1, 4).reshape(3, 1, 1, 1)
    norm = layers.Norm('batch', test_mode='batch')
    variables = norm.init(KEY, x, train=True)
    together = norm.apply(variables, x, train=False)
    alone = [norm.apply(variables, x[i : i + 1], train=False)[0] for i in range(3)]
    np.testing.assert_allclose(together, jnp.stack(alone), atol=1e-6)
    trained = norm.apply(variables, x[:1], train=True, mutable=['batch_stats'])[0]
    np.testing.assert_allclose(together[:1], trained, atol=1e-6)


def test_statistics_are_float32_when_the_computation_is_bfloat16():
    x = (1000 + normal(1, 2, 16, 16, 3)).astype(jnp.bfloat16)
    norm = layers.Norm('batch', dtype=jnp.bfloat16)
    out, variables = norm.init_with_output(KEY, x, train=True)
    assert out.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
    _, updated = norm.apply(variables, x, train=True, mutable=['batch_stats'])
    expected = 0.1 * np.asarray(x, np.float64).mean((0, 1, 2))
    np.testing.assert_allclose(updated['batch_stats']['mean'], expected, rtol=1e-5)


def test_depth_to_space_undoes_space_to_depth():
    x = normal(1, 2, 6, 4, 3)
    np.testing.assert_array_equal(layers.depth_to_space(layers.space_to_depth(x)), x)


def test_targets_stay_in_their_range():
    x = 100 * normal(1, 1, 4, 4, 3)
    assert layers.output_activation(x[..., :2], 2).min() == -1
    rgb = layers.output_activation(x, 3)
    assert rgb.min() >= 0
    assert rgb.max() <= 1
