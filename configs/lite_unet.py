"""The generator of the released weights with a PatchGAN: a faster step than configs/best.py.

    python -m tools.encoder --variant=lite0 --output=lite0.safetensors
    python -m chromagan_jax.main --config=configs/lite_unet.py \
        --config.pretrained.efficientnet_lite=lite0.safetensors --config.data.source=DIR \
        --config.eval.source=HELD_OUT_DIR

The generator is a U-Net on a pretrained EfficientNet-Lite encoder. Without the file the encoder
starts from random weights. Generator and discriminator work on ab at half the resolution of the
lightness. configs/best.py has the discriminator of the released weights.
"""

from chromagan_jax.config import Config
from chromagan_jax.models.lite_unet import LiteUNet
from chromagan_jax.models.patch import PatchGAN


def get_config() -> Config:
    """The config."""
    config = Config()
    config.steps = 5_600
    config.batch_size = 16
    config.discriminator_steps = 1
    config.generator = LiteUNet(
        encoder='lite0',  # lite0, lite1 or lite2
        decoder_widths=(384, 256, 192, 128, 64),  # at strides 32, 16, 8, 4 and 2
        output_stride=2,  # ab at half the resolution of the lightness
        dropout=0.0,  # rate, after the decoder levels at strides 32, 16 and 8
    )
    config.discriminator = PatchGAN(width=32, target_stride=2, layers=2)  # 68 x 68 px a patch
    config.loss.weights['adversarial'] = 0.5
    for optimizer in (config.generator_optimizer, config.discriminator_optimizer):
        optimizer.schedule = 'cosine'
        optimizer.decay_from = 0.3

    config.data.source = ''  # set on the command line
    config.data.size = 128
    config.eval.source = ''
    config.eval.batch_size = 50

    config.log_every = 100
    config.eval_every = 1_000
    config.sample_every = 1_000
    config.checkpoint_every = 500
    return config
