"""SqueezeNet's features, and the two kinds of files that its weights come from."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from chromagan_jax.errors import UserError
from chromagan_jax.models.pretrained import squeezenet

# Of fire2 to fire8: place in torchvision's state dict, channels in, squeezed and of each expansion.
FIRES = [
    *[(3, 64, 16, 64), (4, 128, 16, 64), (6, 128, 32, 128), (7, 256, 32, 128)],
    *[(9, 256, 48, 192), (10, 384, 48, 192), (11, 384, 64, 256)],
]


def layout():
    """Name in TensorFlow.js files -> torchvision's, and the shape (H, W, in, out), written out."""
    layers = {'conv1': ('features.0', (3, 3, 3, 64))}
    for number, (place, inputs, squeezed, expanded) in enumerate(FIRES, 2):
        ours, theirs = f'fire{number}', f'features.{place}'
        layers[f'{ours}/squeeze1x1'] = (f'{theirs}.squeeze', (1, 1, inputs, squeezed))
        layers[f'{ours}/expand1x1'] = (f'{theirs}.expand1x1', (1, 1, squeezed, expanded))
        layers[f'{ours}/expand3x3'] = (f'{theirs}.expand3x3', (3, 3, squeezed, expanded))
    return layers


@pytest.fixture(scope='module')
def kernels():
    """Random weights of He's scale, {name: (kernel, bias)}, of half precision."""
    draw = np.random.default_rng(0).standard_normal
    return {
        name: (
            (draw(shape) * np.sqrt(2 / np.prod(shape[:3]))).astype(np.float16).astype(np.float32),
            (0.1 * draw(shape[-1])).astype(np.float16).astype(np.float32),
        )
        for name, (_, shape) in layout().items()
    }


def state_dict(kernels):
    """The same as torchvision's."""
    state = {'classifier.1.bias': np.zeros(1000, np.float32)}
    for name, (theirs, _) in layout().items():
        kernel, bias = kernels[name]
        state |= {f'{theirs}.weight': kernel.transpose(3, 2, 0, 1).copy(), f'{theirs}.bias': bias}
    return state


def save_tfjs(folder, kernels, shards=1, **changed):
    """The same as TensorFlow.js has them; `changed` are fields of the first array's entry."""
    folder.mkdir()
    entries, data = [], b''
    for name, arrays in kernels.items():
        for part, array in zip(('kernel', 'bias'), arrays, strict=True):
            entries.append({'name': f'{name}/{part}', 'shape': array.shape, 'dtype': 'float32'})
            data += array.tobytes()
    entries[0] |= changed
    names = [f'group1-shard{i + 1}of{shards}' for i in range(shards)]
    for name, part in zip(
        names, np.array_split(np.frombuffer(data, np.uint8), shards), strict=True
    ):
        (folder / name).write_bytes(part.tobytes())
    manifest = [{'paths': names, 'weights': entries}]
    (folder / 'model.json').write_text(json.dumps({'weightsManifest': manifest}))
    return folder


