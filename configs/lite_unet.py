"""U-Net on a pretrained EfficientNet-Lite encoder, the generator of the released weights.

    python -m tools.encoder --variant=lite0 --output=lite0.safetensors
    python -m chromagan_jax.main --config=configs/lite_unet.py \
        --config.efficientnet_lite=lite0.safetensors --config.data.source=DIR \
        --config.eval.source=HELD_OUT_DIR

Without the file the encoder starts from random weights. The discriminator is a PatchGAN that judges
colours at half the resolution, as the generator makes them. The released weights were trained
with another discriminator: see their model card.
"""

from ml_collections import ConfigDict

from configs import best


def get_config() -> ConfigDict:
    """`best` with another generator, at 128 px."""
    config = best.get_config()
    config.efficientnet_lite = ''  # file of the encoder's weights; '': from scratch
    config.generator = ConfigDict()
    config.generator.name = 'lite_unet'
    config.generator.encoder = 'lite0'  # lite0, lite1 or lite2
    config.generator.decoder_widths = (384, 256, 192, 128, 64)  # at strides 32, 16, 8, 4 and 2
    config.generator.output_stride = 2  # px of the picture per pixel of colour, a side
    config.generator.dropout = 0.0  # rate, after the decoder levels at strides 32, 16 and 8
    config.data.size = 128
    return config
