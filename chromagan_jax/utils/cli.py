"""How commands end: wrong flags, one sentence, an exit code."""

import difflib
import os
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn

import jax
from absl import flags

from chromagan_jax.errors import UserError

_EXIT_WAIT = 10.0  # s that a process waits at its end for the others


def parse(values: flags.FlagValues, argv: Sequence[str]) -> list[str]:
    """Sets `values` from a command line; returns its arguments that are no flags.

    Raises:
        UserError: for a flag that does not exist or has an impossible value.
    """
    try:
        return values(argv)[1:]
    except flags.UnrecognizedFlagError as error:
        close = difflib.get_close_matches(error.flagname, list(values), 1)
        hint = f': did you mean --{close[0]}?' if close else '; --help lists the flags.'
        raise UserError(f'There is no flag --{error.flagname}{hint}') from error
    except flags.Error as error:
        raise UserError(_flag_error(values, str(error))) from error


def _flag_error(values: flags.FlagValues, text: str) -> str:
    """A sentence for absl's 'flag --NAME=VALUE: REASON'."""
    flag, _, reason = text.partition(': ')
    name, _, value = flag.removeprefix('flag --').partition('=')
    kind = values[name].flag_type() if name in values else ''
    wanted = {'int': 'a whole number', 'float': 'a number', 'bool': 'true or false'}
    if kind not in wanted or 'must' in reason:  # a choice or a range, which absl describes
        return text
    return f'--{name} must be {wanted[kind]}, not {value!r}.'


def print_error(sentence: str) -> None:
    """Shows a sentence on standard error, under the name of the package."""
    print(f'chromagan_jax: {sentence}', file=sys.stderr, flush=True)


def exit_with(code: int, sentence: str) -> NoReturn:
    """Ends the process with an exit code and one sentence."""
    print_error(sentence)
    if jax.distributed.is_initialized():
        # JAX waits here for the other processes, so that an error of all ends all with its code. An
        # error of this process alone timers them waiting: then this process ends by itself.
        timer = threading.Timer(_EXIT_WAIT, os._exit, (code,))
        timer.daemon = True
        timer.start()
    sys.exit(code)


def end_now(code: int, sentence: str) -> NoReturn:
    """Ends at once: `jax.distributed` would wait for the other processes."""
    print_error(sentence)
    os._exit(code)
