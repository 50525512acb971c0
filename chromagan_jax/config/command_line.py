"""The config's part of a command line: --config=FILE and --config.FIELD=VALUE."""

from collections.abc import Sequence
from typing import NamedTuple

from chromagan_jax.config import fields, files
from chromagan_jax.config.schema import Config
from chromagan_jax.errors import UserError


class Split(NamedTuple):
    """A command line in two parts."""

    spec: str | None  # of the config: FILE or FILE:ARGUMENT
    overrides: list[tuple[str, str | None]]  # fields and values; None: no value is given
    rest: list[str]  # what is not about the config


def split(arguments: Sequence[str]) -> Split:
    """Divides a command line, without the program's name."""
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
    """The config that a command line asks for.

    Raises:
        UserError: if it names no config, or a field or value that is impossible.
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
