"""The smoke test: a U-Net and a PatchGAN on the six photographs of scikit-image.

    python -m chromagan_jax.main --config=configs/base.py

The run shows that training works. Six photographs are too few to generalize from.

All values are the defaults in chromagan_jax/config/schema.py, which documents every field.
`--config=configs/base.py:tiny` is the same run with tiny networks, for tests.
"""

from chromagan_jax.config import Config
from chromagan_jax.errors import UserError
from chromagan_jax.models.patch import PatchGAN
from chromagan_jax.models.unet import UNet


def get_config(arg: str = '') -> Config:
    """The defaults; with `arg` 'tiny' instead of '', four steps of tiny networks."""
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
