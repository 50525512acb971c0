"""The recipe of the released colours: a projected discriminator and a pretrained encoder.

    python -m chromagan_jax.main --config=configs/best.py \
        --config.pretrained.efficientnet_lite=efficientnet-lite0.safetensors \
        --config.data.source=DIR --config.eval.source=HELD_OUT_DIR

- The generator is a U-Net with an EfficientNet-Lite encoder. The encoder starts from ImageNet
  weights and is fine-tuned at a lower rate.
- The discriminator judges frozen features of the same network (Sauer et al. 2021). A PatchGAN with
  a small weight judges Lab at half the resolution.
- The loss adds a perceptual distance on the frozen features, and L1 with a steered weight: the
  fakes keep a set share of the chroma of real images.
- Crops have random scales and lightness curves. Some inputs get grain or blur.

docs/recipe.md lists what was compared and the figures.

configs/best.py:CHANGE+CHANGE applies some of the CHANGES below.
`python -m tools.compare --systems=best,best:chroma_95,...` trains and scores them side by side.
"""

from typing import Any

from chromagan_jax.config import Config, set_field
from chromagan_jax.errors import UserError
from chromagan_jax.models.lite_unet import LiteUNet
from chromagan_jax.models.projected import ProjectedDiscriminator

CHANGES: dict[str, dict[str, Any]] = {
    'frozen_encoder': {'generator_optimizer.encoder_lr_ratio': 0.0},
    'chroma_85': {'loss.steering.chroma_share': 0.85},
    'chroma_95': {'loss.steering.chroma_share': 0.95},
    'no_patch': {'discriminator.patch_weight': 0.0},
    'no_perceptual': {'loss.weights.perceptual': 0.0},
    'no_degradation': {'augment.blur': 0.0, 'augment.grain': 0.0},
    'lite2': {'generator.encoder': 'lite2', 'discriminator.encoder': 'lite2'},
    'px_192': {'data.size': 192, 'data.max_resize_ratio': 1 / 0.85},
    'px_256': {'data.size': 256, 'data.max_resize_ratio': 1 / 0.85},
    'seed': {'seed': 1},
    'continue': {  # from the released generator, with a new discriminator
        'init_from': 'released',
        'discriminator_warmup_steps': 150,
        'generator_optimizer.learning_rate': 1e-4,
        'discriminator_optimizer.learning_rate': 1e-4,
    },
}


def get_config(arg: str = '') -> Config:
    """The config; `arg` is '' or names of CHANGES joined by +.

    Raises:
        UserError: if CHANGES lacks a name.
    """
    config = Config()
    config.steps = 20_000
    config.batch_size = 16
    config.discriminator_steps = 1
    config.ema_decay = 0.998
    config.generator = LiteUNet()
    config.discriminator = ProjectedDiscriminator(patch_weight=0.2)

    config.loss.adversarial = 'hinge'
    config.loss.label_smoothing = 0.0  # hinge losses have no labels
    config.loss.weights = {'adversarial': 1.0, 'l1': 30.0, 'perceptual': 2.0}
    config.loss.steering.chroma_share = 0.88

    config.generator_optimizer.learning_rate = 4e-4
    config.generator_optimizer.encoder_lr_ratio = 0.15
    config.discriminator_optimizer.learning_rate = 2e-4
    for optimizer in (config.generator_optimizer, config.discriminator_optimizer):
        optimizer.b2 = 0.99
        optimizer.schedule = 'cosine'
        optimizer.decay_from = 0.3
        optimizer.warmup_steps = 200

    config.augment.lightness_std = 0.25
    config.augment.blur = 0.2
    config.augment.grain = 0.35

    config.data.source = ''  # set on the command line
    config.data.size = 128
    config.data.resize_ratio = 1.0
    config.data.max_resize_ratio = 1 / 0.65
    config.eval.source = ''
    config.eval.batch_size = 50

    config.log_every = 100
    config.eval_every = 2_000
    config.sample_every = 2_000
    config.checkpoint_every = 500
    for change in filter(None, arg.split('+')):
        if change not in CHANGES:
            raise UserError(
                f'configs/best.py takes {", ".join(CHANGES)}, joined by +, not {change!r}.'
            )
        for field, value in CHANGES[change].items():
            set_field(config, field, value)
    return config
