"""The best variant of pix2pix for small budgets, by the comparisons in docs/recipe.md.

    python -m chromagan_jax.main --config=configs/best.py --config.pretrained.squeezenet=FILE \
        --config.data.source=DIR --config.eval.source=HELD_OUT_DIR

It differs from pix2pix in these points:

- The networks are narrower and the images smaller, so that a CPU can train them.
- SqueezeNet's features are added to the encoder of the U-Net. SqueezeNet starts from a file of
  pretrained weights and is fine-tuned.
- Generator and discriminator work on ab at half the resolution of the lightness.
- The adversarial loss has half the weight. Both learning rates follow a cosine schedule.

docs/recipe.md lists what was compared and the figures.

configs/best.py:CHANGE+CHANGE applies some of the CHANGES below.
`python -m tools.compare --systems=best,best:hinge,...` trains and scores them side by side.
"""

from typing import Any

from chromagan_jax.config import Config, set_field
from chromagan_jax.errors import UserError
from chromagan_jax.models.patch import PatchGAN
from chromagan_jax.models.unet import UNet

SPECTRAL = {'discriminator.norm': 'none', 'discriminator.spectral_norm': True}
CHANGES: dict[str, dict[str, Any]] = {
    'constant': {  # pix2pix's rates before its linear decay
        'generator_optimizer.schedule': 'constant',
        'discriminator_optimizer.schedule': 'constant',
    },
    'discriminator_constant': {'discriminator_optimizer.schedule': 'constant'},
    'no_encoder': {'generator.encoder': 'none'},
    'chroma_1': {  # ab at the resolution of the lightness
        'generator.output_stride': 1,
        'discriminator.target_stride': 1,
        'discriminator.layers': 3,
    },
    'chroma_4': {
        'generator.output_stride': 4,
        'discriminator.target_stride': 4,
        'discriminator.layers': 1,
    },
    'adversarial_1': {'loss.weights.adversarial': 1.0},
    'fast': {'generator_optimizer.learning_rate': 5e-4},
    'hinge': SPECTRAL | {'loss.adversarial': 'hinge', 'loss.label_smoothing': 0.0},
    'spectral': SPECTRAL,
    'two_updates': {'discriminator_steps': 2},
    'l1_20': {'loss.weights.l1': 20.0},
    'huber': {'loss.weights.l1': 0.0, 'loss.weights.huber': 1000.0},
    'pretrain': {'pretrain_steps': 400},
    'group_norm': {'generator.norm': 'group'},
    'no_dropout': {'generator.dropout': 0.0},
    'no_ema': {'ema_decay': 0.0},
    'seed': {'seed': 1},
}


def get_config(arg: str = '') -> Config:
    """The config; `arg` is '' or names of CHANGES joined by +.

    Raises:
        UserError: if CHANGES lacks a name.
    """
    config = Config()
    config.steps = 5_600
    config.batch_size = 16
    config.discriminator_steps = 1
    config.generator = UNet(
        width=32,
        depth=6,  # the bottleneck is 1 x 1 at 64 px
        dropout=0.5,
        encoder='squeezenet',  # fine-tuned from pretrained.squeezenet
        output_stride=2,
    )
    config.discriminator = PatchGAN(width=32, target_stride=2, layers=2)  # 68 x 68 px a patch
    config.loss.weights['adversarial'] = 0.5
    for optimizer in (config.generator_optimizer, config.discriminator_optimizer):
        optimizer.schedule = 'cosine'
        optimizer.decay_from = 0.3

    config.data.source = ''  # set on the command line
    config.data.size = 64
    config.eval.source = ''
    config.eval.batch_size = 50

    config.log_every = 100
    config.eval_every = 1_000
    config.sample_every = 1_000
    config.checkpoint_every = 500
    for change in filter(None, arg.split('+')):
        if change not in CHANGES:
            raise UserError(
                f'configs/best.py takes {", ".join(CHANGES)}, joined by +, not {change!r}.'
            )
        for field, value in CHANGES[change].items():
            set_field(config, field, value)
    return config
