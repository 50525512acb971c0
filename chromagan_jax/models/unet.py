"""U-Net of pix2pix (Isola et al. 2017, https://arxiv.org/abs/1611.07004)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from chromagan_jax.errors import UserError
from chromagan_jax.models import layers

Array = jax.Array


class Down(nn.Module):
    """LeakyReLU (but on the picture itself), 4x4 stride-2 convolution, norm."""

    features: int
    activate: bool
    norm: str
    test_mode: str
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        types = {'dtype': self.dtype, 'param_dtype': self.param_dtype}
        if self.activate:
            x = nn.leaky_relu(x, 0.2)
        x = layers.DownConv(self.features, **types, name='conv')(x)
        return layers.Norm(self.norm, self.test_mode, **types, name='norm')(x, train)


class Up(nn.Module):
    """ReLU, 4x4 stride-2 transposed convolution, norm, dropout."""

    features: int
    dropout: float
    norm: str
    test_mode: str
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        types = {'dtype': self.dtype, 'param_dtype': self.param_dtype}
        x = layers.UpConv(self.features, **types, name='conv')(nn.relu(x))
        x = layers.Norm(self.norm, self.test_mode, **types, name='norm')(x, train)
        # Noise is on wherever its stream is given: in training, and to sample at test time.
        still = not self.has_rng('noise')
        return nn.Dropout(self.dropout, rng_collection='noise')(x, deterministic=still)


class UNet(nn.Module):
    """(B, H, W, 1) -> (B, H, W, channels): `depth` halvings, as many doublings, skips between.

    The levels have width, 2, 4 and then 8 times width features. There is no norm on the first and
    on the innermost level; dropout (the network's noise) follows the three transposed convolutions
    after the innermost, whenever the rng stream 'noise' is given. With `depth` 0 the network goes
    down to 1x1 at the training crop `size`.

    Raises:
        UserError: if `depth` halvings do not divide the picture's sides, or a field is unknown.
    """

    channels: int = 2  # of the target: 2 in Lab, 3 in RGB
    size: int = 256  # training crop, px; only read for depth 0
    width: int = 64  # features of the first level
    depth: int = 0  # halvings; 0: down to 1x1
    norm: str = 'batch'  # batch, instance or none
    dropout: float = 0.5  # rate
    test_mode: str = 'running'  # batch norm at test time: running, or batch (each image's own)
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, condition: Array, train: bool) -> Array:
        layers.check_range('generator.width', self.width, self.width >= 1, '1 or more')
        layers.check_range('generator.depth', self.depth, self.depth >= 0, '0 or more')
        layers.check_range('generator.dropout', self.dropout, 0 <= self.dropout < 1, '0 <= x < 1')
        layers.check_choice('generator.norm', self.norm, layers.NORMS)
        layers.check_choice('generator.test_mode', self.test_mode, layers.TEST_MODES)
        depth = self.depth or self.size.bit_length() - 1
        self._check_size(depth, *condition.shape[1:3])
        features = [self.width * min(2**level, 8) for level in range(depth)]
        down = nn.remat(Down, static_argnums=(2,)) if self.remat else Down
        up = nn.remat(Up, static_argnums=(2,)) if self.remat else Up
        types = {'dtype': self.dtype, 'param_dtype': self.param_dtype}
        common = {'test_mode': self.test_mode, **types}

        x, skips = condition.astype(self.dtype), []
        for level, f in enumerate(features):
            norm = self.norm if 0 < level < depth - 1 else 'none'
            x = down(f, level > 0, norm, **common, name=f'down_{level}')(x, train)
            skips.append(x)
        skips.pop()
        for level in reversed(range(1, depth)):
            dropout = self.dropout if depth - 4 <= level <= depth - 2 else 0.0
            x = up(features[level - 1], dropout, self.norm, **common, name=f'up_{level}')(x, train)
            x = jnp.concatenate([x, skips.pop()], axis=-1)
        x = layers.UpConv(self.channels, use_bias=True, **types, name='out')(nn.relu(x))
        return layers.output_activation(x, self.channels)

    def _check_size(self, depth: int, height: int, width: int) -> None:
        if self.depth == 0 and self.size & (self.size - 1):
            raise UserError(
                f'generator.depth is 0, which needs a data.size that is a power of two, not '
                f'{self.size}: set generator.depth to the number of halvings that divide it.'
            )
        if height % 2**depth or width % 2**depth:
            raise UserError(
                f'A U-Net of depth {depth} takes sides that {2**depth} divides, not {height} x '
                f'{width} px: change the size (data.size, eval.size) or lower generator.depth.'
            )
