"""Projected discriminator (Sauer et al. 2021, https://arxiv.org/abs/2111.01007).

It judges frozen features of an image classifier instead of pixels, so that it knows from the start
what an image shows. `ProjectedFeatures` computes the features; `ProjectedDiscriminator` has the
parts that are trained.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from chromagan_jax.models import layers
from chromagan_jax.models.ops.conv import Conv
from chromagan_jax.models.patch import PatchGAN
from chromagan_jax.models.pretrained import efficientnet_lite

Array = jax.Array

STRIDES = (4, 8, 16, 32)  # of the maps
_WIDTHS = (64, 128, 256, 256)  # features of the mixed maps
_SLOPE = 0.2  # of LeakyReLU, below 0
_mixing_init = nn.initializers.he_normal()


class WeightedLogits(NamedTuple):
    """The logits of a discriminator with several outputs, and the weight of each in a loss."""

    logits: tuple[Array, ...]  # of any shapes
    weights: tuple[float, ...]


class ProjectedFeatures(nn.Module):
    """RGB (B, H, W, 3) in [0, 1] -> maps at strides 4, 8, 16 and 32, (B, h, w, 64 to 256).

    The maps of EfficientNet-Lite are mixed across channels by 1x1 convolutions, and across scales
    from coarse to fine by 3x3 ones. These are random. No parameter is trained.
    """

    encoder: str = 'lite0'  # lite0, lite1 or lite2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, rgb: Array) -> tuple[Array, ...]:
        encoder = efficientnet_lite.Encoder(self.encoder, dtype=self.dtype, name='encoder')
        mixed: list[Array] = []
        for stride, width, x in reversed(
            list(zip(STRIDES, _WIDTHS, encoder(rgb)[1:], strict=True))
        ):
            x = nn.Dense(width, kernel_init=_mixing_init, dtype=self.dtype, name=f'mix_{stride}')(x)
            if mixed:
                shape = (*x.shape[:3], mixed[0].shape[-1])
                coarse = jax.image.resize(mixed[0], shape, 'linear')
                fuse = Conv(
                    width,
                    (3, 3),
                    padding=1,
                    kernel_init=_mixing_init,
                    dtype=self.dtype,
                    name=f'fuse_{stride}',
                )
                x = (x + fuse(coarse)) * 0.7071  # 1 / sqrt(2) keeps the variance
            mixed.insert(0, x)
        return tuple(mixed)


class ProjectedDiscriminator(nn.Module):
    """Maps of `ProjectedFeatures` -> logits, by one head for each map.

    With `patch_weight`, a PatchGAN is added.

    A head is strided 4x4 convolutions down to stride 32, a 3x3 convolution and one to the logits,
    with LeakyReLU between them. Every kernel is divided by its largest singular value (Miyato et
    al. 2018, https://arxiv.org/abs/1802.05957). The PatchGAN sees lightness and colours at half the
    resolution.
    """

    encoder: str = 'lite0'  # of the features: lite0, lite1 or lite2
    head_width: int = 128  # features of the heads
    patch_weight: float = 0.0  # of the PatchGAN's logits in the losses, the heads' is 1; 0: none
    patch_width: int = 64  # features of the PatchGAN's first convolution
    dtype: Any = jnp.float32

    def features(self) -> ProjectedFeatures:
        """The frozen network whose maps it takes."""
        return ProjectedFeatures(self.encoder, dtype=self.dtype, parent=None)

    @nn.compact
    def __call__(
        self, condition: Array, target: Array, maps: Sequence[Array], train: bool
    ) -> WeightedLogits:
        self._check_fields()
        logits = [
            _Head(self.head_width, 3 - scale, dtype=self.dtype, name=f'head_{stride}')(x, train)
            for scale, (stride, x) in enumerate(zip(STRIDES, maps, strict=True))
        ]
        weights = [1 / len(STRIDES)] * len(STRIDES)
        if self.patch_weight:
            options: dict[str, Any] = {'norm': 'none', 'spectral_norm': True, 'target_stride': 2}
            patch = PatchGAN(self.patch_width, 2, **options, dtype=self.dtype, name='patch')
            logits.append(patch(condition, target, train))
            weights.append(self.patch_weight)
        return WeightedLogits(tuple(logits), tuple(weights))

    def _check_fields(self) -> None:
        layers.check_choice('discriminator.encoder', self.encoder, efficientnet_lite.VARIANTS)
        for field in ('head_width', 'patch_width'):
            value = getattr(self, field)
            layers.check_range(f'discriminator.{field}', value, value >= 1, '1 or more')
        weight = self.patch_weight
        layers.check_range('discriminator.patch_weight', weight, weight >= 0, '0 or more')


class _Head(nn.Module):
    """(B, h, w, C) -> logits (B, h / 2**downsamplings, w / 2**downsamplings, 1)."""

    features: int
    downsamplings: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:

        def convolve(conv: nn.Module, x: Array, name: str) -> Array:
            return nn.SpectralNorm(conv, name=name)(x, update_stats=train)

        for index in range(self.downsamplings):
            down = layers.DownConv(
                self.features, use_bias=True, dtype=self.dtype, name=f'down_{index}'
            )
            x = nn.leaky_relu(convolve(down, x, f'down_norm_{index}'), _SLOPE)
        conv = Conv(self.features, (3, 3), padding=1, dtype=self.dtype, name='conv')
        x = nn.leaky_relu(convolve(conv, x, 'conv_norm'), _SLOPE)
        out = Conv(1, (3, 3), padding=1, dtype=self.dtype, name='out')
        return convolve(out, x, 'out_norm').astype(jnp.float32)
