"""The real recipe: the networks of pix2pix at 256 px on photographs of your own.

    python -m chromagan_jax.main --config=configs/photos.py \
        --config.data.source=DIR --config.eval.source=HELD_OUT_DIR

On a CPU train at --config.data.size=128 --config.generator.width=32
--config.discriminator.width=32 --config.dtype=float32.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """`base` with pix2pix's widths, mixed precision and cadences for a long run."""
    config = base.get_config()
    config.steps = 100_000
    config.batch_size = 16
    config.dtype = 'bfloat16'
    config.generator.width = 64
    config.discriminator.width = 64

    config.data.source = ''  # to be named on the command line
    config.data.size = 256
    config.data.workers = 8
    config.eval.source = ''
    config.eval.batch_size = 16

    config.log_every = 100
    config.eval_every = 2_500
    config.sample_every = 2_500
    config.checkpoint_every = 2_500
    return config
