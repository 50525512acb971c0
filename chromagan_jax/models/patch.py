"""PatchGAN discriminator of pix2pix (Isola et al. 2017, https://arxiv.org/abs/1611.07004)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from chromagan_jax.errors import UserError
from chromagan_jax.models import layers

Array = jax.Array


class PatchGAN(nn.Module):
    """Condition (B, H, W, 1) and target (B, H, W, C) -> one logit for each patch, (B, h, w, 1).

    `layers` 4x4 convolutions of stride 2 with width, 2, 4, ... features, one of stride 1 with
    twice the last (8 times width at most), one of stride 1 to the logits; LeakyReLU 0.2; no norm on
    the first. With three layers a logit sees 70 x 70 px, and 256 px give 30 x 30 logits.

    Raises:
        UserError: if the picture is too small to leave a logit, or a field is unknown.
    """

    width: int = 64  # features of the first convolution
    layers: int = 3  # convolutions of stride 2
    norm: str = 'batch'  # batch, instance or none
    conditional: bool = True  # False: judges the target alone
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, condition: Array, target: Array, train: bool) -> Array:
        layers.check_range('discriminator.width', self.width, self.width >= 1, '1 or more')
        layers.check_range('discriminator.layers', self.layers, self.layers >= 0, '0 or more')
        layers.check_choice('discriminator.norm', self.norm, layers.NORMS)
        smallest = 3 * 2**self.layers
        if min(target.shape[1:3]) < smallest:
            raise UserError(
                f'A PatchGAN of {self.layers} layers needs pictures of {smallest} px or more, not '
                f'{target.shape[1]} x {target.shape[2]}: raise data.size or lower '
                'discriminator.layers.'
            )
        x = jnp.concatenate([condition, target], axis=-1) if self.conditional else target
        block = nn.remat(_Block, static_argnums=(2,)) if self.remat else _Block
        types = {'dtype': self.dtype, 'param_dtype': self.param_dtype}
        for level in range(self.layers + 1):
            features = self.width * min(2**level, 8)
            norm = self.norm if level else 'none'
            x = block(features, level < self.layers, norm, **types, name=f'conv_{level}')(x, train)
        return _stride_1_conv(1, True, **types, name='out')(x).astype(jnp.float32)


class _Block(nn.Module):
    """4x4 convolution, norm, LeakyReLU."""

    features: int
    strided: bool
    norm: str
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        types = {'dtype': self.dtype, 'param_dtype': self.param_dtype}
        use_bias = self.norm != 'batch'  # whose shift would undo it
        conv = layers.DownConv if self.strided else _stride_1_conv
        x = conv(self.features, use_bias, **types, name='conv')(x)
        x = layers.Norm(self.norm, **types, name='norm')(x, train)
        return nn.leaky_relu(x, 0.2)


def _stride_1_conv(features: int, use_bias: bool, **kwargs: Any) -> nn.Conv:
    """4x4, stride 1, padding 1, as in pix2pix: each side loses one pixel."""
    return nn.Conv(
        features, (4, 4), padding=1, use_bias=use_bias, kernel_init=layers.kernel_init, **kwargs
    )
