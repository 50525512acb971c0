"""SqueezeNet 1.1 (Iandola et al. 2016, https://arxiv.org/abs/1602.07360) and its weight files.

Only the convolutions up to fire8 are used, because models for TensorFlow.js often end within fire9.
`features` computes image features for metrics: the spatial mean of fire8's map. `Backbone` is an
encoder within a generator.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from chromagan_jax.errors import UserError
from chromagan_jax.models.ops.conv import Conv
from chromagan_jax.models.pretrained import weights
from chromagan_jax.utils import paths

Array = jax.Array
Params = dict[str, dict[str, np.ndarray]]

BACKBONE = 'squeezenet'  # the name of a `Backbone` in the parameters of a generator
FEATURES = 512
_SMALLEST = 17  # px a side that leaves a pixel after the last pool

# Fire module -> index in torchvision's `features`, and its squeeze features; each of its two
# expansions has four times as many.
_FIRES = {
    'fire2': (3, 16),
    'fire3': (4, 16),
    'fire4': (6, 32),
    'fire5': (7, 32),
    'fire6': (9, 48),
    'fire7': (10, 48),
    'fire8': (11, 64),
}
_AFTER_A_POOL = ('fire2', 'fire4', 'fire6')

# (mean, std) of the input normalization, for RGB in [0, 1]. TensorFlow.js models derive from the
# authors' Caffe model, whose inputs are B, G, R in 0..255 minus ImageNet's mean.
_CAFFE = (np.array((123.68, 116.779, 103.939)) / 255, np.full(3, 1 / 255))
_TORCHVISION = (np.array(weights.MEAN), np.array(weights.STD))


def load(path: str | pathlib.Path) -> Params:
    """Loads SqueezeNet 1.1's parameters up to fire8, for `features` and for a `Backbone`.

    The input normalization is folded into conv1, so that inputs are RGB in [0, 1].

    Args:
        path: a .safetensors or .npz file with the state dict of `torchvision.models.squeezenet1_1`,
            or a TensorFlow.js folder of the authors' weights with Keras's names
            (conv1/kernel ... fire8/expand3x3/bias), or that folder's model.json.

    Returns:
        {'conv1': {'kernel', 'bias'}, 'fire2_squeeze1x1': ...}, float32, kernels (H, W, in, out).

    Raises:
        UserError: if the path is missing, damaged, of another type or of another network.
    """
    path = paths.expand(path)
    folder = path.parent if path.name == 'model.json' else path
    layers = _layers()
    if not folder.is_dir() and path.suffix not in ('.npz', '.safetensors'):
        raise UserError(
            'SqueezeNet weights are read from .safetensors or .npz files or TensorFlow.js folders, '
            f'not from {path}: set the path to one of those.'
        )
    if folder.is_dir():
        keras = {name: name.replace('_', '/') for name in layers}
        shapes = {f'{keras[name]}/kernel': shape for name, (_, shape) in layers.items()}
        shapes |= {f'{keras[name]}/bias': shape[-1:] for name, (_, shape) in layers.items()}
        arrays = weights.read_tfjs(folder, 'SqueezeNet 1.1', shapes)
        params = {n: {k: arrays[f'{keras[n]}/{k}'] for k in ('kernel', 'bias')} for n in layers}
        params['conv1']['kernel'] = params['conv1']['kernel'][:, :, ::-1]  # B, G, R
        return params | {'conv1': _seeing_rgb(params['conv1'], *_CAFFE)}
    shapes = {f'{key}.weight': (s[3], s[2], s[0], s[1]) for key, s in layers.values()}
    shapes |= {f'{key}.bias': shape[-1:] for key, shape in layers.values()}
    arrays = weights.read_state_dict(path, 'SqueezeNet 1.1', 'squeezenet1_1', shapes)
    params = {
        name: {
            'kernel': arrays[f'{key}.weight'].transpose(2, 3, 1, 0).astype(np.float32),
            'bias': arrays[f'{key}.bias'].astype(np.float32),
        }
        for name, (key, _) in layers.items()
    }
    return params | {'conv1': _seeing_rgb(params['conv1'], *_TORCHVISION)}


def _layers() -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name in Keras's files -> name in torchvision, and shape of the kernel, HWIO."""
    layers: dict[str, tuple[str, tuple[int, ...]]] = {'conv1': ('features.0', (3, 3, 3, 64))}
    inputs = 64
    for fire, (place, squeezed) in _FIRES.items():
        expanded = 4 * squeezed
        for part, theirs, shape in (
            ('squeeze1x1', 'squeeze', (1, 1, inputs, squeezed)),
            ('expand1x1', 'expand1x1', (1, 1, squeezed, expanded)),
            ('expand3x3', 'expand3x3', (3, 3, squeezed, expanded)),
        ):
            layers[f'{fire}_{part}'] = (f'features.{place}.{theirs}', shape)
        inputs = 2 * expanded
    return layers


