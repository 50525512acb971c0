"""What a run that resumes, or starts from another's weights, may change of its config."""

from collections.abc import Iterator, Mapping
from typing import Any

from chromagan_jax.errors import UserError

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


def check_resume(config: Any, saved: Mapping[str, Any]) -> None:
    """Checks that a run may go on under `config`, which was started under `saved`.

    Raises:
        UserError: naming the first field that differs and may not.
    """
    may_change = set(MAY_CHANGE)
    if not depends_on_steps(config):
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


def depends_on_steps(config: Any) -> bool:
    """Whether a schedule ends with the run, so that a resume may not change its length."""
    fields = ('generator_optimizer', 'discriminator_optimizer')
    return any(config[field].schedule != 'constant' for field in fields)


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