def plain_conv(x, kernel, bias, stride=1, padding=0):
    """(H, W, C) float64, one sum a pixel, with a ReLU."""
    x = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
    k = len(kernel)
    height, width = ((n - k) // stride + 1 for n in x.shape[:2])
    y = np.empty((height, width, kernel.shape[-1]))
    for i in range(height):
        for j in range(width):
            window = x[i * stride : i * stride + k, j * stride : j * stride + k]
            y[i, j] = np.tensordot(window, kernel, 3) + bias
    return np.maximum(y, 0)


def plain_pool(x):
    """3 x 3 px, every second, the last one cut off by the edge."""
    height, width = (-(-(n - 3) // 2) + 1 for n in x.shape[:2])
    windows = [
        [x[2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((0, 1)) for j in range(width)]
        for i in range(height)
    ]
    return np.array(windows)


def plain_maps(kernels, seen):
    """Of one picture as the network of the file wants to see it, (H, W, 3): at strides 2 to 16."""
    x, maps = plain_conv(seen, *kernels['conv1'], stride=2), []
    for number in range(2, 9):
        if number in (2, 4, 6):
            maps.append(x)
            x = plain_pool(x)
        x = plain_conv(x, *kernels[f'fire{number}/squeeze1x1'])
        ones = plain_conv(x, *kernels[f'fire{number}/expand1x1'])
        x = np.concatenate(
            [ones, plain_conv(x, *kernels[f'fire{number}/expand3x3'], padding=1)], -1
        )
    return [*maps, x]


def caffe(rgb):
    """Blue, green, red, 0..255, less ImageNet's mean."""
    return rgb[..., ::-1] * 255 - [103.939, 116.779, 123.68]


def torchvision(rgb):
    return (rgb - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]


@pytest.fixture(scope='module')
def pictures():
    """Whose maps are of even and odd sides, so that pools do and do not reach over the edge."""
    return np.random.default_rng(1).random((2, 36, 49, 3)).astype(np.float32)


def assert_features(path, kernels, pictures, normalized):
    got = jax.jit(squeezenet.features)(squeezenet.load(path), jnp.asarray(pictures))
    assert (got.shape, got.dtype) == ((2, 512), jnp.float32)
    for features, picture in zip(got, pictures.astype(np.float64), strict=True):
        expected = plain_maps(kernels, normalized(picture))[-1].mean((0, 1))
        assert expected.std() > 0.1
        np.testing.assert_allclose(features, expected, atol=1e-5 * expected.max())


@pytest.mark.parametrize('shards', [1, 3])
def test_a_tensorflow_js_folder_gives_the_features_of_pictures_as_caffe_sees_them(
    kernels, pictures, tmp_path, shards
):
    folder = save_tfjs(tmp_path / 'tfjs', kernels, shards)
    assert_features(folder, kernels, pictures, caffe)
    by_folder, by_file = squeezenet.load(folder), squeezenet.load(folder / 'model.json')
    jax.tree.map(np.testing.assert_array_equal, by_folder, by_file)


@pytest.mark.parametrize('suffix', ['npz', 'safetensors'])
def test_a_state_dict_gives_the_features_of_pictures_as_torchvision_sees_them(
    kernels, pictures, tmp_path, suffix
):
    path = tmp_path / f'squeezenet1_1.{suffix}'
    state = state_dict(kernels)
    if suffix == 'npz':
        np.savez(path, **{key: value.astype(np.float16) for key, value in state.items()})
    else:
        safetensors.numpy.save_file(state, path)
    assert_features(path, kernels, pictures, torchvision)


def test_paths_that_are_no_weights_are_named(tmp_path):
    with pytest.raises(UserError, match=r'there is no file of SqueezeNet 1\.1 weights .*gone\.npz'):
        squeezenet.load(tmp_path / 'gone.npz')
    with pytest.raises(UserError, match=r'npz files or TensorFlow\.js folders, not from .*\.pth'):
        squeezenet.load(tmp_path / 'squeezenet1_1.pth')
    with pytest.raises(UserError, match=r'has no model\.json: name a TensorFlow\.js model'):
        squeezenet.load(tmp_path)


def test_a_damaged_folder_is_named(kernels, tmp_path):
    for name in ('no_json', 'another_json', 'no_shard', 'cut', 'longer'):
        folder = save_tfjs(tmp_path / name, kernels)
        shard, model = folder / 'group1-shard1of1', folder / 'model.json'
        if name == 'no_json':
            model.write_text(model.read_text()[:-9])
        elif name == 'another_json':
            model.write_text('[]')
        elif name == 'no_shard':
            shard.unlink()
        elif name == 'cut':
            shard.write_bytes(shard.read_bytes()[:-4])
        else:
            shard.write_bytes(shard.read_bytes() + b'more')
        with pytest.raises(UserError, match=f'{name} cannot be read: it is damaged'):
            squeezenet.load(folder)


def test_quantised_weights_are_named(kernels, tmp_path):
    quantised = {'quantization': {'min': 0.0, 'scale': 1.0, 'dtype': 'uint8'}}
    with pytest.raises(
        UserError, match=r'quantised cannot be read: .* not a whole and unquantised'
    ):
        squeezenet.load(save_tfjs(tmp_path / 'quantised', kernels, **quantised))


def test_another_network_is_named(kernels, tmp_path):
    other = {name: value for name, value in kernels.items() if name != 'fire8/expand3x3'}
    with pytest.raises(UserError, match=r'less has no fire8/expand3x3/kernel: save'):
        squeezenet.load(save_tfjs(tmp_path / 'less', other))
    larger = kernels | {'conv1': (np.zeros((7, 7, 3, 96), np.float32), np.zeros(96, np.float32))}
    sentence = r'has the shape \(7, 7, 3, 96\), but in SqueezeNet 1\.1 \(3, 3, 3, 64\)'
    with pytest.raises(UserError, match=sentence):  # SqueezeNet 1.0
        squeezenet.load(save_tfjs(tmp_path / 'larger', larger))
    path = tmp_path / 'other.safetensors'
    safetensors.numpy.save_file({'features.0.weight': np.zeros((96, 3, 7, 7), np.float32)}, path)
    with pytest.raises(UserError, match=r"in torchvision's squeezenet1_1 \(64, 3, 3, 3\)"):
        squeezenet.load(path)


@pytest.mark.slow
def test_the_smallest_picture_has_features_and_a_smaller_one_is_named(kernels, tmp_path):
    params = squeezenet.load(save_tfjs(tmp_path / 'tfjs', kernels))
    assert np.isfinite(squeezenet.features(params, jnp.ones((1, 17, 18, 3)))).all()
    with pytest.raises(UserError, match=r'17 px or more, not 18 x 16: raise eval\.size'):
        squeezenet.features(params, jnp.ones((1, 18, 16, 3)))


@pytest.mark.parametrize('size', [(32, 48), (20, 16)])
def test_the_backbone_has_the_maps_of_a_gray_picture_that_is_one_px_larger(kernels, tmp_path, size):
    params = squeezenet.load(save_tfjs(tmp_path / 'tfjs', kernels))
    gray = np.random.default_rng(2).random((1, *size, 1)).astype(np.float32)
    got = squeezenet.Backbone().apply({'params': params}, jnp.asarray(gray))
    larger = np.pad(gray[0].astype(np.float64), ((0, 1), (0, 1), (0, 0)), mode='edge')
    expected = plain_maps(kernels, caffe(larger.repeat(3, axis=2)))
    for level, (ours, plain) in enumerate(zip(got, expected, strict=True), start=1):
        assert ours.shape == (1, size[0] >> level, size[1] >> level, 32 << level)
        np.testing.assert_allclose(ours[0], plain, atol=1e-4 * plain.max())


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [jnp.float32, pytest.param(jnp.bfloat16, marks=pytest.mark.slow)])
def test_the_backbone_learns_but_for_its_first_convolution(kernels, tmp_path, dtype):
    params = squeezenet.load(save_tfjs(tmp_path / 'tfjs', kernels))
    gray = jnp.asarray(np.random.default_rng(3).random((2, 32, 32, 1)), jnp.float32)

    module = squeezenet.Backbone(dtype=dtype)

    def loss(params):
        return jnp.square(module.apply({'params': params}, gray)[-1]).mean()

    for name, layer in jax.jit(jax.grad(loss))(params).items():
        assert bool(jnp.any(layer['kernel'] != 0)) == (name != 'conv1'), name


def test_a_picture_too_small_for_the_backbone_is_named(kernels, tmp_path):
    params = squeezenet.load(save_tfjs(tmp_path / 'tfjs', kernels))
    with pytest.raises(UserError, match=r'16 px or more, not 16 x 15: raise the size'):
        squeezenet.Backbone().apply({'params': params}, jnp.ones((1, 16, 15, 1)))
