"""The convolutions and norms that every network is made of.

The 4x4 stride-2 convolutions are computed, and their kernels stored, in space-to-depth form: a 2x2
stride-1 convolution over 2x2 blocks of pixels is the same function, and on a CPU two to five times
faster than XLA's strided and input-dilated convolutions. `*_kernel_from_hwio` and
`*_kernel_to_hwio` re-index between the stored layout and the usual (4, 4, C, F).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from chromagan_jax.errors import UserError
from chromagan_jax.models.ops.conv import conv

Array = jax.Array
Dtype = Any

NORMS = ('batch', 'instance', 'group', 'none')
TEST_MODES = ('running', 'batch')
_EPSILON = 1e-5
_GROUPS = 32  # of group norm, at most (Wu and He 2018, https://arxiv.org/abs/1803.08494)

# DCGAN's initialisation, which pix2pix uses throughout (Radford et al. 2016).
kernel_init = nn.initializers.normal(0.02)


def scale_init(key: Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> Array:
    """The scale of a norm drawn from N(1, 0.02), as in pix2pix."""
    return 1.0 + 0.02 * jax.random.normal(key, shape, dtype)


def space_to_depth(x: Array, side: int = 2) -> Array:
    """(B, sH, sW, C) -> (B, H, W, s^2 C): channel (ry, rx, c) of a block is its pixel (ry, rx)."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // side, side, w // side, side, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h // side, w // side, side**2 * c)


def depth_to_space(x: Array) -> Array:
    """(B, H, W, 4C) -> (B, 2H, 2W, C): the inverse of `space_to_depth`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, 2 * h, 2 * w, c // 4)


def down_kernel_from_hwio(kernel: Array) -> Array:
    """(4, 4, C, F) -> (2, 2, 4C, F): tap 2b + r of the kernel is pixel r of block b."""
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

    Output pixel o = 2i - 1 + k takes input pixel i through tap k. Of the 2x2 windows over the
    padded input, pixel b of a window reaches phase p of the window's output block by tap
    k = 2 (1 - b) + p.
    """
    _, _, c, f = kernel.shape
    kernel = kernel.reshape(2, 2, 2, 2, c, f)[::-1, :, ::-1]  # (1 - b, p) twice -> (b, p) twice
    return kernel.transpose(0, 2, 4, 1, 3, 5).reshape(2, 2, c, 4 * f)


