"""The recipe.

python -m chromagan_jax.main --config=configs/best.py --config.data.source=DIR \
    --config.eval.source=HELD_OUT_DIR
"""

from ml_collections import ConfigDict

from chromagan_jax.errors import UserError
from configs import base

RESIDUAL = {
    'name': 'residual',
    'widths': (32, 64, 128, 256),
    'blocks': (0, 1, 1, 2),
    'norm': 'group',
    'attention': True,
    'context': True,
    'upsampling': 'shuffle',
    'bins': 0,
}
NO_LABELS = {'objective.label_smoothing': 0.0}
SPECTRAL = {'discriminator.norm': 'none', 'discriminator.spectral_norm': True}
# One change each, for launch/compare.py --systems=best,best:NAME,...
CHANGES = {
    '': {},
    'residual': {'generator': RESIDUAL},
    'bins': {'generator': RESIDUAL | {'bins': 11}, 'objective.bins': 1.0},
    'residual_batch': {'generator': RESIDUAL | {'norm': 'batch'}},
    'unet_group': {'generator.norm': 'group'},
    'fast': {'generator_optimizer.learning_rate': 5e-4},
    'both_fast': {
        'generator_optimizer.learning_rate': 5e-4,
        'discriminator_optimizer.learning_rate': 5e-4,
    },
    'cosine': {'generator_optimizer.schedule': 'cosine', 'generator_optimizer.decay_from': 0.3},
    'l1_30': {'objective.l1': 30.0},
    'huber': {'objective.l1': 0.0, 'objective.huber': 1000.0},
    'hinge': NO_LABELS | SPECTRAL | {'objective.adversarial': 'hinge'},
    'hinge_20': NO_LABELS | SPECTRAL | {'objective.adversarial': 'hinge', 'objective.l1': 20.0},
    'spectral': SPECTRAL,
    'relativistic': NO_LABELS | {'objective.adversarial': 'relativistic'},
    'relativistic_r1': NO_LABELS
    | {
        'objective.adversarial': 'relativistic',
        'discriminator.norm': 'none',
        'objective.r1': 10.0,
    },
    'features': {'objective.features': 10.0},
    'two_scales': {'discriminator.name': 'two_scales'},
    'vivid': {'objective.vivid': 5.0},
    'perceptual': {'objective.perceptual': 10.0},
    'semantic': {'generator.summary': 512, 'objective.semantic': 1.0},
    'pretrain': {'pretrain_steps': 400},
    'two_updates': {'discriminator_steps': 2},
    'jitter': {'data.smallest_crop': 0.6},
    'saturation': {'data.saturation': 1.2},
    'no_ema': {'ema': 0.0},
    'no_dropout': {'generator.dropout': 0.0},
    'seed': {'seed': 1},
}


def get_config(arg: str = '') -> ConfigDict:
    """The config; `arg` is '' or a key of CHANGES."""
    config = base.get_config()
    config.steps = 100_000
    config.batch_size = 16
    config.discriminator_steps = 1
    config.generator.dropout = 0.5
    config.data.source = ''
    config.eval.source = ''
    config.data.size = 128
    for change in filter(None, arg.split('+')):
        if change not in CHANGES:
            raise UserError(f'configs/best.py takes {", ".join(CHANGES)}, not {change!r}.')
        for field, value in CHANGES[change].items():
            *groups, name = field.split('.')
            group = config
            for one in groups:
                group = group[one]
            group[name] = ConfigDict(value) if isinstance(value, dict) else value
    return config
