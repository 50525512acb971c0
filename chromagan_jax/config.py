"""Checks of a config, and what a resumed run may change of it."""

from collections.abc import Iterator, Mapping
from typing import Any

from chromagan_jax import optim, postprocess
from chromagan_jax.color import SPACES
from chromagan_jax.errors import UserError
from chromagan_jax.losses import ADVERSARIAL
from chromagan_jax.metrics import RANKING

DTYPES = ('float32', 'bfloat16')
# Fields, or groups of them, that change nothing about what is computed at a step.
MAY_CHANGE = (
    'stall_timeout',
    'log_every',
    'eval_every',
    'sample_every',
    'checkpoint_every',
    'checkpoint.max_to_keep',
    'mesh',
    'data.source',
    'data.workers',
    'data.threads',
    'data.prefetch',
    'data.max_unreadable',
    'eval.source',
    'eval.batch_size',
    'eval.features',
    'eval.checkpoint',
    'eval.follow',
    'eval.patience',
    'colorize',
)


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
    _choose('checkpoint.best_metric', config.checkpoint.best_metric, tuple(RANKING))
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
    _choose('plateau.metric', plateau.metric, tuple(RANKING))
    _require('plateau.factor', plateau.factor, 0 < plateau.factor < 1, '0 < x < 1')
    _require('plateau.min_scale', plateau.min_scale, 0 <= plateau.min_scale <= 1, '0 <= x <= 1')
    if plateau.patience and not config.eval_every:
        raise UserError('plateau.patience counts evaluations: set eval_every, or it to 0.')


def _validate_objective(config: Any) -> None:
    c = config.objective
    _choose('objective.adversarial', c.adversarial, tuple(ADVERSARIAL))
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


def check_resume(config: Any, saved: Mapping[str, Any]) -> None:
    """Checks that a run may go on under `config`, which was started under `saved`.

    Raises:
        UserError: naming the first field that differs and may not.
    """
    may_change = set(MAY_CHANGE)
    if not optim.depends_on_steps(config):
        may_change.add('steps')
    if config.plateau.patience:  # evaluations have a say in the training
        may_change -= {'eval_every', 'eval.source'}
    now, before = dict(flatten(config.to_dict())), dict(flatten(saved))
    for field in [*now, *(field for field in before if field not in now)]:
        fixed = not any(field == f or field.startswith(f + '.') for f in may_change)
        if fixed and now.get(field) != before.get(field):
            raise UserError(
                f'This workdir was started with {field}={before.get(field)!r}, not '
                f'{now.get(field)!r}: set it back, or choose another --workdir'
                ' (init_from starts a new run from the weights of this one).'
            )


def check_same_networks(config: Any, saved: Mapping[str, Any], workdir: Any) -> None:
    """Checks that the weights of a run under `saved` fit the networks of `config`.

    Raises:
        UserError: naming the first field that differs.
    """
    groups = ('color_space', 'generator', 'discriminator')
    now = dict(flatten({group: config.to_dict()[group] for group in groups}))
    before = dict(flatten({group: saved.get(group, {}) for group in groups}))
    for field in dict.fromkeys([*now, *before]):
        fits = field.endswith(('.dropout', '.test_mode'))  # as they have no weights
        if not fits and now.get(field) != before.get(field):
            raise UserError(
                f'init_from: the weights in {workdir} were trained with '
                f'{field}={before.get(field)!r}, not {now.get(field)!r}.'
            )


def flatten(config: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Pairs ('group.field', value), in order; lists, which tuples become in JSON, are tuples."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f'{prefix}{name}.')
        else:
            yield prefix + name, tuple(value) if isinstance(value, list) else value


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
