"""The layers that the networks share: strided convolutions, norms, pooling, field checks.

The 4x4 stride-2 convolutions are computed in space-to-depth form, as 2x2 stride-1 convolutions over
2x2 blocks of pixels. The results are equal; on a CPU this is faster than XLA's strided and
input-dilated convolutions. `backend.Forms.stride` chooses; `python -m benchmarks.forms` and
`benchmarks.strided` measure both. Kernels are always stored in the form of blocks.
`*_kernel_from_hwio` and `*_kernel_to_hwio` convert between it and the usual (4, 4, C, F).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from chromagan_jax.errors import UserError
from chromagan_jax.models.ops import backend
from chromagan_jax.models.ops.conv import conv
from chromagan_jax.sharding import draw_rows

Array = jax.Array
Dtype = Any

NORMS = ('batch', 'instance', 'group', 'none')
TEST_MODES = ('running', 'batch')
_EPSILON = 1e-5
_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')
_GROUPS = 32  # the most that group norm uses (Wu and He 2018, https://arxiv.org/abs/1803.08494)

# DCGAN's initialisation, as in pix2pix (Radford et al. 2016, https://arxiv.org/abs/1511.06434).
kernel_init = nn.initializers.normal(0.02)


def scale_init(key: Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> Array:
    """Initial scale of a norm, drawn from N(1, 0.02^2) as in pix2pix."""
    return 1.0 + 0.02 * jax.random.normal(key, shape, dtype)


def space_to_depth(x: Array, side: int = 2) -> Array:
    """(B, sH, sW, C) -> (B, H, W, s^2 C): channel (ry, rx, c) holds pixel (ry, rx) of a block."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // side, side, w // side, side, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h // side, w // side, side**2 * c)


