import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import linen as nn
from flax.traverse_util import flatten_dict

from chromagan_jax import color
from chromagan_jax.errors import UserError
from chromagan_jax.models import layers
from chromagan_jax.models.pretrained import vgg, weights

KEY = jax.random.key(0)
WINDOWS = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]  # places of torchvision's convolutions
WIDTHS = [3, 64, 64, 128, 128, 256, 256, 256, *[512] * 6]
SAVERS = {'npz': lambda path, state: np.savez(path, **state)}
SAVERS['safetensors'] = lambda path, state: safetensors.numpy.save_file(state, path)


def layout():
    """Key -> shape of torchvision's state dict, written out."""
    shapes = {}
    for place, inputs, outputs in zip(WINDOWS, WIDTHS[:-1], WIDTHS[1:], strict=True):
        shapes[f'features.{place}.weight'] = (outputs, inputs, 3, 3)
        shapes[f'features.{place}.bias'] = (outputs,)
    for place, inputs, outputs in ((0, 25088, 4096), (3, 4096, 4096), (6, 4096, 1000)):
        shapes[f'classifier.{place}.weight'] = (outputs, inputs)
        shapes[f'classifier.{place}.bias'] = (outputs,)
    return shapes


def save(path, state):
    SAVERS[path.suffix[1:]](path, state)
    return path


@pytest.fixture(scope='module')
def state():
    """Half-precision weights, all different enough: a repeated stretch of noise of prime length."""
    noise = np.random.default_rng(0).standard_normal(99_991).astype(np.float16)
    return {
        key: np.resize(np.roll(noise, 7 * n), shape)
        for n, (key, shape) in enumerate(layout().items())
    }


@pytest.mark.parametrize('suffix', [pytest.param('npz', marks=pytest.mark.slow), 'safetensors'])
def test_load_gives_every_array_its_place_and_order(state, suffix, tmp_path):
    path = save(tmp_path / f'vgg16.{suffix}', state)
    params = vgg.load(path)
    path.unlink()
    shapes = jax.eval_shape(vgg.VGG16().init, KEY, jnp.zeros((1, 32, 32, 3)))['params']
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype('float32')}
    for name, place in (('conv1_1', 0), ('conv2_2', 7), ('conv4_3', 21), ('conv5_3', 28)):
        kernel = state[f'features.{place}.weight']
        np.testing.assert_array_equal(params[name]['kernel'][1, 2], kernel[:, :, 1, 2].T)
        np.testing.assert_array_equal(params[name]['bias'], state[f'features.{place}.bias'])
    for name, place in (('fc7', 3), ('fc8', 6)):
        kernel = state[f'classifier.{place}.weight']
        np.testing.assert_array_equal(params[name]['kernel'], kernel.T)
        np.testing.assert_array_equal(params[name]['bias'], state[f'classifier.{place}.bias'])
    # Channel 3 at row 2, column 5, as PyTorch and as this package flatten it.
    np.testing.assert_array_equal(
        params['fc6']['kernel'][(2 * 7 + 5) * 512 + 3],
        state['classifier.0.weight'][:, 3 * 49 + 2 * 7 + 5],
    )


@pytest.mark.parametrize('suffix', SAVERS)
@pytest.mark.parametrize(
    ('arrays', 'sentence'),
    [
        ({}, 'has no features.0.weight'),
        ({'features.0.weight': (64, 3, 3, 3)}, 'has no features.0.bias'),
        (
            {'features.0.weight': (64, 1, 3, 3)},
            r'features.0.weight in .* has the shape \(64, 1, 3, 3\), but in .* \(64, 3, 3, 3\)',
        ),
        (  # VGG16 with batch norm
            {
                'features.0.weight': (64, 3, 3, 3),
                **{f'features.{n}': (64,) for n in ('0.bias', '1.weight', '1.bias')},
                'features.3.weight': (64, 64, 3, 3),
            },
            "has no features.2.weight: save the state dict of torchvision's vgg16",
        ),
    ],
)
def test_another_network_is_named(suffix, arrays, sentence, tmp_path):
    arrays = {'other': (1,), **arrays}
    path = save(tmp_path / f'x.{suffix}', {k: np.zeros(s, np.float32) for k, s in arrays.items()})
    with pytest.raises(UserError, match=sentence):
        vgg.load(path)


