"""U-Net of pix2pix (Isola et al. 2017, https://arxiv.org/abs/1611.07004)."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from chromagan_jax import color
from chromagan_jax.errors import UserError
from chromagan_jax.models import layers
from chromagan_jax.models.ops import resize
from chromagan_jax.models.ops.conv import Conv
from chromagan_jax.models.pretrained import squeezenet
from chromagan_jax.sharding import draw_rows

Array = jax.Array

_leaky_relu = functools.partial(nn.leaky_relu, negative_slope=0.2)
_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {'relu': nn.relu, 'leaky_relu': _leaky_relu}
_DROPOUT_BLOCKS = 3
_ENCODERS = ('none', 'squeezenet')


class Down(nn.Module):
    """LeakyReLU (if `activate`), 4x4 stride-2 convolution, norm."""

    features: int
    activate: bool
    norm: str
    test_mode: str
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        if self.activate:
            x = _leaky_relu(x)
        x = layers.DownConv(self.features, dtype=self.dtype, name='conv')(x)
        return layers.Norm(self.norm, self.test_mode, dtype=self.dtype, name='norm')(x, train)


class Up(nn.Module):
    """Activation, 4x4 stride-2 transposed convolution, norm, dropout."""

    features: int
    dropout: float
    activation: str
    norm: str
    test_mode: str
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = _ACTIVATIONS[self.activation](x)
        x = layers.UpConv(self.features, dtype=self.dtype, name='conv')(x)
        x = layers.Norm(self.norm, self.test_mode, dtype=self.dtype, name='norm')(x, train)
        # The noise stream is given in training, and to sample at test time.
        return layers.Dropout(self.dropout)(x)


class Lateral(nn.Module):
    """1x1 convolution and norm that project an encoder's map to the features of a level."""

    features: int
    norm: str
    test_mode: str
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = Conv(
            self.features,
            (1, 1),
            use_bias=False,
            kernel_init=layers.kernel_init,
            dtype=self.dtype,
            name='conv',
        )(x)
        return layers.Norm(self.norm, self.test_mode, dtype=self.dtype, name='norm')(x, train)