def _seeing_rgb(
    conv1: dict[str, np.ndarray], mean: np.ndarray, std: np.ndarray
) -> dict[str, np.ndarray]:
    """Folds (RGB - mean) / std into conv1, which is exact because conv1 has no padding."""
    kernel = conv1['kernel'].astype(np.float64) / std[:, None]
    bias = conv1['bias'] - np.einsum('hwio,i->o', kernel, mean)
    return {'kernel': kernel.astype(np.float32), 'bias': bias.astype(np.float32)}


def features(params: Params, rgb: Array) -> Array:
    """Spatial mean of fire8's map: (B, H, W, 3) sRGB in [0, 1] -> (B, 512) float32.

    Raises:
        UserError: if a side is shorter than 17 px.
    """
    if any(side < _SMALLEST for side in rgb.shape[1:3]):  # sides may be symbolic
        raise UserError(
            f'SqueezeNet needs pictures of {_SMALLEST} px or more, not {rgb.shape[1]} x '
            f'{rgb.shape[2]}: raise eval.size, or leave eval.features empty.'
        )

    def convolve(name: str, x: Array) -> Array:
        return _conv(params[name], x, *((2, 'VALID') if name == 'conv1' else (1, 'SAME')))

    maps = _maps(rgb.astype(jnp.float32), convolve)
    return maps[-1].mean(axis=(1, 2))


class Backbone(nn.Module):
    """(B, H, W, 1) gray in [0, 1] -> maps at strides 2, 4, 8 and 16, sides rounded down.

    The maps have 64, 128, 256 and 512 features. The last row and column are replicated once, so
    that the maps of even sides have the sizes of a U-Net's levels.

    Raises:
        UserError: if a side is shorter than 16 px.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, gray: Array) -> list[Array]:
        shapes = {name: shape for name, (_, shape) in _layers().items()}

        def convolve(name: str, x: Array) -> Array:
            first = name == 'conv1'
            convolution = Conv(
                shapes[name][-1],
                shapes[name][:2],
                *((2, 'VALID') if first else (1, 'SAME')),
                dtype=self.dtype,
                kernel_init=nn.initializers.he_normal(),
                name=name,
            )
            y = nn.relu(convolution(x))
            # conv1 is frozen: its edge filters are general, and its kernel gradient takes as long
            # as all others together.
            return lax.stop_gradient(y) if first else y

        if any(side < _SMALLEST - 1 for side in gray.shape[1:3]):
            raise UserError(
                f"SqueezeNet as a generator's encoder needs pictures of {_SMALLEST - 1} px or "
                f'more, not {gray.shape[1]} x {gray.shape[2]}: raise the size (data.size, '
                'eval.size).'
            )
        image = jnp.pad(gray, ((0, 0), (0, 1), (0, 1), (0, 0)), mode='edge')
        return _maps(image.repeat(3, axis=3), convolve)


def _maps(x: Array, convolve: Callable[[str, Array], Array]) -> list[Array]:
    """The maps before each later pool and at the end: strides 2, 4, 8 and 16."""
    maps = []
    x = convolve('conv1', x)
    for fire in _FIRES:
        if fire in _AFTER_A_POOL:
            maps.append(x)
            x = _max_pool(x)
        x = convolve(f'{fire}_squeeze1x1', x)
        expanded = [convolve(f'{fire}_expand{k}', x) for k in ('1x1', '3x3')]
        x = jnp.concatenate(expanded, axis=-1)
    return [*maps, x]


def _conv(layer: dict[str, np.ndarray], x: Array, stride: int, padding: str) -> Array:
    """Convolution, bias, ReLU; in full float32 because metrics depend on it."""
    y = lax.conv_general_dilated(
        x,
        jnp.asarray(layer['kernel']),
        (stride, stride),
        padding,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        precision=lax.Precision.HIGHEST,
    )
    return nn.relu(y + layer['bias'])


def _max_pool(x: Array) -> Array:
    """3x3 max-pool, stride 2, with partial windows at the end as in Caffe and torchvision.

    XLA's CPU back end computes the gradient of `nn.max_pool` slowly.
    """
    over = [(0, (n - 3) % 2) for n in x.shape[1:3]]
    x = jnp.pad(x, ((0, 0), *over, (0, 0)), constant_values=-jnp.inf)
    x = functools.reduce(jnp.maximum, [x[:, i : x.shape[1] - 2 + i : 2] for i in range(3)])
    return functools.reduce(jnp.maximum, [x[:, :, i : x.shape[2] - 2 + i : 2] for i in range(3)])