@pytest.mark.parametrize('suffix', SAVERS)
def test_damaged_files_are_named(suffix, tmp_path):
    first = {'features.0.weight': np.ones((64, 3, 3, 3), np.float32)}
    whole = save(tmp_path / f'whole.{suffix}', first).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    damaged = {'empty': b'', 'text': b'These are no weights.', 'cut': whole[: len(whole) // 2]}
    if suffix == 'npz':  # safetensors has no checksum
        damaged['flipped'] = bytes(flipped)
    for name, data in damaged.items():
        path = tmp_path / f'{name}.{suffix}'
        path.write_bytes(data)
        with pytest.raises(UserError, match=f'{name}.{suffix} cannot be read: it is damaged'):
            vgg.load(path)


def test_pickles_stay_closed(tmp_path):
    path = tmp_path / 'x.npz'
    np.savez(path, **{'features.0.weight': np.array([{}], object)})
    with pytest.raises(UserError, match=r'x.npz cannot be read'):
        vgg.load(path)


def test_paths_that_cannot_be_weights_are_named(tmp_path):
    with pytest.raises(UserError, match=r'there is no file of VGG16 weights .*gone.npz'):
        vgg.load(tmp_path / 'gone.npz')
    (tmp_path / 'folder.npz').mkdir()
    with pytest.raises(UserError, match=r'there is no file of VGG16 weights .*folder.npz'):
        vgg.load(tmp_path / 'folder.npz')
    with pytest.raises(UserError, match=r'from .safetensors or .npz files, not from .*vgg16.pth'):
        vgg.load(tmp_path / 'vgg16.pth')


def test_vgg16_has_the_parameters_of_the_paper():
    init = lambda module: jax.eval_shape(module.init, KEY, jnp.zeros((1, 224, 224, 3)))['params']
    count = lambda params: sum(leaf.size for leaf in jax.tree.leaves(params))
    whole, backbone = init(vgg.VGG16()), init(vgg.Backbone())
    assert count(whole) == 138_357_544
    assert count(backbone) == 7_635_264
    assert list(backbone) == [name for name in whole if 'conv1_1' <= name <= 'conv4_3']
    assert flatten_dict({name: whole[name] for name in backbone}) == flatten_dict(backbone)


@pytest.mark.parametrize('size', [1, 4, 7, 8, 14, 10])
def test_adaptive_average_pool_is_the_mean_of_each_window(size):
    x = np.random.default_rng(size).standard_normal((2, size, size + 2, 3)).astype(np.float32)
    expected = np.zeros((2, 7, 7, 3))
    for i in range(7):
        for j in range(7):
            rows = slice(math.floor(i * size / 7), math.ceil((i + 1) * size / 7))
            columns = slice(math.floor(j * (size + 2) / 7), math.ceil((j + 1) * (size + 2) / 7))
            expected[:, i, j] = x[:, rows, columns].mean((1, 2))
    np.testing.assert_allclose(vgg.adaptive_average_pool(x, 7), expected, atol=1e-6)


@pytest.mark.parametrize('shape', [(2, 8, 8, 3), (1, 7, 6, 2), (1, 2, 5, 1)])
def test_max_pool_and_its_gradient_are_those_of_flax(shape):
    x = jax.random.normal(KEY, shape)
    value_and_pullback = lambda pool: jax.jit(lambda x: (pool(x), jax.vjp(pool, x)[1](pool(x))))(x)
    ours = value_and_pullback(layers.max_pool)
    theirs = value_and_pullback(lambda x: nn.max_pool(x, (2, 2), (2, 2)))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_normalized_is_what_torchvision_makes_of_a_gray_photograph():
    photo = np.full((1, 2, 3, 3), 255, np.uint8)
    photo[0, 0, 0] = 128
    expected = (photo / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    for space, channels in color.TARGET_CHANNELS.items():
        condition, target = color.encode(photo, space)
        assert target.shape[-1] == channels
        seen = vgg.normalized(jnp.asarray(condition), channels)
        assert seen.dtype == jnp.float32
        np.testing.assert_allclose(seen, expected, atol=2e-5)


def test_normalized_is_float32_from_half_precision():
    seen = vgg.normalized(jnp.zeros((1, 2, 2, 1), jnp.bfloat16), 2)
    assert seen.dtype == jnp.float32
    gray = color.lightness_to_gray(np.float64(50))
    np.testing.assert_allclose(
        seen[0, 0, 0], (gray - [0.485, 0.456, 0.406]) / weights.STD, atol=1e-5
    )


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('shape', [(32, 32), (65, 40)])
def test_any_size_of_32_px_or_more_gives_float32_logits(shape, dtype):
    x = jnp.zeros((2, *shape, 3))
    output = lambda module: jax.eval_shape(lambda x: module.init_with_output(KEY, x)[0], x)
    logits = output(vgg.VGG16(width=2, classes=5, dtype=dtype))
    assert (logits.shape, logits.dtype) == ((2, 5), jnp.float32)
    features = output(vgg.Backbone(width=2, dtype=dtype))
    assert (features.shape, features.dtype) == ((2, shape[0] // 8, shape[1] // 8, 16), dtype)


def test_too_small_a_picture_is_named():
    with pytest.raises(UserError, match='VGG16 needs pictures of 32 px or more, not 31 x 40'):
        vgg.VGG16(width=2).init(KEY, jnp.zeros((1, 31, 40, 3)))


@pytest.mark.slow
def test_remat_of_the_backbone_changes_no_gradient():
    x = jax.random.normal(KEY, (1, 16, 16, 3))
    params = jax.jit(vgg.Backbone(width=2).init)(KEY, x)
    loss = lambda remat: lambda p: jnp.square(vgg.Backbone(width=2, remat=remat).apply(p, x)).sum()
    assert str(jax.make_jaxpr(jax.grad(loss(True)))(params)).count('remat') >= 4
    plain, remat = (jax.jit(jax.grad(loss(remat)))(params) for remat in (False, True))
    assert jax.tree.structure(plain) == jax.tree.structure(remat)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(remat), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
