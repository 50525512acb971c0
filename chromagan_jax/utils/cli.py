"""Flag parsing, error output and exit codes of all commands."""

import difflib
import os
import sys
import textwrap
import threading
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import jax
from absl import flags

from chromagan_jax.errors import UserError
from chromagan_jax.utils import paths

_EXIT_WAIT = 10.0  # s that an ending process waits for the others


def asks_for_help(argv: Sequence[str]) -> bool:
    """Whether a command line contains --help."""
    return not {'--help', '-help', '-h'}.isdisjoint(argv)


def parse(values: flags.FlagValues, argv: Sequence[str]) -> list[str]:
    """Sets `values` from a command line, and returns the arguments that are not flags.

    A leading `~` of a value becomes the home folder: shells do not expand it in `--output=~/out`.

    Raises:
        UserError: for an unknown flag or an invalid value.
    """
    try:
        arguments: list[str] = values(argv)[1:]
    except flags.UnrecognizedFlagError as error:
        close = difflib.get_close_matches(error.flagname, list(values), 1)
        hint = f': did you mean --{close[0]}?' if close else '; --help lists the flags.'
        raise UserError(f'There is no flag --{error.flagname}{hint}') from error
    except flags.Error as error:
        raise UserError(_flag_error(values, str(error))) from error
    for name in values:
        value = values[name].value
        if isinstance(value, str) and value.startswith('--'):  # `--report --json`
            raise UserError(f'--{name} needs a value, as in --{name}=VALUE; {value} follows it.')
        if values[name].present:
            values[name].value = _expanded(value)
    return arguments


def _expanded(value: Any) -> Any:
    if isinstance(value, list):
        return [_expanded(each) for each in value]
    return str(paths.expand(value)) if isinstance(value, str) and value[:1] == '~' else value


def _flag_error(values: flags.FlagValues, text: str) -> str:
    """Rewrites absl's message 'flag --NAME=VALUE: REASON' as a sentence."""
    flag, _, reason = text.partition(': ')
    name, _, value = flag.removeprefix('flag --').partition('=')
    if 'other than None' in reason:
        return f'--{name} is missing: add --{name}=VALUE.'
    kind = values[name].flag_type() if name in values else ''
    wanted = {'int': 'a whole number', 'float': 'a number', 'bool': 'true or false'}
    if kind not in wanted or 'must' in reason:  # absl already describes choices and ranges
        return text
    return f'--{name} must be {wanted[kind]}, not {value!r}.'


def flag_lines(described: Iterable[tuple[str, str]]) -> str:
    """The lines of a help text, for names of flags and their descriptions."""
    lines = []
    for name, description in described:
        text = textwrap.wrap(description, 68)
        if len(name) > 20:
            lines.append(f'  --{name}')
        else:
            lines.append(f'  --{name:20} {text.pop(0)}')
        lines += [f'{"":25}{line}' for line in text]
    return '\n'.join(lines)


def described(group: 'Iterable[flags.Flag[Any]]') -> list[tuple[str, str]]:
    """The names and descriptions of flags, for `flag_lines`."""
    lines = []
    for flag in group:
        text = flag.help.partition(';\n')[0]  # absl adds how to repeat a flag
        default = ','.join(flag.default) if isinstance(flag.default, list) else flag.default
        if default is not None and default is not False and default != '':
            text = f'{text} ({default})'
        lines.append((f'[no]{flag.name}' if flag.boolean else flag.name, text))
    return lines


def print_error(sentence: str) -> None:
    """Prints a sentence to standard error, after the name of the package."""
    print(f'chromagan_jax: {sentence}', file=sys.stderr, flush=True)


def exit_with(code: int, sentence: str) -> NoReturn:
    """Ends the process with an exit code and one sentence."""
    print_error(sentence)
    if jax.distributed.is_initialized():
        # At exit JAX waits for the other processes, so that an error of all ends all with its code.
        # The timer ends this process if the others have not failed.
        timer = threading.Timer(_EXIT_WAIT, os._exit, (code,))
        timer.daemon = True
        timer.start()
    sys.exit(code)


def end_now(code: int, sentence: str) -> NoReturn:
    """Ends the process at once; unlike `exit_with` it never waits for the other processes."""
    print_error(sentence)
    os._exit(code)
