"""The PatchGAN discriminator of pix2pix (Isola et al. 2017, https://arxiv.org/abs/1611.07004)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from chromagan_jax.errors import UserError
from chromagan_jax.models import layers
from chromagan_jax.models.ops.conv import Conv

Array = jax.Array


class PatchGAN(nn.Module):
    """Condition (B, H, W, 1) and target (B, H, W, C) -> one logit per patch, (B, h, w, 1) float32.

    All convolutions are 4x4: `layers` of stride 2, one of stride 1, and one of stride 1 to the
    logits. Features are width * (1, 2, 4, 8, 8, ...). LeakyReLU follows all but the last, norm all
    but the first and the last. With three layers a logit has a receptive field of 70 x 70 px. A
    stride-1 convolution shortens each side by 1 px (256 px give 30 x 30 logits); with `same` it
    preserves the size, as in ChromaGAN (224 px give 28 x 28 logits).

    `spectral_norm` divides every kernel by its largest singular value, estimated by one power
    iteration per training step with its state in 'batch_stats' (Miyato et al. 2018,
    https://arxiv.org/abs/1802.05957).

    A `target_stride` s > 1 matches a generator of that output stride. The target is averaged over
    s x s blocks, and the s^2 condition pixels of a block become channels. The network then runs at
    1/s of the resolution.

    Raises:
        UserError: if the image is too small to leave a logit, or a field has an invalid value.
    """

    width: int = 64  # features of the first convolution
    layers: int = 3  # convolutions of stride 2
    norm: str = 'batch'  # batch, instance, group or none
    spectral_norm: bool = False  # of all kernels
    slope: float = 0.2  # negative slope of LeakyReLU
    same: bool = False  # convolutions of stride 1 preserve the size
    conditional: bool = True  # False: the input is the target only
    target_stride: int = 1  # 1, 2, 4, ...: resolution at which the target is judged; Lab only
    dtype: Any = jnp.float32
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
        common = {'spectral_norm': self.spectral_norm, 'same': self.same, 'dtype': self.dtype}
        for level in range(self.layers + 1):
            features = self.width * min(2**level, 8)
            norm = self.norm if level else 'none'
            fields = features, level < self.layers, norm, self.slope
            x = block(*fields, **common, name=f'conv_{level}')(x, train)
        conv = _convolution(1, False, self.same, use_bias=True, dtype=self.dtype, name='out')
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

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        use_bias = self.norm != 'batch'  # batch norm's shift replaces the bias
        conv = _convolution(
            self.features, self.strided, self.same, use_bias=use_bias, dtype=self.dtype, name='conv'
        )
        x = _convolve(conv, x, self.spectral_norm, train)
        x = layers.Norm(self.norm, dtype=self.dtype, name='norm')(x, train)
        return nn.leaky_relu(x, self.slope)


def _convolution(features: int, strided: bool, same: bool, **kwargs: Any) -> nn.Module:
    """4x4, padding 1, stride 2 or 1; stride 1 shortens each side by 1 px unless `same`."""
    if strided:
        return layers.DownConv(features, **kwargs)
    padding = [(1, 2)] * 2 if same else 1  # as TensorFlow's SAME places them
    return Conv(features, (4, 4), padding=padding, kernel_init=layers.kernel_init, **kwargs)


def _convolve(conv: Any, x: Array, spectral_norm: bool, train: bool) -> Array:
    """Applies `conv` to `x`, with spectral normalization if asked."""
    if not spectral_norm:
        return conv(x)
    return nn.SpectralNorm(conv, name='spectral_norm')(x, update_stats=train)
