"""U-Net on a pretrained EfficientNet-Lite encoder, the generator of the released weights.

    python -m tools.encoder --variant=lite0 --output=lite0.safetensors
    python -m chromagan_jax.main --config=configs/lite_unet.py \
        --config.pretrained.efficientnet_lite=lite0.safetensors --config.data.source=DIR \
        --config.eval.source=HELD_OUT_DIR

Without the file the encoder starts from random weights. Generator and discriminator, a PatchGAN,
work on ab at half the resolution of the lightness. The released weights were trained with another
discriminator, which chromagan_jax/weights/MODEL_CARD.md describes.
"""

from chromagan_jax.config import Config, load
from chromagan_jax.models.lite_unet import LiteUNet


def get_config() -> Config:
    """`best` with this generator, at 128 px."""
    config = load('best')
    config.generator = LiteUNet(
        encoder='lite0',  # lite0, lite1 or lite2
        decoder_widths=(384, 256, 192, 128, 64),  # at strides 32, 16, 8, 4 and 2
        output_stride=2,  # ab at half the resolution of the lightness
        dropout=0.0,  # rate, after the decoder levels at strides 32, 16 and 8
    )
    config.data.size = 128
    return config
