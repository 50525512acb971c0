"""What won when single changes to pix2pix were trained under equal budgets.

    python -m chromagan_jax.main --config=configs/best.py --config.pretrained.squeezenet=FILE \
        --config.data.source=DIR --config.eval.source=HELD_OUT_DIR

pix2pix at a size and width that a CPU can train, beside whose way down a classifier sees the
photograph too (SqueezeNet, from a file of its weights, and trained on); colours made and judged at
half the resolution of the lightness, one discriminator update a step, half the weight of the
adversary, and learning rates that fall along a cosine. docs/recipe.md says what else was tried.

Measured on two cores of a Xeon with 14,910 photographs: 85 images/s, 18 minutes; on 500 others at
64 px PSNR 22.0 dB (gray 22.2), ab error 10.9 (11.4), colorfulness 35 of 42, 0.24 of gray's Frechet
distance. tools/train_released.sh goes on from there at 128 px and 29 images/s, 25 minutes more:
PSNR 22.5 dB (22.2), ab error 10.3 (11.4), colorfulness 37 of 43, 0.21 of gray's distance. Skies,
plants, fur and skin are mostly found; the rest is guessed at, with patches in all colours.

configs/best.py:CHANGE+CHANGE is the recipe with some of the CHANGES below, each one thing to try;
python -m tools.compare --systems=best,best:hinge,... trains and scores them side by side.
"""

from typing import Any

from chromagan_jax.config import Config, set_field
from chromagan_jax.errors import UserError
from chromagan_jax.models.patch import PatchGAN
from chromagan_jax.models.unet import UNet

SPECTRAL = {'discriminator.norm': 'none', 'discriminator.spectral_norm': True}
CHANGES: dict[str, dict[str, Any]] = {
    'constant': {  # as pix2pix begins
        'generator_optimizer.schedule': 'constant',
        'discriminator_optimizer.schedule': 'constant',
    },
    'discriminator_constant': {'discriminator_optimizer.schedule': 'constant'},
    'no_encoder': {'generator.encoder': 'none'},
    'chroma_1': {  # colours as sharp as the lightness
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
    """The config; `arg` is '' or some of the CHANGES, with + between."""
    config = Config()
    config.steps = 5_600
    config.batch_size = 16
    config.discriminator_steps = 1
    config.generator = UNet(
        width=32,
        depth=6,  # down to 1x1 at 64 px, where training begins
        dropout=0.5,
        encoder='squeezenet',  # starts from a file and is trained further
        output_stride=2,
    )
    config.discriminator = PatchGAN(width=32, target_stride=2, layers=2)  # patches of 68 px
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
                f'configs/best.py takes {", ".join(CHANGES)}, with + between, not {change!r}.'
            )
        for field, value in CHANGES[change].items():
            set_field(config, field, value)
    return config
