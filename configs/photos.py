"""The networks of pix2pix at 256 px, for training on your own photographs.

    python -m chromagan_jax.main --config=configs/photos.py \
        --config.data.source=DIR --config.eval.source=HELD_OUT_DIR

For a CPU reduce it: --config.data.size=128 --config.generator.width=32
--config.discriminator.width=32 --config.dtype=float32 --config.batch_size=8.
"""

from chromagan_jax.config import Config
from chromagan_jax.models.patch import PatchGAN
from chromagan_jax.models.unet import UNet
from chromagan_jax.utils.cores import usable_cores


def get_config() -> Config:
    """`base` with pix2pix's widths, mixed precision and the intervals of a long run."""
    config = Config()
    config.steps = 100_000
    config.batch_size = 16
    config.dtype = 'bfloat16'
    config.generator = UNet(width=64, dropout=0.0)
    config.discriminator = PatchGAN(width=64)

    config.data.source = ''  # set on the command line
    config.data.size = 256
    config.data.workers = min(8, usable_cores() // 2)
    config.eval.source = ''
    config.eval.batch_size = 16

    config.log_every = 100
    config.eval_every = 2_500
    config.sample_every = 2_500
    config.checkpoint_every = 2_500
    return config