def depth_to_space(x: Array) -> Array:
    """(B, H, W, 4C) -> (B, 2H, 2W, C): the inverse of `space_to_depth`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, 2 * h, 2 * w, c // 4)


def without_edge(x: Array) -> Array:
    """(B, H, W, C) -> (B, H - 2, W - 2, C): leaves out the outermost pixels."""
    b, h, w, c = x.shape
    # Not x[:, 1:-1, 1:-1], which may become a gather if the sides are symbolic.
    return lax.slice(x, (0, 1, 1, 0), (b, h - 1, w - 1, c))


def down_kernel_from_hwio(kernel: Array) -> Array:
    """(4, 4, C, F) -> (2, 2, 4C, F): tap 2b + r applies to pixel r of block b."""
    _, _, c, f = kernel.shape
    kernel = kernel.reshape(2, 2, 2, 2, c, f).transpose(0, 2, 1, 3, 4, 5)
    return kernel.reshape(2, 2, 4 * c, f)


def down_kernel_to_hwio(kernel: Array) -> Array:
    """(2, 2, 4C, F) -> (4, 4, C, F): the inverse of `down_kernel_from_hwio`."""
    _, _, c, f = kernel.shape
    kernel = kernel.reshape(2, 2, 2, 2, c // 4, f).transpose(0, 2, 1, 3, 4, 5)
    return kernel.reshape(4, 4, c // 4, f)


def up_kernel_from_hwio(kernel: Array) -> Array:
    """(4, 4, C, F) -> (2, 2, C, 4F), for a kernel as PyTorch's ConvTranspose2d applies it.

    Tap k connects input pixel i to output pixel o = 2i - 1 + k. In 2x2 windows over the padded
    input, tap k = 2 (1 - b) + p connects pixel b of a window to phase p of its output block.
    """
    _, _, c, f = kernel.shape
    kernel = kernel.reshape(2, 2, 2, 2, c, f)[::-1, :, ::-1]  # (1 - b, p) twice -> (b, p) twice
    return kernel.transpose(0, 2, 4, 1, 3, 5).reshape(2, 2, c, 4 * f)


def up_kernel_to_hwio(kernel: Array) -> Array:
    """(2, 2, C, 4F) -> (4, 4, C, F): the inverse of `up_kernel_from_hwio`."""
    _, _, c, f = kernel.shape
    kernel = kernel.reshape(2, 2, c, 2, 2, f // 4).transpose(0, 3, 1, 4, 2, 5)[::-1, :, ::-1]
    return kernel.reshape(4, 4, c, f // 4)


def strided_down(x: Array, kernel: Array) -> Array:
    """(B, H, W, C) with (4, 4, C, F) -> (B, H // 2, W // 2, F), padding 1."""
    padding = ((1, 1), (1, 1))
    return lax.conv_general_dilated(x, kernel, (2, 2), padding, dimension_numbers=_DIMENSIONS)


def strided_up(x: Array, kernel: Array) -> Array:
    """(B, H, W, C) with (4, 4, C, F) -> (B, 2H, 2W, F), as PyTorch's ConvTranspose2d."""
    padding = ((2, 2), (2, 2))
    return lax.conv_general_dilated(
        x,
        kernel[::-1, ::-1],
        (1, 1),
        padding,
        lhs_dilation=(2, 2),
        dimension_numbers=_DIMENSIONS,
    )


class DownConv(nn.Module):
    """4x4 convolution, stride 2, padding 1: (B, H, W, C) -> (B, H // 2, W // 2, features)."""

    features: int
    use_bias: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        _, h, w, c = x.shape
        shape = (2, 2, 4 * c, self.features)
        kernel = self.param('kernel', kernel_init, shape)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if backend.forms().stride == 'strides':
            x = strided_down(x, down_kernel_to_hwio(kernel))
        else:
            # No window reaches the last row of an odd side, as in PyTorch.
            x = jnp.pad(x, ((0, 0), (1, 1 - h % 2), (1, 1 - w % 2), (0, 0)))
            x = conv(space_to_depth(x), kernel)
        return add_bias(self, x) if self.use_bias else x


class UpConv(nn.Module):
    """4x4 transposed convolution, stride 2, padding 1: (B, H, W, C) -> (B, 2H, 2W, features)."""

    features: int
    use_bias: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (2, 2, x.shape[-1], 4 * self.features)
        kernel = self.param('kernel', kernel_init, shape)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if backend.forms().stride == 'strides':
            x = strided_up(x, up_kernel_to_hwio(kernel))
        else:
            # The outermost pixels of the blocks lie outside the output.
            x = without_edge(depth_to_space(conv(x, kernel, padding=(1, 1))))
        return add_bias(self, x) if self.use_bias else x


def max_pool(x: Array) -> Array:
    """2x2 max-pool, (B, H, W, C) -> (B, H // 2, W // 2, C); values and gradients of `nn.max_pool`.

    XLA's CPU back end computes the gradient of `nn.max_pool` slowly. The gradient goes to the first
    of equal pixels, as in Keras and PyTorch; `jnp.maximum` would share it among them.
    """
    x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]  # an odd last row or column is dropped
    x = _larger(x[:, :, ::2], x[:, :, 1::2])
    return _larger(x[:, ::2], x[:, 1::2])


def _larger(x: Array, y: Array) -> Array:
    return jnp.where(x >= y, x, y)


def add_bias(module: Any, x: Array) -> Array:
    """Adds a learned bias per channel, a parameter of `module`, to `x` (..., C)."""
    bias = module.param('bias', nn.initializers.zeros, (x.shape[-1],))
    return x + bias.astype(x.dtype)


