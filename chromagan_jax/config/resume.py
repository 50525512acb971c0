"""Checks which config fields may change on resume, or with `init_from`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chromagan_jax.config.fields import flatten, from_dict
from chromagan_jax.config.schema import Config
from chromagan_jax.errors import UserError

# Fields and groups that do not affect the result of a train step.
MUTABLE_ON_RESUME = (
    'stall_timeout',
    'log_every',
    'eval_every',
    'sample_every',
    'checkpoint_every',
    'checkpoint.max_to_keep',
    'mesh.fsdp',
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
    'eval.write_images',
    'colorize',
)


def check_resume(config: Config, saved: Mapping[str, Any]) -> None:
    """Checks that a run started with the config `saved` may resume with `config`.

    A field missing in `saved` counts as its default, because it was added to the schema later.

    Raises:
        UserError: for the first changed field that must not change.
    """
    now, before = flatten(config), flatten(from_dict(Config, saved))
    for field in dict.fromkeys([*now, *before]):
        if _is_fixed(field, config) and now.get(field) != before.get(field):
            raise UserError(
                f'This workdir was started with {field}={before.get(field)!r}, not '
                f'{now.get(field)!r}: set it back, or choose another --workdir'
                ' (init_from starts a new run from the weights of this one).'
            )


def fields_of_step(config: Config) -> dict[str, Any]:
    """The fields that affect the result of a train step, by their dotted names."""
    return {field: value for field, value in flatten(config).items() if _is_fixed(field, config)}


def _is_fixed(field: str, config: Config) -> bool:
    mutable = set(MUTABLE_ON_RESUME)
    if not schedule_depends_on_steps(config):
        mutable.add('steps')
    if config.reduce_lr_on_plateau.patience:  # evaluations then affect the training
        mutable -= {'eval_every', 'eval.source'}
    return not any(field == f or field.startswith(f + '.') for f in mutable)


def schedule_depends_on_steps(config: Config) -> bool:
    """Whether a learning-rate schedule depends on `steps`, so that `steps` must not change."""
    optimizers = (config.generator_optimizer, config.discriminator_optimizer)
    return any(optimizer.schedule != 'constant' for optimizer in optimizers)


def check_same_networks(
    config: Config,
    saved: Mapping[str, Any] | Config,
    origin: str | Path,
    networks: tuple[str, ...] = ('generator', 'discriminator'),
) -> None:
    """Checks that the weights of a run with the config `saved` fit the networks of `config`.

    Args:
        config: config of the new run.
        saved: config of the old run.
        origin: of the weights, for the message.
        networks: the networks to compare.

    Raises:
        UserError: for the first field of the networks or `color_space` that differs.
    """
    now, before = (
        {
            field: value
            for field, value in flatten(one).items()
            if field == 'color_space' or field.split('.')[0] in networks
        }
        for one in (config, saved if isinstance(saved, Config) else from_dict(Config, saved))
    )
    for field in dict.fromkeys([*now, *before]):
        fits = field.endswith(('.dropout', '.test_mode'))  # no effect on weights
        fits |= field == 'generator.hints' and not before.get(field)  # adds new submodules
        if not fits and now.get(field) != before.get(field):
            raise UserError(
                f'init_from: the weights in {origin} were trained with '
                f'{field}={before.get(field)!r}, not {now.get(field)!r}: set it to the same value.'
            )
