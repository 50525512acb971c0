"""Command-line arguments of the config: --config=FILE and --config.FIELD=VALUE."""

from collections.abc import Sequence
from typing import NamedTuple

from chromagan_jax.config import fields, files
from chromagan_jax.config.schema import Config
from chromagan_jax.errors import UserError


class Split(NamedTuple):
    """A command line, split into config arguments and the rest."""

    spec: str | None  # config file, as FILE or FILE:ARGUMENT
    overrides: list[tuple[str, str | None]]  # fields and values; None: no value given
    rest: list[str]  # all other arguments


def split(arguments: Sequence[str]) -> Split:
    """Splits a command line; `arguments` excludes the program's name."""
    found = Split(None, [], [])
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        name, equals, value = argument.partition('=')
        name = name.removeprefix('-').removeprefix('-') if name.startswith('-') else ''
        if name != 'config' and not name.startswith('config.'):
            found.rest.append(argument)
            continue
        given = value if equals else None
        if given is None and waiting and not waiting[0].startswith('--'):
            given = waiting.pop(0)
        if name == 'config':
            found = found._replace(spec=given)
        else:
            found.overrides.append((name.removeprefix('config.'), given))
    return found


def make_config(line: Split) -> Config:
    """Builds the config from its file and the overrides.

    Raises:
        UserError: if no config is named, or a field or value is invalid.
    """
    if not line.spec:
        raise UserError('No config is named: add --config=configs/base.py.')
    config = files.load(line.spec)
    for name, text in line.overrides:
        if text is None:
            if not fields.has_type(config, name, bool):
                raise UserError(f'--config.{name} has no value: write --config.{name}=VALUE.')
            text = 'true'
        fields.set_text(config, name, text)
    return config
