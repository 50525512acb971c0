"""The registry of networks.

A generator is a Linen module with `__call__(self, condition, train)`: (B, H, W, 1) to a target
(B, H, W, channels). A discriminator has `__call__(self, condition, target, train)` and returns
logits of any shape. A discriminator with a method `features`, which returns a frozen network, also
takes the output of that network. Add a network by a line below. A config sets its fields under
`generator` or `discriminator`. The fields `channels`, `size`, `dtype` and `remat`, where
declared, follow from other fields of the config. All fields need defaults.
"""

from flax import linen as nn

from chromagan_jax.models import (
    chromagan,
    dense,
    encoder_decoder,
    lite_unet,
    patch,
    projected,
    unet,
)
from chromagan_jax.models.chromagan import Classified as Classified

GENERATORS: dict[str, type[nn.Module]] = {
    'unet': unet.UNet,
    'lite_unet': lite_unet.LiteUNet,
    'encoder_decoder': encoder_decoder.EncoderDecoder,
    'chromagan': chromagan.TwoBranch,
}
DISCRIMINATORS: dict[str, type[nn.Module]] = {
    'patch': patch.PatchGAN,
    'dense': dense.DenseDiscriminator,
    'projected': projected.ProjectedDiscriminator,
}
