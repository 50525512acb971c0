"""PatchGAN discriminator of pix2pix (Isola et al. 2017, https://arxiv.org/abs/1611.07004)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from chromagan_jax.errors import UserError
from chromagan_jax.models import layers
from chromagan_jax.models.ops.conv import Conv

Array = jax.Array


class PatchGAN(nn.Module):
    """Condition (B, H, W, 1) and target (B, H, W, C) -> one logit for each patch, (B, h, w, 1).

    `layers` 4x4 convolutions of stride 2 with width, 2, 4, ... features, one of stride 1 with
    twice the last (8 times width at most), one of stride 1 to the logits; LeakyReLU; no norm on
    the first. With three layers a logit sees 70 x 70 px, and 256 px give 30 x 30 logits: each
    convolution of stride 1 loses a pixel, or none with `same`, as in ChromaGAN, where 224 px give
    28 x 28 logits.

    With `spectral_norm` every kernel is divided by its largest singular value, as one step of the
    power iteration finds it from where the last one left 'batch_stats' (Miyato et al. 2018,
    https://arxiv.org/abs/1802.05957).

    With a `target_stride` of 2 or more it sees colours as a U-Net of the same stride makes them:
    their means over squares of that many pixels a side, beside all of the lightness in the square.
    What `layers`, sizes and the smallest picture are then counted in are such squares.

    Raises:
        UserError: if the picture is too small to leave a logit, or a field is unknown.
    """

    width: int = 64  # features of the first convolution
    layers: int = 3  # convolutions of stride 2
    norm: str = 'batch'  # batch, instance, group or none
    spectral_norm: bool = False  # divide each kernel by its largest singular value
    slope: float = 0.2  # LeakyReLU's, below 0
    same: bool = False  # convolutions of stride 1 keep the size
    conditional: bool = True  # False: judges the target alone
    target_stride: int = 1  # px of the picture for one of colour, a side: 1, 2, 4, ...; Lab only
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, condition: Array, target: Array, train: bool) -> Array:
        self._check_fields(target)
        if self.target_stride > 1:
            condition, squares = (
                layers.space_to_depth(x, self.target_stride) for x in (condition, target)
            )
            target = squares.reshape(*squares.shape[:3], -1, target.shape[-1]).mean(-2)
        x = jnp.concatenate([condition, target], axis=-1) if self.conditional else target
        block = nn.remat(_Block, static_argnums=(2,)) if self.remat else _Block
        types = {'dtype': self.dtype, 'param_dtype': self.param_dtype}
        common = {'spectral_norm': self.spectral_norm, 'same': self.same, **types}
        for level in range(self.layers + 1):
            features = self.width * min(2**level, 8)
            norm = self.norm if level else 'none'
            fields = features, level < self.layers, norm, self.slope
            x = block(*fields, **common, name=f'conv_{level}')(x, train)
        conv = _convolution(1, False, self.same, use_bias=True, **types, name='out')
        return _convolve(conv, x, self.spectral_norm, train).astype(jnp.float32)

    def _check_fields(self, target: Array) -> None:
        layers.check_range('discriminator.width', self.width, self.width >= 1, '1 or more')
        layers.check_range('discriminator.layers', self.layers, self.layers >= 0, '0 or more')
        layers.check_range('discriminator.slope', self.slope, 0 <= self.slope < 1, '0 <= x < 1')
        layers.check_choice('discriminator.norm', self.norm, layers.NORMS)
        layers.check_stride('discriminator.target_stride', self.target_stride, target.shape[-1])
        smallest = (1 if self.same else 3) * 2**self.layers * self.target_stride
        if min(target.shape[1:3]) < smallest:
            raise UserError(
                f'A PatchGAN of {self.layers} layers needs pictures of {smallest} px or more, not '
                f'{target.shape[1]} x {target.shape[2]}: raise data.size or lower '
                'discriminator.layers.'
            )
        if target.shape[1] % self.target_stride or target.shape[2] % self.target_stride:
            raise UserError(
                f'discriminator.target_stride is {self.target_stride}, which does not divide '
                f'{target.shape[1]} x {target.shape[2]} px: change data.size.'
            )


class _Block(nn.Module):
    """4x4 convolution, norm, LeakyReLU."""

    features: int
    strided: bool
    norm: str
    slope: float
    spectral_norm: bool
    same: bool
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        types = {'dtype': self.dtype, 'param_dtype': self.param_dtype}
        use_bias = self.norm != 'batch'  # whose shift would undo it
        conv = _convolution(
            self.features, self.strided, self.same, use_bias=use_bias, **types, name='conv'
        )
        x = _convolve(conv, x, self.spectral_norm, train)
        x = layers.Norm(self.norm, **types, name='norm')(x, train)
        return nn.leaky_relu(x, self.slope)


def _convolution(features: int, strided: bool, same: bool, **kwargs: Any) -> nn.Module:
    """4x4, padding 1, of stride 2 or 1; the latter loses a pixel a side unless `same`."""
    if strided:
        return layers.DownConv(features, **kwargs)
    padding = [(1, 2)] * 2 if same else 1  # as TensorFlow's SAME places them
    return Conv(features, (4, 4), padding=padding, kernel_init=layers.kernel_init, **kwargs)


def _convolve(conv: Any, x: Array, spectral_norm: bool, train: bool) -> Array:
    """`conv` of `x`, with its kernel divided by its largest singular value if so asked."""
    if not spectral_norm:
        return conv(x)
    return nn.SpectralNorm(conv, name='spectral_norm')(x, update_stats=train)
