"""An encoder-decoder of stride-1 convolutions without padding, with skip connections."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from chromagan_jax.errors import UserError
from chromagan_jax.models import layers
from chromagan_jax.models.ops.conv import Conv

Array = jax.Array

_glorot = nn.initializers.glorot_uniform()


class Block(nn.Module):
    """Stride-1 convolutions (kernel, features), each with bias and activation.

    (B, H, W, C) -> (B, H', W', features of the last). A convolution shortens each side by
    kernel - 1 px; a `transposed` one lengthens it by as much.
    """

    convolutions: tuple[tuple[int, int], ...]
    transposed: bool
    slope: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i, (kernel, features) in enumerate(self.convolutions):
            x = _conv(kernel, features, self.transposed, dtype=self.dtype, name=f'conv_{i}')(x)
            x = nn.leaky_relu(x, negative_slope=self.slope) if self.slope else nn.relu(x)
        return x


def _conv(kernel: int, features: int, transposed: bool, **kwargs: Any) -> nn.Conv:
    """(B, H, W, C) -> (B, H - kernel + 1, W - kernel + 1, features); `transposed`, + kernel - 1.

    A transposed convolution of stride 1 equals a convolution with kernel - 1 px of padding. Its
    kernel is stored for the latter, (k, k, in, out). To convert a Keras kernel (k, k, out, in),
    flip the first two axes and swap the last two. To convert a PyTorch kernel (in, out, k, k), flip
    the last two axes and move them to the front.
    """
    padding = kernel - 1 if transposed else 0
    return Conv(features, (kernel, kernel), padding=padding, kernel_init=_glorot, **kwargs)


class EncoderDecoder(nn.Module):
    """(B, H, W, 1) -> (B, H, W, channels), float32; no norm and no strides.

    The encoder has three blocks of a 5x5 and two 3x3 convolutions with LeakyReLU. Their features
    are width * (1, 2, 2), (2, 4, 4) and (4, 8, 8); together they shorten each side by 24 px. A 3x3
    convolution with tanh is the bottleneck. The decoder has three blocks of transposed convolutions
    with ReLU back to full size. The input of each is concatenated with the output of the encoder
    block of equal size. The last activation is ReLU for RGB and tanh for ab / 110. Initial kernels
    are Glorot-uniform and initial biases 0, Keras's defaults.

    Raises:
        UserError: if a side of the image is 24 px or shorter, or a field has an invalid value.
    """

    channels: int = 3  # of the target: 2 in Lab, 3 in RGB
    width: int = 16  # features of the first convolution
    slope: float = 0.3  # negative slope of the encoder's LeakyReLU
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, condition: Array, train: bool) -> Array:
        layers.check_range('generator.width', self.width, self.width >= 1, '1 or more')
        layers.check_range('generator.slope', self.slope, 0 <= self.slope < 1, '0 <= x < 1')
        w = self.width
        encoder = (
            ((5, w), (3, 2 * w), (3, 2 * w)),
            ((5, 2 * w), (3, 4 * w), (3, 4 * w)),
            ((5, 4 * w), (3, 8 * w), (3, 8 * w)),
        )
        decoder = (
            ((3, 2 * w), (3, 2 * w)),  # and `out`
            ((3, 4 * w), (3, 4 * w), (5, 2 * w)),
            ((3, 8 * w), (3, 8 * w), (5, 4 * w)),
        )
        lost = sum(kernel - 1 for block in encoder for kernel, _ in block)
        if any(side <= lost for side in condition.shape[1:3]):  # sides may be symbolic
            raise UserError(
                f'The encoder-decoder needs pictures of more than {lost} px a side, not '
                f'{condition.shape[1]} x {condition.shape[2]}: raise data.size.'
            )
        block = nn.remat(Block) if self.remat else Block

        x, skips = condition.astype(self.dtype), []
        for level, convolutions in enumerate(encoder):
            x = block(convolutions, False, self.slope, dtype=self.dtype, name=f'encoder_{level}')(x)
            skips.append(x)
        conv = Conv(8 * w, (3, 3), kernel_init=_glorot, dtype=self.dtype, name='bottleneck')
        x = nn.tanh(conv(x))
        for level in (2, 1, 0):
            x = jnp.concatenate([x, skips.pop()], axis=-1)
            x = block(decoder[level], True, 0.0, dtype=self.dtype, name=f'decoder_{level}')(x)
        x = _conv(5, self.channels, True, dtype=self.dtype, name='out')(x)
        last: Callable[[Array], Array] = nn.tanh if self.channels == 2 else nn.relu
        return last(x.astype(jnp.float32))
