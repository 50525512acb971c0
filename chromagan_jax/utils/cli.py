"""What the commands do about mistakes: flags that are wrong, one sentence, an exit code."""

import os
import re
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn

import jax
from absl import flags

from chromagan_jax.errors import UserError

_FAREWELL = 10.0  # s that a process waits at its end for others that may end as well


def parse(values: flags.FlagValues, argv: Sequence[str]) -> list[str]:
    """Sets `values` from a command line; returns its arguments that are no flags.

    Raises:
        UserError: for a flag that does not exist or has an impossible value.
    """
    try:
        return values(argv)[1:]
    except flags.Error as error:
        raise UserError(flag_mistake(str(error))) from error


def print_error(sentence: str) -> None:
    """Shows a sentence on standard error, under the name of the package."""
    print(f'chromagan_jax: {sentence}', file=sys.stderr, flush=True)


def flag_mistake(error: str) -> str:
    """The one sentence in what absl and ml_collections say about a flag."""
    if 'Traceback' in error:  # of a config file: the exception stands at its end
        return error.strip().splitlines()[-1].split('UserError: ')[-1]
    # ml_collections quotes quoted messages, ends of lines included.
    text = ' '.join(error.replace('\\n', ' ').replace('\\', '').split())
    for pattern, sentence in (
        (r'\W*(\w+)\W* Did you mean "(\w+)".*', r"No field '\1' in the config: did you mean '\2'?"),
        (r'\W*(\w+)\W*', r"There is no field '\1' in the config."),
        (r'\W*Attribute .* lookup: ([\w.]+)\W*', r"There is no field '\1' in the config."),
        (r"Unknown .* flag 'config\..*", 'No config is named: add --config=configs/base.py.'),
        (r"Unknown .* flag '(.*?)'. Did you mean: (\S+) .*", r'No flag --\1: did you mean --\2?'),
        (r"Unknown .* flag '(.*)'", r'There is no flag --\1.'),
        (r'flag --(.*?)=(.*): invalid literal.*', r"--\1 must be a whole number, not '\2'."),
        (r'flag --(.*?)=(.*): could not convert.*', r"--\1 must be a number, not '\2'."),
        (r"flag --(.*?)=(.*): \('Non-boolean.*", r"--\1 must be true or false, not '\2'."),
        (r'Configuration is not available.*?\[Errno \d+\] (.*)', r'--config cannot be read: \1.'),
    ):
        if match := re.fullmatch(pattern, text):
            return match.expand(sentence)
    return text


def exit_with(code: int, sentence: str) -> NoReturn:
    """Ends the process with an exit code and one sentence."""
    print_error(sentence)
    if jax.distributed.is_initialized():
        # JAX says farewell to the other processes, so that a mistake that all make ends all with
        # its code. One that is made here alone leaves them waiting for this process: then it goes.
        leave = threading.Timer(_FAREWELL, os._exit, (code,))
        leave.daemon = True
        leave.start()
    sys.exit(code)


def end_now(code: int, sentence: str) -> NoReturn:
    """Ends without the farewell of `jax.distributed`, which would wait for the others."""
    print_error(sentence)
    os._exit(code)
