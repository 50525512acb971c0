"""What a run that resumes, or starts from another's weights, may change of its config."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chromagan_jax.config.fields import flatten, from_dict
from chromagan_jax.config.schema import Config
from chromagan_jax.errors import UserError

# Fields, or groups of them, that change nothing about what is computed at a step.
MUTABLE_ON_RESUME = (
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
    'eval.timeout',
    'colorize',
)


def check_resume(config: Config, saved: Mapping[str, Any]) -> None:
    """Checks that a run may go on under `config`, which was started under `saved`.

    A field that `saved` does not have was added later: the run was started with its default.

    Raises:
        UserError: naming the first field that differs and may not.
    """
    mutable = set(MUTABLE_ON_RESUME)
    if not schedule_depends_on_steps(config):
        mutable.add('steps')
    if config.reduce_lr_on_plateau.patience:  # evaluations change the training
        mutable -= {'eval_every', 'eval.source'}
    now, before = flatten(config), flatten(from_dict(Config, saved))
    for field in dict.fromkeys([*now, *before]):
        fixed = not any(field == f or field.startswith(f + '.') for f in mutable)
        if fixed and now.get(field) != before.get(field):
            raise UserError(
                f'This workdir was started with {field}={before.get(field)!r}, not '
                f'{now.get(field)!r}: set it back, or choose another --workdir'
                ' (init_from starts a new run from the weights of this one).'
            )


def schedule_depends_on_steps(config: Config) -> bool:
    """Whether a schedule ends with the run, so that a resume may not change its length."""
    optimizers = (config.generator_optimizer, config.discriminator_optimizer)
    return any(optimizer.schedule != 'constant' for optimizer in optimizers)


def check_same_networks(config: Config, saved: Mapping[str, Any], workdir: str | Path) -> None:
    """Checks that the weights of a run under `saved` fit the networks of `config`.

    Raises:
        UserError: naming the first field that differs.
    """
    now, before = (
        {
            field: value
            for field, value in flatten(one).items()
            if field == 'color_space' or field.startswith(('generator.', 'discriminator.'))
        }
        for one in (config, from_dict(Config, saved))
    )
    for field in dict.fromkeys([*now, *before]):
        fits = field.endswith(('.dropout', '.test_mode'))  # as they have no weights
        if not fits and now.get(field) != before.get(field):
            raise UserError(
                f'init_from: the weights in {workdir} were trained with '
                f'{field}={before.get(field)!r}, not {now.get(field)!r}.'
            )
