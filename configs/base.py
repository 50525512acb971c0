"""The quick recipe: U-Net and PatchGAN on six photographs that come inside scikit-image.

    python -m chromagan_jax.main --config=configs/base.py

It proves an installation, not a method: six photographs are memorised, not learned from. Measured
on two cores of a Xeon: 41 images/s, under two minutes in all, and colours one can see (PSNR
30.1 dB on the training photographs, gray 21.4; colorfulness 47 of 51).

Its values are the defaults in chromagan_jax/config/schema.py, where all fields are documented.
`--config=configs/base.py:tiny` is the same run with networks for tests, over in seconds.
"""

from chromagan_jax.config import Config
from chromagan_jax.errors import UserError
from chromagan_jax.models.patch import PatchGAN
from chromagan_jax.models.unet import UNet


def get_config(arg: str = '') -> Config:
    """The config; `arg` is '' or 'tiny'."""
    if arg not in ('', 'tiny'):
        raise UserError(f'configs/base.py takes the argument tiny or none, not {arg!r}.')
    config = Config()
    if arg == 'tiny':
        config.steps, config.batch_size, config.eval.batch_size = 4, 8, 8
        config.generator = UNet(width=4, dropout=0.0)
        config.discriminator = PatchGAN(width=4)
        config.data.size = 32
        config.log_every = 1
        config.eval_every = config.sample_every = config.checkpoint_every = 2
    return config