def up_kernel_to_hwio(kernel: Array) -> Array:
    """(2, 2, C, 4F) -> (4, 4, C, F): the inverse of `up_kernel_from_hwio`."""
    _, _, c, f = kernel.shape
    kernel = kernel.reshape(2, 2, c, 2, 2, f // 4).transpose(0, 3, 1, 4, 2, 5)[::-1, :, ::-1]
    return kernel.reshape(4, 4, c, f // 4)


class DownConv(nn.Module):
    """4x4 convolution, stride 2, padding 1: (B, H, W, C) -> (B, H // 2, W // 2, features)."""

    features: int
    use_bias: bool = False
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        _, h, w, c = x.shape
        shape = (2, 2, 4 * c, self.features)
        kernel = self.param('kernel', kernel_init, shape, self.param_dtype)
        # An odd side loses its last row, as in PyTorch, where no window of the stride reaches it.
        x = jnp.pad(x, ((0, 0), (1, 1 - h % 2), (1, 1 - w % 2), (0, 0)))
        x = conv(space_to_depth(x.astype(self.dtype)), kernel.astype(self.dtype))
        return add_bias(self, x) if self.use_bias else x


class UpConv(nn.Module):
    """4x4 transposed convolution, stride 2, padding 1: (B, H, W, C) -> (B, 2H, 2W, features)."""

    features: int
    use_bias: bool = False
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (2, 2, x.shape[-1], 4 * self.features)
        kernel = self.param('kernel', kernel_init, shape, self.param_dtype)
        # The outermost ring of the blocks lies outside the picture.
        x = conv(x.astype(self.dtype), kernel.astype(self.dtype), padding=(1, 1))
        x = depth_to_space(x)[:, 1:-1, 1:-1]
        return add_bias(self, x) if self.use_bias else x


def max_pool(x: Array) -> Array:
    """2x2 max-pool, (B, H, W, C) -> (B, H // 2, W // 2, C), gradient to the first of equal pixels.

    The same values and gradients as `nn.max_pool`, whose gradient XLA's CPU back end computes
    slowly: both passes over (4, 94, 94, 32) took 5.1 ms there and 0.8 ms here on two cores.
    (`jnp.maximum` would share the gradient among equal pixels, unlike Keras and PyTorch.)
    """
    x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]  # an odd last row or column is dropped
    x = _larger(x[:, :, ::2], x[:, :, 1::2])
    return _larger(x[:, ::2], x[:, 1::2])


def _larger(x: Array, y: Array) -> Array:
    return jnp.where(x >= y, x, y)


def add_bias(module: Any, x: Array) -> Array:
    """`x` plus a learned bias of `module` for each channel."""
    bias = module.param('bias', nn.initializers.zeros, (x.shape[-1],), module.param_dtype)
    return x + bias.astype(x.dtype)


class Norm(nn.Module):
    """Batch, instance or group norm with a learned scale and shift, statistics in float32.

    kind: 'batch', 'instance', 'group' or 'none'. Batch norm keeps running statistics as PyTorch
    does (unbiased variance, epsilon 1e-5); `momentum` is the share of the old ones. test_mode says
    what it uses outside training: 'running' these, 'batch' those of each image by itself, so that
    no result depends on its neighbours. Group norm takes its statistics over the pixels and the
    channels of a group, in as many groups as divide the channels, 32 at most. Statistics over a
    single value say nothing: at 1x1 px instance norm and group norm of one channel a group are
    skipped, and batch norm in test mode 'batch' falls back to the running statistics.
    """

    kind: str = 'batch'
    test_mode: str = 'running'
    momentum: float = 0.9  # PyTorch writes it as 1 - 0.9 = 0.1
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool, coefficients: bool = False) -> Any:
        """Normalised `x`, or with `coefficients` what it is scaled by and shifted by, (C,) each.

        The coefficients of a batch norm do not depend on `x`, outside training.
        """
        single = x.shape[1] * x.shape[2] == 1
        channels = (x.shape[-1],)
        groups = _group_count(x.shape[-1])
        per_channel = self.kind == 'instance' or (self.kind == 'group' and groups == x.shape[-1])
        if self.kind == 'none' or (per_channel and single):
            return x
        scale = self.param('scale', scale_init, channels, self.param_dtype)
        shift = self.param('bias', nn.initializers.zeros, channels, self.param_dtype)
        if self.kind == 'instance':
            mean, variance = moments(x, (1, 2))
        elif self.kind == 'group':
            mean, variance = _group_moments(x, groups)
        else:
            mean, variance = self._batch_statistics(x, train, single)
        scale = scale * lax.rsqrt(variance + _EPSILON)
        shift = shift - mean * scale
        return (scale, shift) if coefficients else (x * scale + shift).astype(self.dtype)

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
    """Mean and biased variance over `axes`, float32, kept as axes of length 1.

    One pass over the data: the variance is E[x^2] - E[x]^2, cut at 0.
    """
    x = x.astype(jnp.float32)
    mean = x.mean(axes, keepdims=True)
    return mean, jnp.maximum(jnp.square(x).mean(axes, keepdims=True) - jnp.square(mean), 0.0)


def _group_count(channels: int) -> int:
    """The largest divisor of `channels` that is not above 32."""
    return next(n for n in range(min(_GROUPS, channels), 0, -1) if channels % n == 0)


def _group_moments(x: Array, groups: int) -> tuple[Array, Array]:
    """`moments` of (B, H, W, C) over pixels and groups of neighbouring channels, (B, 1, 1, C)."""
    b, h, w, c = x.shape
    mean, variance = moments(x.reshape(b, h, w, groups, c // groups), (1, 2, 4))
    spread = lambda value: jnp.repeat(value.reshape(b, 1, 1, groups), c // groups, axis=-1)
    return spread(mean), spread(variance)


def output_activation(x: Array, channels: int) -> Array:
    """Float32 in the range of the target: tanh for ab / 110 (2 channels), sigmoid for RGB (3)."""
    activation: Callable[[Array], Array] = jnp.tanh if channels == 2 else jax.nn.sigmoid
    return activation(x.astype(jnp.float32))


def check_chroma_stride(kind: str, stride: int, channels: int, name: str = 'chroma_stride') -> None:
    """Raises UserError unless the field `name` of a network of that kind is a possible stride."""
    field, power = f'{kind}.{name}', stride >= 1 and not stride & (stride - 1)
    check_range(field, stride, power, '1, 2, 4 or another power of two')
    # In RGB all channels hold the lightness, which would be blurred.
    check_range(field, stride, stride == 1 or channels == 2, "1 unless color_space is 'lab'")


def check_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises UserError if `value` is not one of `choices`."""
    if value not in choices:
        raise UserError(f'{field} is {value!r}; choose one of {", ".join(choices)}.')


def check_range(field: str, value: Any, good: bool, allowed: str) -> None:
    """Raises UserError that says which values are `allowed`, unless `good`."""
    if not good:
        raise UserError(f'{field} must be {allowed}, not {value!r}.')