class UNet(nn.Module):
    """U-Net with skip connections: (B, H, W, 1) -> (B, H, W, channels) float32.

    The encoder path has `depth` 4x4 stride-2 convolutions, the decoder path as many transposed
    ones. The levels have width * (1, 2, 4, 8, 8, ...) features, or `widths`. The first and the
    innermost convolution have no norm. Three transposed convolutions have dropout. Dropout and the
    noise channels are active whenever the rng stream 'noise' is given. Without `depth` and `widths`
    the innermost level is 1x1 at the training crop `size`. H and W are multiples of 2**depth.

    A `stem` adds a level at full resolution: a 3x3 convolution of the input with a skip connection
    to the last convolution, which is then 3x3 too.

    An `encoder` adds a pretrained classifier, which is fine-tuned. A 1x1 convolution and norm
    project each of its maps, and the result is added to the level of the same size.

    An `output_stride` s > 1 ends the decoder path at 1/s of the resolution with a 3x3 convolution.
    The output is resized bilinearly. Chroma needs less resolution than lightness, as in JPEG 4:2:0.

    Raises:
        UserError: if a side is no multiple of 2**depth, or a field has an invalid value.
    """

    channels: int = 2  # of the target: 2 in Lab, 3 in RGB
    size: int = 256  # training crop, px; only read for depth 0 without widths
    width: int = 64  # features of the first level; not read with widths
    widths: tuple[int, ...] = ()  # features of each level, outermost first; (): from width
    depth: int = 0  # downsampling stages; 0: as many as widths, or down to 1x1
    stem: int = 0  # features of a level at full resolution; 0: no such level
    encoder: str = 'none'  # none, or squeezenet: SqueezeNet's maps at strides 4, 8 and 16
    output_stride: int = 1  # of the decoder path: 1, 2, 4, ...; Lab only
    norm: str = 'batch'  # batch, instance, group or none
    activation: str = 'relu'  # of the decoder: relu, or leaky_relu (0.2) as in the encoder
    dropout: float = 0.5  # rate
    dropout_from: int = 1  # first of the three transposed convolutions with dropout; 0: innermost
    noise_channels: int = 0  # channels of Gaussian noise added to the input
    test_mode: str = 'running'  # batch norm statistics at test time: running, or batch (per image)
    dtype: Any = jnp.float32
    remat: bool = False

    @property
    def levels(self) -> int:
        """Downsampling stages."""
        return len(self.widths) or self.depth or self.size.bit_length() - 1

    @nn.compact
    def __call__(self, condition: Array, train: bool) -> Array:
        self._check_fields()
        depth = self.levels
        self._check_size(depth, *condition.shape[1:3])
        widths = self.widths or [self.width * min(2**level, 8) for level in range(depth)]
        down = nn.remat(Down, static_argnums=(2,)) if self.remat else Down
        up = nn.remat(Up, static_argnums=(2,)) if self.remat else Up
        common = {'test_mode': self.test_mode, 'dtype': self.dtype}

        maps = self._encoder_maps(condition)
        x, skips = self._with_noise(condition).astype(self.dtype), []
        if self.stem:
            x = _conv3x3(self.stem, use_bias=False, dtype=self.dtype, name='stem')(x)
            skips.append(x)
        for level, features in enumerate(widths):
            first, innermost = not skips, level == depth - 1
            norm = 'none' if first or innermost else self.norm
            x = down(features, not first, norm, **common, name=f'down_{level}')(x, train)
            if level in maps:
                lateral = Lateral(features, self.norm, **common, name=f'context_{level}')
                x += lateral(maps[level], train)
            skips.append(x)
        columns = condition.shape[2] // self.output_stride  # width of the output before the resize
        for block, skip in enumerate(reversed(skips[:-1])):
            if skip.shape[2] > columns:
                break
            noisy = 0 <= block - self.dropout_from < _DROPOUT_BLOCKS
            fields = skip.shape[-1], self.dropout if noisy else 0.0, self.activation, self.norm
            x = up(*fields, **common, name=f'up_{depth - 1 - block}')(x, train)
            x = jnp.concatenate([x, skip], axis=-1)
        last = layers.UpConv if x.shape[2] < columns else _conv3x3
        x = last(self.channels, use_bias=True, dtype=self.dtype, name='out')(
            _ACTIVATIONS[self.activation](x)
        )
        colours = layers.output_activation(x, self.channels)
        if self.output_stride == 1:
            return colours
        return resize.upsample(colours, self.output_stride)

    def _encoder_maps(self, condition: Array) -> dict[int, Array]:
        """Level -> the encoder's map of that level's size, from level 1 on."""
        if self.encoder == 'none':
            return {}
        backbone = squeezenet.Backbone(dtype=self.dtype, name=squeezenet.BACKBONE)
        maps = backbone(color.gray_of_condition(condition, self.channels))
        return dict(enumerate(maps[1:], start=1))

    def _with_noise(self, condition: Array) -> Array:
        """Concatenates the noise channels to the condition; zeros without the stream 'noise'."""
        if not self.noise_channels:
            return condition
        shape = (*condition.shape[1:3], self.noise_channels)
        if self.has_rng('noise'):
            draw = lambda key, lead: jax.random.normal(key, (*lead, *shape))
            noise = draw_rows(draw, self.make_rng('noise'), len(condition))
        else:
            noise = jnp.zeros((len(condition), *shape))
        return jnp.concatenate([condition, noise.astype(condition.dtype)], axis=-1)

    def _check_fields(self) -> None:
        layers.check_range('generator.width', self.width, self.width >= 1, '1 or more')
        for field in ('depth', 'stem', 'dropout_from', 'noise_channels'):
            value = getattr(self, field)
            layers.check_range(f'generator.{field}', value, value >= 0, '0 or more')
        least = min(self.widths, default=1)
        layers.check_range('generator.widths', least, least >= 1, '1 or more each')
        layers.check_range('generator.dropout', self.dropout, 0 <= self.dropout < 1, '0 <= x < 1')
        layers.check_choice('generator.encoder', self.encoder, _ENCODERS)
        layers.check_choice('generator.norm', self.norm, layers.NORMS)
        layers.check_choice('generator.activation', self.activation, tuple(_ACTIVATIONS))
        layers.check_choice('generator.test_mode', self.test_mode, layers.TEST_MODES)
        layers.check_stride('generator.output_stride', self.output_stride, self.channels)
        if self.widths and self.depth not in (0, len(self.widths)):
            raise UserError(
                f'generator.depth is {self.depth}, but generator.widths has {len(self.widths)} '
                'levels: set generator.depth to 0.'
            )

    def _check_size(self, depth: int, height: int, width: int) -> None:
        if not self.depth and not self.widths and self.size & (self.size - 1):
            raise UserError(
                f'generator.depth is 0, which needs a data.size that is a power of two, not '
                f'{self.size}: set generator.depth so that 2**depth divides data.size.'
            )
        layers.check_range(
            *('generator.output_stride', self.output_stride, self.output_stride <= 2**depth),
            f'{2**depth} or less for a U-Net of depth {depth}',
        )
        if height % 2**depth or width % 2**depth:
            raise UserError(
                f'A U-Net of depth {depth} takes sides that {2**depth} divides, not {height} x '
                f'{width} px: change the size (data.size, eval.size) or lower generator.depth.'
            )


def _conv3x3(features: int, **kwargs: Any) -> nn.Conv:
    """3x3, stride 1, padding 1."""
    return Conv(features, (3, 3), padding=1, kernel_init=layers.kernel_init, **kwargs)
