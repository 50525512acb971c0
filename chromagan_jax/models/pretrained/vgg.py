"""VGG16 (Simonyan and Zisserman 2015, https://arxiv.org/abs/1409.1556) and its weights from a file.

Parameters are flat, with the layer names of the usual VGG16 releases (conv1_1 ... fc8). So the
parameters of a `Backbone` are a subset of those of a `VGG16` and of the result of `load`.
"""

import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from chromagan_jax import color
from chromagan_jax.errors import UserError
from chromagan_jax.models import layers
from chromagan_jax.models.ops.conv import Conv
from chromagan_jax.models.pretrained import weights
from chromagan_jax.utils import paths

Array = jax.Array
Params = dict[str, dict[str, np.ndarray]]

BACKBONE = 'backbone'  # the name of a `Backbone` in the parameters of a generator

# Per block: number of convolutions, and features as a multiple of the first block's.
_BLOCKS = ((2, 1), (2, 2), (3, 4), (3, 8), (3, 8))
_POOLED = 7  # px, the side of the map at the dense layers for any image size


def normalized(condition: Array, channels_of_target: int) -> Array:
    """Normalizes a condition for VGG16: (B, H, W, 1) -> (B, H, W, 3), float32.

    The sRGB gray value in each channel, minus ImageNet's mean, divided by its standard deviation,
    as in the training of the weights. (ChromaGAN's code repeats L* instead, on another scale.)

    Args:
        condition: L*/50 - 1 if the target has 2 channels (lab), the gray value in [0, 1] if it has
            3 (rgb).
        channels_of_target: 2 or 3.
    """
    gray = color.gray_of_condition(condition, channels_of_target)
    return (gray - jnp.array(weights.MEAN, jnp.float32)) / jnp.array(weights.STD, jnp.float32)


class Backbone(nn.Module):
    """(B, H, W, 3) normalized RGB -> (B, H // 8, W // 8, 8 * width): conv4_3 after its ReLU."""

    width: int = 64  # features of the first block; pretrained weights need 64
    dtype: Any = jnp.float32
    remat: bool = False  # stores the input of each block and recomputes the rest

    @nn.compact
    def __call__(self, x: Array) -> Array:
        block = nn.remat(_block, static_argnums=(2,)) if self.remat else _block
        for index in range(4):
            x = block(self, x if index == 0 else layers.max_pool(x), index)
        return x


class VGG16(nn.Module):
    """(B, H, W, 3) normalized RGB -> (B, classes) logits, float32, for a frozen teacher.

    Configuration D of the paper without dropout. The last map is averaged to 7 x 7, as in
    torchvision, so that images may have any size.

    Raises:
        UserError: if a side is shorter than 32 px.
    """

    width: int = 64  # features of the first block; pretrained weights need 64
    classes: int = 1000  # pretrained weights need 1000
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if min(x.shape[1:3]) < 32:
            raise UserError(
                f'VGG16 needs pictures of 32 px or more, not {x.shape[1]} x {x.shape[2]}: raise '
                'data.size.'
            )
        for index in range(len(_BLOCKS)):
            x = layers.max_pool(_block(self, x, index))
        x = adaptive_average_pool(x, _POOLED).reshape(len(x), -1)
        x = nn.relu(nn.Dense(64 * self.width, dtype=self.dtype, name='fc6')(x))
        x = nn.relu(nn.Dense(64 * self.width, dtype=self.dtype, name='fc7')(x))
        return nn.Dense(self.classes, dtype=self.dtype, name='fc8')(x).astype(jnp.float32)


def _block(module: Any, x: Array, index: int) -> Array:
    """The convolutions of one block, as submodules of `module`."""
    convolutions, multiple = _BLOCKS[index]
    for number in range(1, convolutions + 1):
        convolution = Conv(
            module.width * multiple,
            (3, 3),
            padding=1,
            dtype=module.dtype,
            kernel_init=nn.initializers.he_normal(),
            name=f'conv{index + 1}_{number}',
        )
        x = nn.relu(convolution(x))
    return x


def adaptive_average_pool(x: Array, side: int) -> Array:
    """(B, H, W, C) -> (B, side, side, C): PyTorch's AdaptiveAvgPool2d.

    Output i is the mean over the pixels from floor(i n / side) up to ceil((i + 1) n / side).
    Windows may overlap.
    """
    rows, columns = (jnp.asarray(_window_means(n, side), x.dtype) for n in x.shape[1:3])
    return jnp.einsum('ih,bhwc,jw->bijc', rows, x, columns, precision=jax.lax.Precision.HIGHEST)


def _window_means(n: int, side: int) -> np.ndarray:
    """(side, n) weights; row i averages window i."""
    i, pixel = np.arange(side)[:, None], np.arange(n)
    inside = (pixel >= i * n // side) & (pixel < -(-(i + 1) * n // side))
    return inside / inside.sum(1, keepdims=True)


def load(path: str | pathlib.Path) -> Params:
    """Loads VGG16's parameters from a file in torchvision's layout, for `VGG16` and `Backbone`.

    The file holds the state dict of `torchvision.models.vgg16` in any float type: features.0.weight
    ... features.28.bias, classifier.0, 3 and 6. Kernels become (H, W, in, out) or (in, out). The
    inputs of fc6 are reordered from (512, 7, 7) to (7, 7, 512).

    Args:
        path: a .safetensors or .npz file.

    Returns:
        {'conv1_1': {'kernel', 'bias'}, ..., 'fc8': {'kernel', 'bias'}}, float32.

    Raises:
        UserError: if the file is missing, damaged, of another type or of another network.
    """
    shapes = dict(_torchvision_shapes())
    arrays = weights.read_state_dict(paths.expand(path), 'VGG16', 'vgg16', shapes)
    return {
        name: {
            'kernel': _kernel(name, arrays.pop(f'{key}.weight')),
            'bias': arrays.pop(f'{key}.bias').astype(np.float32),
        }
        for name, key in _torchvision_names()
    }


def _kernel(name: str, weight: np.ndarray) -> np.ndarray:
    """PyTorch's weight (out, in, ...) as Flax's kernel (..., in, out)."""
    if name == 'fc6':
        by_place = weight.reshape(len(weight), -1, _POOLED, _POOLED)
        weight = by_place.transpose(0, 2, 3, 1).reshape(weight.shape)
    order = (2, 3, 1, 0) if weight.ndim == 4 else (1, 0)
    return np.ascontiguousarray(weight.transpose(order), np.float32)


def _torchvision_names() -> Iterator[tuple[str, str]]:
    """(name here, name in torchvision) of each layer; torchvision counts ReLUs and pools too."""
    place = 0
    for index, (convolutions, _) in enumerate(_BLOCKS):
        for number in range(convolutions):
            yield f'conv{index + 1}_{number + 1}', f'features.{place}'
            place += 2
        place += 1
    yield from (('fc6', 'classifier.0'), ('fc7', 'classifier.3'), ('fc8', 'classifier.6'))


def _torchvision_shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """(key, shape) of each array of torchvision's state dict."""
    variables = jax.eval_shape(VGG16().init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    for name, key in _torchvision_names():
        *window, inputs, outputs = variables['params'][name]['kernel'].shape
        yield f'{key}.weight', (outputs, inputs, *window)
        yield f'{key}.bias', (outputs,)
