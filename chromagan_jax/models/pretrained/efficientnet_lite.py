"""EfficientNet-Lite encoder: inverted residual blocks with batch norm folded into convolutions.

EfficientNet: Tan and Le 2019, https://arxiv.org/abs/1905.11946. The Lite variants omit
squeeze-and-excitation, use ReLU6 and do not scale the stem and the first and last stage:
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite.
"""

import math
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import linen as nn
from flax import traverse_util

from chromagan_jax.errors import UserError
from chromagan_jax.models import layers
from chromagan_jax.models.ops.conv import conv
from chromagan_jax.models.ops.depthwise import depthwise_conv, same_padding
from chromagan_jax.models.pretrained import weights
from chromagan_jax.utils import paths

Array = jax.Array
Params = dict[str, Any]

TITLE = 'EfficientNet-Lite'
BACKBONE = 'encoder'  # the name of an `Encoder` in the parameters of a generator
STRIDES = (2, 4, 8, 16, 32)  # of the maps
_STEM_FEATURES = 32


class Stage(NamedTuple):
    """A sequence of equal blocks; only the first block has the stride."""

    expansion: int
    features: int
    blocks: int
    stride: int
    kernel: int


_STAGES = (
    Stage(1, 16, 1, 1, 3),
    Stage(6, 24, 2, 2, 3),
    Stage(6, 40, 2, 2, 5),
    Stage(6, 80, 3, 2, 3),
    Stage(6, 112, 3, 1, 5),
    Stage(6, 192, 4, 2, 5),
    Stage(6, 320, 1, 1, 3),
)
_LAST_AT_STRIDE = (0, 1, 2, 4, 6)  # the stages after which a map is taken
_SCALES = {'lite0': (1.0, 1.0), 'lite1': (1.0, 1.1), 'lite2': (1.1, 1.2)}  # of width, depth
VARIANTS = tuple(_SCALES)

_kernel_init = nn.initializers.he_normal()
_depthwise_init = nn.initializers.variance_scaling(2.0, 'fan_in', 'truncated_normal', in_axis=())


def stages(variant: str) -> tuple[Stage, ...]:
    """The scaled stages of 'lite0', 'lite1' or 'lite2'."""
    width, depth = _SCALES[variant]
    first, *middle, last = (s._replace(features=_scaled(s.features, width)) for s in _STAGES)
    deeper = [s._replace(blocks=math.ceil(s.blocks * depth)) for s in middle]
    return first, *deeper, last


def _scaled(features: int, width: float) -> int:
    """The nearest multiple of 8 to `features * width` that is at least 90 % of it."""
    scaled = features * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


class Encoder(nn.Module):
    """Gray (B, H, W, 1) or RGB (B, H, W, 3) in [0, 1] -> maps at strides 2, 4, 8, 16 and 32.

    The maps of 'lite0' and 'lite1' have 16, 24, 40, 112 and 320 features. A side of n px gives maps
    of ceil(n / stride) px. Batch norm is folded into the convolutions, so fine-tuning updates plain
    convolutions with biases.
    """

    variant: str = 'lite0'  # lite0, lite1 or lite2
    dtype: Any = jnp.float32
    remat: bool = False  # recomputes the activations inside each block in the backward pass

    @nn.compact
    def __call__(self, x: Array) -> list[Array]:
        block = nn.remat(Block) if self.remat else Block
        # The pretrained weights expect (x - 127) / 128 with x in 0..255.
        x = Stem(_STEM_FEATURES, dtype=self.dtype, name='stem')((255 * x - 127) / 128)
        maps, number = [], 0
        for index, stage in enumerate(stages(self.variant)):
            for repeat in range(stage.blocks):
                stride = stage.stride if repeat == 0 else 1
                fields = stage.expansion, stage.features, stage.kernel, stride
                x = block(*fields, dtype=self.dtype, name=f'block_{number}')(x)
                number += 1
            if index in _LAST_AT_STRIDE:
                maps.append(x)
        return maps


class Stem(nn.Module):
    """3x3 stride-2 convolution with a bias, ReLU6; TensorFlow's SAME padding.

    Computed in space-to-depth form, like the strided convolutions in `layers`.
    """

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param('kernel', _kernel_init, (3, 3, 3, self.features))
        if x.shape[-1] == 1:  # gray: one summed channel equals three equal ones
            kernel = kernel.sum(axis=2, keepdims=True)
        kernel = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))  # to 4x4, with zero taps
        kernel = layers.down_kernel_from_hwio(kernel).astype(self.dtype)
        rows, columns = ((before, after + 1) for before, after in same_padding(x.shape[1:3], 3, 2))
        x = jnp.pad(x.astype(self.dtype), ((0, 0), rows, columns, (0, 0)))
        return nn.relu6(layers.add_bias(self, conv(layers.space_to_depth(x), kernel)))


class Block(nn.Module):
    """Inverted residual block: 1x1 expansion, depthwise convolution, 1x1 projection."""

    expansion: int
    features: int
    kernel: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:

        def pointwise(features: int, name: str) -> nn.Module:
            # A 1x1 convolution is a matrix product over the channels.
            return nn.Dense(features, kernel_init=_kernel_init, dtype=self.dtype, name=name)

        y = x
        if self.expansion > 1:
            y = nn.relu6(pointwise(self.expansion * x.shape[-1], 'expand')(y))
        y = nn.relu6(Depthwise(self.kernel, self.stride, dtype=self.dtype, name='depthwise')(y))
        y = pointwise(self.features, 'project')(y)
        return x + y if self.stride == 1 and x.shape[-1] == self.features else y


class Depthwise(nn.Module):
    """k x k depthwise convolution with a bias."""

    kernel: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.kernel, self.kernel, x.shape[-1])
        kernel = self.param('kernel', _depthwise_init, shape)
        y = depthwise_conv(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)
        return layers.add_bias(self, y)


def load(path: str | pathlib.Path) -> Params:
    """Loads the parameters of an `Encoder` from a file written by `python -m tools.encoder`.

    Returns:
        {'stem': {'kernel', 'bias'}, 'block_0': {'depthwise': ..., 'project': ...}, ...}, float32.

    Raises:
        UserError: if the file is missing, damaged or of another type.
    """
    path = paths.expand(path)
    if path.suffix != '.safetensors' or not path.is_file():
        raise UserError(
            f'{path} is not a .safetensors file of {TITLE} weights: create one with '
            'python -m tools.encoder, or correct the path.'
        )
    arrays = weights.readable(
        lambda: safetensors.numpy.load_file(path), path, f'a file of {TITLE} weights'
    )
    if 'stem/kernel' not in arrays:
        raise UserError(
            f'{path} contains no {TITLE} encoder: create the file with python -m tools.encoder.'
        )
    nested = {tuple(name.split('/')): array.astype(np.float32) for name, array in arrays.items()}
    return traverse_util.unflatten_dict(nested)
