"""The networks by name.

A generator is a Linen module `__call__(self, condition, train)`: condition (B, H, W, 1) to target
(B, H, W, channels). A discriminator is one of `__call__(self, condition, target, train)`, to logits
of any shape. Add one by naming it here. One with a method `features` returns a frozen network; its
`__call__` also takes what that network computes of the target in RGB. The fields are what a config may set under `generator` or
`discriminator`; the values of `channels`, `size`, `dtype`, `param_dtype` and `remat` follow from
other fields of the config, for networks that declare them. All fields have defaults.
"""

from flax import linen as nn

from chromagan_jax.models import chromagan, dense, encoder_decoder, lite_unet, patch, projected, unet
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
