"""Generator of ChromaGAN (Vitoria et al. 2020, https://arxiv.org/abs/1907.09837)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from chromagan_jax.errors import UserError
from chromagan_jax.models import layers
from chromagan_jax.models.ops.conv import Conv
from chromagan_jax.models.pretrained import vgg

Array = jax.Array

_kernel_init = nn.initializers.glorot_uniform()  # Keras's default, as in ChromaGAN


class Classified(NamedTuple):
    """The output of a generator with a class head."""

    target: Array  # (B, H, W, channels)
    class_logits: Array  # (B, classes)


class Block(nn.Module):
    """Convolution with SAME padding, ReLU, norm."""

    features: int
    side: int  # of the kernel, px
    strides: int
    norm: str
    test_mode: str
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        window = (self.side, self.side)
        x = Conv(
            self.features,
            window,
            self.strides,
            kernel_init=_kernel_init,
            dtype=self.dtype,
            name='conv',
        )(x)
        return layers.Norm(self.norm, self.test_mode, dtype=self.dtype, name='norm')(
            nn.relu(x), train
        )


class TwoBranch(nn.Module):
    """(B, size, size, 1) -> (B, size, size, channels), and class logits if `classes` > 0.

    VGG16 features at stride 8 feed two branches. The local branch preserves the spatial map. The
    global branch reduces the map to one vector, which is broadcast over the local map. A decoder
    predicts the target at stride 2, which nearest-neighbour upsampling brings to full size. A head
    on the global branch predicts class logits (B, classes). Dense layers on a flattened map fix
    the image size.

    Raises:
        UserError: if the image is not `size` x `size`, or a field has an invalid value.
    """

    channels: int = 2  # of the target: 2 in Lab, 3 in RGB
    size: int = 224  # px, the only size that the network accepts
    width: int = 64  # features of VGG16's first block; the other layers scale with it
    classes: int = 1000  # of the class head; 0: no head
    test_mode: str = 'running'  # batch norm statistics at test time: running, or batch (per image)
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, condition: Array, train: bool) -> Array | Classified:
        self._check(*condition.shape[1:3])
        w = self.width
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block

        def convolve(x: Array, features: int, name: str, side: int = 3, **kwargs: Any) -> Array:
            fields = {
                'strides': 1,
                'norm': 'batch',
                'test_mode': self.test_mode,
                'dtype': self.dtype,
                **kwargs,
            }
            return block(features, side, **fields, name=name)(x, train)

        def dense(x: Array, widths: tuple[int, ...], name: str) -> Array:
            for index, features in enumerate(widths):  # no activations, as in the paper's code
                layer = nn.Dense(
                    features, kernel_init=_kernel_init, dtype=self.dtype, name=f'{name}_{index}'
                )
                x = layer(x)
            return x

        image = vgg.normalized(condition, self.channels)
        features = vgg.Backbone(w, remat=self.remat, dtype=self.dtype, name=vgg.BACKBONE)(image)

        x = features
        for index, strides in enumerate((2, 1, 2, 1)):
            x = convolve(x, 8 * w, f'global_{index}', strides=strides)
        flat = x.reshape(len(x), -1)
        vector = dense(flat, (16 * w, 8 * w, 4 * w), 'vector')

        x = convolve(features, 8 * w, 'local_0')
        x = convolve(x, 4 * w, 'local_1')
        repeated = jnp.broadcast_to(vector[:, None, None], (*x.shape[:3], 4 * w))
        x = jnp.concatenate([x, repeated], axis=-1)
        x = convolve(x, 4 * w, 'fusion', side=1, norm='none')
        x = convolve(x, 2 * w, 'out_0', norm='none')
        x = convolve(_enlarged(x), w, 'out_1', norm='none')
        x = convolve(x, w, 'out_2', norm='none')
        x = convolve(_enlarged(x), w // 2, 'out_3', norm='none')
        x = Conv(self.channels, (3, 3), kernel_init=_kernel_init, dtype=self.dtype, name='out_4')(x)
        target = _enlarged(layers.output_activation(x, self.channels))
        if not self.classes:
            return target
        class_logits = dense(flat, (64 * w, 64 * w, self.classes), 'class')
        return Classified(target, class_logits.astype(jnp.float32))

    def _check(self, height: int, width: int) -> None:
        layers.check_range('generator.width', self.width, self.width >= 2, '2 or more')
        layers.check_range('generator.classes', self.classes, self.classes >= 0, '0 or more')
        layers.check_choice('generator.test_mode', self.test_mode, layers.TEST_MODES)
        # At 24 px the map at stride 8 is 3 px wide, enough for two convolutions of stride 2.
        fits = self.size >= 24 and self.size % 8 == 0
        layers.check_range('data.size', self.size, fits, 'a multiple of 8 px, 24 or more')
        if (height, width) != (self.size, self.size):
            raise UserError(
                f"ChromaGAN's generator accepts only its training size, {self.size} x {self.size} "
                f'px, not {height} x {width}: set eval.size to data.size.'
            )


def _enlarged(x: Array) -> Array:
    """Nearest-neighbour upsampling: (B, H, W, C) -> (B, 2H, 2W, C)."""
    return x.repeat(2, axis=1).repeat(2, axis=2)
