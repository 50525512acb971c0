"""A discriminator of convolutions, max-pooling and dense layers, with one logit per image."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from chromagan_jax.errors import UserError
from chromagan_jax.models import layers
from chromagan_jax.models.ops.conv import Conv

Array = jax.Array

PADDINGS = ('valid', 'same')
_glorot = nn.initializers.glorot_uniform()


class DenseDiscriminator(nn.Module):
    """Condition (B, H, W, 1) and target (B, H, W, C) -> one logit per image, (B, 1) float32.

    Each block has `convolutions` stride-1 convolutions with norm and activation, and a 2x2
    max-pool. The result is flattened in the order height, width, channel. The `hidden` dense layers
    with activation and a dense layer to the logit follow. The first dense layer fixes the image
    size. Initial kernels are Glorot-uniform and initial biases 0, Keras's defaults.

    Raises:
        UserError: if the image is too small for the blocks, or a field has an invalid value.
    """

    widths: tuple[int, ...] = (32, 64, 128, 256)  # features of each block
    kernels: tuple[int, ...] = (7, 5, 3, 3)  # kernel size of each block's convolutions, px
    convolutions: int = 2  # in each block
    padding: str = 'valid'  # of the convolutions: valid or same
    hidden: tuple[int, ...] = (512, 128, 16)  # features of the dense layers before the logit
    slope: float = 0.0  # negative slope of the activations; 0: ReLU
    norm: str = 'none'  # after each convolution: batch, instance, group or none
    conditional: bool = False  # False: the input is the target only
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, condition: Array, target: Array, train: bool) -> Array:
        self._check_fields()
        self._check_size(*target.shape[1:3])
        x = jnp.concatenate([condition, target], axis=-1) if self.conditional else target
        x = x.astype(self.dtype)
        block = nn.remat(_Block, static_argnums=(2,)) if self.remat else _Block
        common = (self.convolutions, self.padding, self.norm, self.slope)
        for level, (features, kernel) in enumerate(zip(self.widths, self.kernels, strict=True)):
            x = block(features, kernel, *common, dtype=self.dtype, name=f'block_{level}')(x, train)
        x = x.reshape(x.shape[0], -1)
        for i, features in enumerate(self.hidden):
            x = nn.Dense(features, kernel_init=_glorot, dtype=self.dtype, name=f'dense_{i}')(x)
            x = _activate(x, self.slope)
        x = nn.Dense(1, kernel_init=_glorot, dtype=self.dtype, name='out')(x)
        return x.astype(jnp.float32)

    def smallest_size(self) -> int:
        """The smallest image side, px, that leaves a pixel after the last max-pool."""
        side = 1
        for kernel in reversed(self.kernels):
            side = 2 * side + (self.convolutions * (kernel - 1) if self.padding == 'valid' else 0)
        return side

    def _check_fields(self) -> None:
        if len(self.widths) != len(self.kernels):
            raise UserError(
                f'discriminator.widths has {len(self.widths)} blocks and discriminator.kernels '
                f'{len(self.kernels)}: set one width and one kernel for each block.'
            )
        for field in ('widths', 'kernels', 'hidden'):
            for value in getattr(self, field):
                layers.check_range(f'discriminator.{field}', value, value >= 1, '1 or more each')
        convolutions = self.convolutions
        layers.check_range(
            'discriminator.convolutions', convolutions, convolutions >= 1, '1 or more'
        )
        layers.check_range('discriminator.slope', self.slope, 0 <= self.slope < 1, '0 <= x < 1')
        layers.check_choice('discriminator.padding', self.padding, PADDINGS)
        layers.check_choice('discriminator.norm', self.norm, layers.NORMS)

    def _check_size(self, height: int, width: int) -> None:
        smallest = self.smallest_size()
        if min(height, width) < smallest:
            raise UserError(
                f'This dense discriminator needs pictures of {smallest} px or more, not {height} x '
                f'{width}: raise data.size.'
            )


class _Block(nn.Module):
    """Convolutions, each with norm and activation, then a 2x2 max-pool."""

    features: int
    kernel: int
    convolutions: int
    padding: str
    norm: str
    slope: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        for i in range(self.convolutions):
            x = Conv(
                self.features,
                (self.kernel, self.kernel),
                padding=self.padding.upper(),
                use_bias=self.norm != 'batch',  # batch norm's shift replaces the bias
                kernel_init=_glorot,
                dtype=self.dtype,
                name=f'conv_{i}',
            )(x)
            x = layers.Norm(self.norm, dtype=self.dtype, name=f'norm_{i}')(x, train)
            x = _activate(x, self.slope)
        return layers.max_pool(x)


def _activate(x: Array, slope: float) -> Array:
    return nn.leaky_relu(x, slope) if slope else nn.relu(x)
