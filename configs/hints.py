"""Teaches the released generator to take colour hints.

    python -m chromagan_jax.main --config=configs/hints.py \
        --config.data.source=DIR --config.eval.source=HELD_OUT_DIR

Only the submodule for hints is trained, by L1 on photographs with random hints. All else is frozen,
so that without hints the colours stay those of the released generator, bit by bit.
`python -m tools.hints --workdir=...` scores the result.
"""

from chromagan_jax.config import Config
from chromagan_jax.models.lite_unet import LiteUNet


def get_config() -> Config:
    """The config; it needs no file of pretrained weights."""
    config = Config()
    config.init_from = 'released'
    config.steps = 5_000
    config.pretrain_steps = 1_000_000_000  # never the adversarial loss
    config.ema_decay = 0.0
    config.generator = LiteUNet(hints=True)
    config.hints.none = 0.0  # an image without hints would have no gradient
    config.hints.mean = 12.0
    config.hints.most = 64
    config.loss.weights = {'l1': 1.0}

    config.generator_optimizer.train_only = 'hints'
    config.generator_optimizer.learning_rate = 1e-3
    config.generator_optimizer.b1 = 0.9
    config.generator_optimizer.schedule = 'cosine'
    config.generator_optimizer.decay_from = 0.3
    config.generator_optimizer.warmup_steps = 100

    config.data.source = ''  # set on the command line
    config.data.size = 192
    config.data.resize_ratio = 1.0
    config.data.max_resize_ratio = 1 / 0.65
    config.eval.source = ''
    config.eval.batch_size = 50

    config.log_every = 100
    config.eval_every = config.sample_every = 5_000  # without hints: the released colours
    config.checkpoint_every = 500
    return config
