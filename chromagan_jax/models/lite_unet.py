"""U-Net with an EfficientNet-Lite encoder, which is fine-tuned from ImageNet weights."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from chromagan_jax import color
from chromagan_jax.errors import UserError
from chromagan_jax.models import hints as hints_lib
from chromagan_jax.models import layers
from chromagan_jax.models.ops import bands, resize
from chromagan_jax.models.ops.conv import Conv, conv
from chromagan_jax.models.pretrained import efficientnet_lite

Array = jax.Array

_COARSEST = efficientnet_lite.STRIDES[-1]
_DROPOUT_STRIDES = (32, 16, 8)  # of the decoder levels with dropout
_CONTEXT_FEATURES = 256
_MOMENTUM = 0.98  # of the running statistics of the decoder's batch norms


_kernel_init = nn.initializers.he_normal()


class LiteUNet(nn.Module):
    """(B, H, W, 1) -> (B, H, W, channels) for any H and W.

    The encoder's maps have strides 2 to 32. A context vector, computed from the mean of the last
    map, is concatenated to it at every pixel. The decoder goes from stride 32 to `output_stride`.
    Each level upsamples by 2, concatenates the encoder's map of the same stride, and applies two
    3x3 convolutions, each with batch norm and ReLU. At stride 2 the four condition pixels of each
    2x2 block are concatenated too, at stride 1 the condition is. A last 3x3 convolution predicts
    the target, which is resized bilinearly to the image. Sides that are no multiple of 32 are
    padded by edge replication, and the output is cropped.

    With `hints`, the condition may be (B, H, W, 4), see `models.hints`. Known colours then correct
    the automatic ones.

    Dropout follows the decoder levels at strides 32, 16 and 8. It is active whenever the rng stream
    'noise' is given.

    Raises:
        UserError: if a field has an invalid value.
    """

    channels: int = 2  # of the target: 2 in Lab, 3 in RGB
    encoder: str = 'lite0'  # lite0, lite1 or lite2
    decoder_widths: tuple[int, ...] = (384, 256, 192, 128, 64)  # features at strides 32, 16, ...
    output_stride: int = 2  # of the predicted target: 1, 2, 4 or 8; RGB: 1
    dropout: float = 0.0  # rate
    hints: bool = False  # takes colour hints
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, condition: Array, train: bool) -> Array:
        self._check_fields()
        height, width = condition.shape[1:3]
        condition, given = hints_lib.split(condition)
        extra = ((0, 0), (0, -height % _COARSEST), (0, -width % _COARSEST), (0, 0))
        fits = not (height % _COARSEST or width % _COARSEST)
        padded = condition if fits else jnp.pad(condition, extra, mode='edge')

        gray = color.gray_of_condition(padded, self.channels)
        encoder = efficientnet_lite.Encoder(
            self.encoder, remat=self.remat, dtype=self.dtype, name=efficientnet_lite.BACKBONE
        )
        maps = dict(zip(efficientnet_lite.STRIDES, encoder(gray), strict=True))
        maps[2] = jnp.concatenate([maps[2], layers.space_to_depth(padded.astype(self.dtype))], -1)
        maps[1] = padded.astype(self.dtype)
        levels = {}
        level = nn.remat(Level, static_argnums=(3,)) if self.remat else Level
        x, stride = self._with_context(maps[_COARSEST]), _COARSEST
        x = level(self.decoder_widths[0], 1, dtype=self.dtype, name='level_32')(x, None, train)
        for features in self.decoder_widths[1:]:
            x = self._dropped(x, stride)
            stride //= 2
            x = level(features, 2, dtype=self.dtype, name=f'level_{stride}')(x, maps[stride], train)
            levels[stride] = x
        out = Conv(
            self.channels,
            (3, 3),
            padding=1,
            kernel_init=nn.initializers.normal(0.01),
            dtype=self.dtype,
            name='out',
        )
        colors = layers.output_activation(out(x), self.channels)
        if self.hints and self.is_initializing() and given is None:
            given = jnp.zeros((*condition.shape[:3], hints_lib.CHANNELS))
        if self.hints and given is not None:
            spread = hints_lib.SpreadHints(dtype=self.dtype, name='hints')
            colors = spread(colors, jnp.pad(given, extra), levels, stride)
        if stride > 1:
            colors = resize.upsample(colors, stride)
        return colors if fits else colors[:, :height, :width]

    def _with_context(self, x: Array) -> Array:
        """Concatenates the context vector to (B, h, w, C) at every pixel."""
        context = nn.Dense(_CONTEXT_FEATURES, dtype=self.dtype, name='context')(x.mean(axis=(1, 2)))
        context = jnp.broadcast_to(
            nn.relu(context)[:, None, None], (*x.shape[:3], _CONTEXT_FEATURES)
        )
        return jnp.concatenate([x, context], axis=-1)

    def _dropped(self, x: Array, stride: int) -> Array:
        if stride not in _DROPOUT_STRIDES:
            return x
        return layers.Dropout(self.dropout)(x)

    def _check_fields(self) -> None:
        layers.check_choice('generator.encoder', self.encoder, efficientnet_lite.VARIANTS)
        layers.check_range('generator.dropout', self.dropout, 0 <= self.dropout < 1, '0 <= x < 1')
        stride = self.output_stride
        layers.check_range(
            'generator.output_stride', stride, stride in (1, 2, 4, 8), '1, 2, 4 or 8'
        )
        layers.check_stride('generator.output_stride', stride, self.channels)
        if self.hints and self.channels != 2:
            raise UserError(
                'generator.hints needs color_space lab: set it to False, or the space to lab.'
            )
        count = (_COARSEST // stride).bit_length()
        good = len(self.decoder_widths) == count and min(self.decoder_widths) >= 1
        allowed = f'{count} widths of 1 or more for output_stride {stride}'
        layers.check_range('generator.decoder_widths', self.decoder_widths, good, allowed)


class Level(nn.Module):
    """3x3 convolutions, each with batch norm and ReLU.

    Without `skip`: (B, h, w, C) -> (B, h, w, features). With `skip` (B, 2h, 2w, S), the input is
    first upsampled by 2 (nearest neighbour) and concatenated with it: -> (B, 2h, 2w, features).
    In inference, `bands` computes large maps in parts.
    """

    features: int
    convolutions: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, skip: Array | None, train: bool) -> Array:
        channels = x.shape[-1] + (0 if skip is None else skip.shape[-1])
        kernels, norms = [], []
        for index in range(self.convolutions):
            shape = (3, 3, channels, self.features)
            kernel = self.param(f'kernel_{index}', _kernel_init, shape)
            kernels.append(kernel.astype(self.dtype))
            norms.append(
                layers.Norm('batch', momentum=_MOMENTUM, dtype=self.dtype, name=f'norm_{index}')
            )
            channels = self.features
        if skip is not None and not train and bands.pays(x):
            zeros = jnp.zeros((1, 1, 1, self.features))
            coefficients = [norm.coefficients(zeros, train) for norm in norms]
            first, second = (bands.Layer(k, *c) for k, c in zip(kernels, coefficients, strict=True))
            return bands.doubled_level(x, skip, first, second)
        for kernel, norm in zip(kernels, norms, strict=True):
            if skip is None:
                x = conv(x, kernel, (1, 1))
            else:
                x, skip = conv_of_doubled_and(x, skip, kernel), None
            x = nn.relu(norm(x, train))
        return x


def conv_of_doubled_and(x: Array, skip: Array, kernel: Array) -> Array:
    """3x3 convolution, padding 1, of `x` upsampled by 2 and concatenated with `skip`.

    Args:
        x: (B, h, w, C).
        skip: (B, 2h, 2w, S).
        kernel: (3, 3, C + S, F).

    Returns:
        (B, 2h, 2w, F).
    """
    split = x.shape[-1]
    return conv_of_doubled(x, kernel[:, :, :split]) + conv(skip, kernel[:, :, split:], (1, 1))


def conv_of_doubled(x: Array, kernel: Array) -> Array:
    """3x3 convolution, padding 1, of (B, h, w, C) after nearest-neighbour upsampling by 2.

    The result is (B, 2h, 2w, F). A window of 3x3 pixels covers at most four input pixels. So each
    of the four output phases is a 2x2 convolution of the input, with 4 products instead of 9.
    Windows and phases are those of `layers.UpConv`.
    """
    kernel = _summed_taps(_summed_taps(kernel, 0), 2)  # (b, p, d, q, C, F)
    kernel = kernel.transpose(0, 2, 4, 1, 3, 5).reshape(2, 2, x.shape[-1], -1)
    return layers.without_edge(layers.depth_to_space(conv(x, kernel, (1, 1))))


def _summed_taps(kernel: Array, axis: int) -> Array:
    """Replaces an axis of three taps by (b, p): the tap of phase p for pixel b of a 2x2 window."""
    first, middle, last = jnp.unstack(kernel, axis=axis)
    rows = [jnp.stack([first + middle, first], axis), jnp.stack([last, middle + last], axis)]
    return jnp.stack(rows, axis)
