"""Checks of a config, field by field."""

from typing import Any

from chromagan_jax.color import SPACES
from chromagan_jax.config import postprocess
from chromagan_jax.errors import UserError

DTYPES = ('float32', 'bfloat16')
ADVERSARIAL_LOSSES = ('bce', 'lsgan', 'hinge', 'wgan')  # keys of losses.ADVERSARIAL


def validate(config: Any) -> None:
    """Checks every field that can be judged without data or devices.

    Raises:
        UserError: naming the first field that is impossible.
    """
    positive = 'steps batch_size accumulate discriminator_steps log_every checkpoint_every'
    positive += ' data.size data.threads data.prefetch eval.batch_size mesh.fsdp'
    for field in (*positive.split(), 'checkpoint.max_to_keep'):
        _require(field, _get(config, field), _get(config, field) >= 1, '1 or more')
    natural = (
        'stall_timeout eval_every sample_every data.workers eval.size eval.patience pretrain_steps'
    )
    for field in (*natural.split(), 'plateau.patience'):
        _require(field, _get(config, field), _get(config, field) >= 0, '0 or more')
    _require('seed', config.seed, 0 <= config.seed < 2**32, '0 <= x < 2**32')
    _choose('color_space', config.color_space, SPACES)
    _choose('dtype', config.dtype, DTYPES)
    _choose('param_dtype', config.param_dtype, DTYPES)
    _require('ema', config.ema, 0 <= config.ema < 1, '0 <= x < 1')
    _require('data.load_ratio', config.data.load_ratio, config.data.load_ratio >= 1, '1 or more')
    most = config.data.max_unreadable
    _require('data.max_unreadable', most, 0 <= most <= 1, '0 <= x <= 1')
    most = config.discriminator_max_accuracy
    _require('discriminator_max_accuracy', most, 0 < most <= 1, '0 < x <= 1')
    postprocess.make(config.colorize)
    _validate_optimizers(config)
    _validate_objective(config)


def _validate_optimizers(config: Any) -> None:
    for group in ('generator_optimizer', 'discriminator_optimizer'):
        for name in ('learning_rate', 'weight_decay', 'clip', 'warmup_steps'):
            value = config[group][name]
            _require(f'{group}.{name}', value, value >= 0, '0 or more')
        for name in ('b1', 'b2'):
            value = config[group][name]
            _require(f'{group}.{name}', value, 0 <= value < 1, '0 <= x < 1')
    plateau = config.plateau
    _require('plateau.factor', plateau.factor, 0 < plateau.factor < 1, '0 < x < 1')
    _require('plateau.min_scale', plateau.min_scale, 0 <= plateau.min_scale <= 1, '0 <= x <= 1')
    if plateau.patience and not config.eval_every:
        raise UserError('plateau.patience counts evaluations: set eval_every, or it to 0.')


def _validate_objective(config: Any) -> None:
    c = config.objective
    _choose('objective.adversarial', c.adversarial, ADVERSARIAL_LOSSES)
    for name in ('adversarial_weight', 'l1', 'mse', 'huber', 'classes', 'gradient_penalty'):
        _require(f'objective.{name}', c[name], c[name] >= 0, '0 or more')
    _require('objective.huber_delta', c.huber_delta, c.huber_delta > 0, 'above 0')
    smoothing = c.label_smoothing
    _require('objective.label_smoothing', smoothing, 0 <= smoothing < 0.5, '0 <= x < 0.5')
    if smoothing and c.adversarial in ('hinge', 'wgan'):
        raise UserError(
            f'objective.adversarial {c.adversarial!r} has no labels to smooth: '
            'set objective.label_smoothing to 0.'
        )
    if c.gradient_penalty:
        if config.discriminator.get('norm') == 'batch':
            raise UserError(
                'objective.gradient_penalty needs a discriminator whose judgement of one image '
                'does not depend on others: set discriminator.norm to none, instance or group.'
            )
        if config.dtype != 'float32' or config.param_dtype != 'float32':
            raise UserError(
                'objective.gradient_penalty needs float32: set dtype and param_dtype to it.'
            )


def _get(config: Any, field: str) -> Any:
    for name in field.split('.'):
        config = config[name]
    return config


def _require(field: str, value: Any, good: bool, range_: str) -> None:
    if not good:
        raise UserError(f'{field} must be {range_}, not {value!r}.')


def _choose(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f'{field} is {value!r}; choose one of {", ".join(choices)}.')
