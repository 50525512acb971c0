"""A residual encoder-decoder that works at half the picture's resolution and below."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from chromagan_jax.errors import UserError
from chromagan_jax.models import layers
from chromagan_jax.models.conv import Conv

Array = jax.Array

BLOCKS = ('residual', 'convnext')
UPSAMPLINGS = ('shuffle', 'resize', 'transposed')
_HEAD = 32  # features of an attention head


class Binned(NamedTuple):
    """What a generator with bins returns: the target, and the logits that it was read from."""

    target: Array  # (B, H, W, 2)
    bin_logits: Array  # (B, H / 4, W / 4, bins)


class Residual(nn.Module):
    """Pre-activation residual block (He et al. 2016): (norm, SiLU, 3x3 convolution) twice."""

    norm: str
    types: dict[str, Any]

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        features = x.shape[-1]
        y = nn.silu(layers.Norm(self.norm, **self.types, name='norm_0')(x, train))
        y = conv3x3(features, **self.types, name='conv_0')(y)
        y = nn.silu(layers.Norm(self.norm, **self.types, name='norm_1')(y, train))
        y = conv3x3(features, **self.types, name='conv_1')(y)
        # Starts small, so that a network without norm starts as a shallow one (De & Smith 2020).
        gain = self.param(
            'gain', nn.initializers.constant(0.2), (features,), self.types['param_dtype']
        )
        return x + y * gain.astype(y.dtype)


class ConvNeXt(nn.Module):
    """Depthwise 7x7 convolution, norm, two dense layers (Liu et al. 2022)."""

    norm: str
    types: dict[str, Any]

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        features = x.shape[-1]
        y = nn.Conv(features, (7, 7), feature_group_count=features, **self.types, name='depthwise')(
            x
        )
        y = layers.Norm(self.norm, **self.types, name='norm')(y, train)
        y = nn.gelu(conv1x1(4 * features, **self.types, name='wide')(y))
        y = conv1x1(features, **self.types, name='narrow')(y)
        gain = self.param(
            'gain', nn.initializers.constant(0.2), (features,), self.types['param_dtype']
        )
        return x + y * gain.astype(y.dtype)


class Attention(nn.Module):
    """Every pixel looks at all others: (B, H, W, C) -> the same, residual (Vaswani et al. 2017)."""

    norm: str
    types: dict[str, Any]

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        b, h, w, c = x.shape
        y = layers.Norm(self.norm, **self.types, name='norm')(x, train)
        qkv = conv1x1(3 * c, **self.types, name='qkv')(y).reshape(b, h * w, 3, c // _HEAD, _HEAD)
        y = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        return x + conv1x1(c, **self.types, name='out')(y.reshape(b, h, w, c))


class Context(nn.Module):
    """What the whole picture holds, added to each of its pixels: pooled, and two dense layers."""

    types: dict[str, Any]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        c = x.shape[-1]
        y = x.mean(axis=(1, 2))
        y = nn.silu(nn.Dense(c, **self.types, name='dense_0')(y))
        return x + nn.Dense(c, **self.types, name='dense_1')(y)[:, None, None]


class ResidualNet(nn.Module):
    """(B, H, W, 1) -> (B, H, W, channels), for sides that 2**len(widths) divides."""

    channels: int = 2
    widths: tuple[int, ...] = (32, 64, 128, 256)  # features at 1/2, 1/4, ... of the resolution
    blocks: tuple[int, ...] = (1, 1, 1, 2)  # on the way down; on the way up one less deep each
    block: str = 'residual'
    norm: str = 'group'
    attention: bool = True
    context: bool = True
    upsampling: str = 'shuffle'
    bins: int = 0  # bins a side of the ab plane that are classified; 0: none
    temperature: float = 0.4  # of the bins' softmax where it is read
    dropout: float = 0.0
    test_mode: str = 'running'
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, condition: Array, train: bool) -> Any:
        types = {'dtype': self.dtype, 'param_dtype': self.param_dtype}
        block = {'residual': Residual, 'convnext': ConvNeXt}[self.block]
        if any(side % 2 ** len(self.widths) for side in condition.shape[1:3]):
            raise UserError('sides')
        x, skips = condition.astype(self.dtype), []
        for level, (features, count) in enumerate(zip(self.widths, self.blocks, strict=True)):
            x = layers.space_to_depth(x)
            convolution = conv1x1 if level else conv3x3
            x = convolution(features, **types, name=f'down_{level}')(x)
            for i in range(count):
                x = block(self.norm, types, name=f'down_{level}_{i}')(x, train)
            skips.append(x)
        if self.attention:
            x = Attention(self.norm, types, name='attention')(x, train)
        if self.context:
            x = Context(types, name='context')(x)
        logits = None
        for level in reversed(range(len(self.widths) - 1)):
            features = self.widths[level]
            x = self._up(x, features, types, f'up_{level}')
            x = x + conv1x1(features, **types, name=f'skip_{level}')(skips[level])
            for i in range(self.blocks[level]):
                x = block(self.norm, types, name=f'up_{level}_{i}')(x, train)
            if level == 1 and self.bins:
                y = nn.silu(layers.Norm(self.norm, **types, name='bins_norm')(x, train))
                logits = conv1x1(self.bins**2, **types, name='bins')(y).astype(jnp.float32)
        x = nn.silu(layers.Norm(self.norm, **types, name='out_norm')(x, train))
        x = conv3x3(4 * self.channels, **types, name='out')(x)
        x = layers.depth_to_space(x)
        if logits is None:
            return layers.output_activation(x, self.channels)
        ab = read_bins(logits, self.temperature)
        b, h, w, c = ab.shape
        ab = jax.image.resize(ab, (b, 4 * h, 4 * w, c), 'linear')
        return Binned(jnp.clip(ab + x.astype(jnp.float32), -1, 1), logits)

    def _up(self, x: Array, features: int, types: Any, name: str) -> Array:
        if self.upsampling == 'shuffle':
            return layers.depth_to_space(conv1x1(4 * features, **types, name=name)(x))
        if self.upsampling == 'transposed':
            return layers.UpConv(features, use_bias=True, **types, name=name)(x)
        x = conv1x1(features, **types, name=name)(x)
        b, h, w, c = x.shape
        return jax.image.resize(x, (b, 2 * h, 2 * w, c), 'linear')


def bin_centres(bins: int) -> Array:
    """Of each bin of a side of the ab plane, in ab / 110: (bins,)."""
    return jnp.linspace(-1.0, 1.0, bins)


def read_bins(logits: Array, temperature: float) -> Array:
    """The annealed mean (Zhang et al. 2016): (B, h, w, n n) -> ab / 110, (B, h, w, 2)."""
    n = round(logits.shape[-1] ** 0.5)
    p = jax.nn.softmax(logits / temperature).reshape(*logits.shape[:3], n, n)
    centres = bin_centres(n)
    return jnp.stack([p.sum(4) @ centres, p.sum(3) @ centres], axis=-1)


def soft_bins(target: Array, bins: int) -> Array:
    """Shares of the bins at a quarter of the size: ab / 110 (B, H, W, 2) -> (B, h, w, n n)."""
    b, h, w, c = target.shape
    small = target.reshape(b, h // 4, 4, w // 4, 4, c).mean((2, 4))
    hats = jax.nn.relu(1 - jnp.abs(small[..., None] - bin_centres(bins)) * (bins - 1) / 2)
    return (hats[..., 0, :, None] * hats[..., 1, None, :]).reshape(b, h // 4, w // 4, bins**2)


def conv3x3(features: int, **kwargs: Any) -> Any:
    """Stride 1, the size kept."""
    return Conv(features, (3, 3), padding=1, **kwargs)


def conv1x1(features: int, **kwargs: Any) -> Any:
    """A dense layer over the channels of each pixel."""
    return nn.Dense(features, **kwargs)