class Norm(nn.Module):
    """Batch, instance or group norm with a learned scale and shift; (B, H, W, C) -> the same.

    Statistics are float32. Batch norm updates running statistics as PyTorch does (unbiased
    variance, epsilon 1e-5). Group norm uses the largest number of groups up to 32 that divides the
    channels. Statistics over a single value are meaningless. So at 1x1 px instance norm and group
    norm with one channel per group are skipped, and batch norm uses running statistics in test mode
    'batch'.
    """

    kind: str = 'batch'  # batch, instance, group or none
    test_mode: str = 'running'  # batch norm statistics at test time: running, or batch (per image)
    momentum: float = 0.9  # share of the old running statistics; PyTorch's momentum is 1 - 0.9
    dtype: Dtype = jnp.float32

    def __call__(self, x: Array, train: bool) -> Array:
        groups = _group_count(x.shape[-1])
        per_channel = self.kind == 'instance' or (self.kind == 'group' and groups == x.shape[-1])
        if self.kind == 'none' or (per_channel and x.shape[1] * x.shape[2] == 1):
            return x
        scale, shift = self.coefficients(x, train)
        return (x * scale + shift).astype(self.dtype)

    @nn.compact
    def coefficients(self, x: Array, train: bool) -> tuple[Array, Array]:
        """What `x` is scaled by and shifted by, for broadcasting to it.

        Those of a batch norm do not depend on `x`, outside training.
        """
        channels = (x.shape[-1],)
        scale = self.param('scale', scale_init, channels)
        shift = self.param('bias', nn.initializers.zeros, channels)
        if self.kind == 'instance':
            mean, variance = moments(x, (1, 2))
        elif self.kind == 'group':
            mean, variance = _group_moments(x, _group_count(x.shape[-1]))
        else:
            single = x.shape[1] * x.shape[2] == 1
            mean, variance = self._batch_statistics(x, train, single)
        scale = scale * lax.rsqrt(variance + _EPSILON)
        return scale, shift - mean * scale

    def _batch_statistics(self, x: Array, train: bool, single: bool) -> tuple[Array, Array]:
        channels = (x.shape[-1],)
        running_mean = self.variable('batch_stats', 'mean', jnp.zeros, channels, jnp.float32)
        running_variance = self.variable('batch_stats', 'var', jnp.ones, channels, jnp.float32)
        if not train and (self.test_mode == 'running' or single):
            return running_mean.value, running_variance.value
        mean, variance = moments(x, (0, 1, 2) if train else (1, 2))
        if train and not self.is_initializing():
            count = x.size // x.shape[-1]
            unbiased = variance * (count / max(count - 1, 1))
            for running, new in ((running_mean, mean), (running_variance, unbiased)):
                running.value = self.momentum * running.value + (1 - self.momentum) * new.reshape(
                    channels
                )
        return mean, variance


def moments(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Mean and biased variance over `axes`, float32; the axes stay with length 1.

    The variance is E[x^2] - E[x]^2, clipped at 0, which takes one pass over the data.
    """
    x = x.astype(jnp.float32)
    mean = x.mean(axes, keepdims=True)
    return mean, jnp.maximum(jnp.square(x).mean(axes, keepdims=True) - jnp.square(mean), 0.0)


def _group_count(channels: int) -> int:
    """The largest divisor of `channels` up to 32."""
    return next(n for n in range(min(_GROUPS, channels), 0, -1) if channels % n == 0)


def _group_moments(x: Array, groups: int) -> tuple[Array, Array]:
    """`moments` of (B, H, W, C) over pixels and groups of neighbouring channels, (B, 1, 1, C)."""
    b, h, w, c = x.shape
    mean, variance = moments(x.reshape(b, h, w, groups, c // groups), (1, 2, 4))

    def spread(value: Array) -> Array:
        return jnp.repeat(value.reshape(b, 1, 1, groups), c // groups, axis=-1)

    return spread(mean), spread(variance)


class Dropout(nn.Module):
    """Dropout of (B, ...); active wherever the rng stream 'noise' is given."""

    rate: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if not self.rate or not self.has_rng('noise'):
            return x
        keep = 1 - self.rate
        draw = lambda key, lead: jax.random.bernoulli(key, keep, (*lead, *x.shape[1:]))
        kept = draw_rows(draw, self.make_rng('noise'), len(x))
        return jnp.where(kept, x / keep, jnp.zeros_like(x))


def output_activation(x: Array, channels: int) -> Array:
    """Tanh for ab / 110 (2 channels) or sigmoid for RGB (3 channels), float32."""
    activation: Callable[[Array], Array] = jnp.tanh if channels == 2 else jax.nn.sigmoid
    return activation(x.astype(jnp.float32))


def check_stride(field: str, stride: int, channels: int) -> None:
    """Raises UserError unless `stride`, the value of `field`, is a valid stride of the target."""
    power = stride >= 1 and not stride & (stride - 1)
    check_range(field, stride, power, '1, 2, 4 or another power of two')
    # RGB channels contain the lightness, which a stride would blur.
    check_range(field, stride, stride == 1 or channels == 2, "1 unless color_space is 'lab'")


def check_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises UserError if `value` is not one of `choices`."""
    if value not in choices:
        raise UserError(f'{field} is {value!r}; choose one of {", ".join(choices)}.')


def check_range(field: str, value: Any, good: bool, allowed: str) -> None:
    """Raises UserError with the `allowed` values unless `good`."""
    if not good:
        raise UserError(f'{field} must be {allowed}, not {value!r}.')
