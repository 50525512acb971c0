"""Flags and exit codes of the commands in tools/ and benchmarks/."""

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from chromagan_jax.errors import (
    EXIT_DIVERGED,
    EXIT_RESTART,
    EXIT_USER_ERROR,
    DivergedError,
    UserError,
)


class Parser(argparse.ArgumentParser):
    """Raises UserError for a wrong flag; shows the docstring of a module as it is written."""

    def __init__(self, usage: str, description: str | None):
        super().__init__(
            usage=usage,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Raises UserError."""
        raise UserError(f'{message}: --help lists the flags.')


def exit_code(name: str, run: Callable[[], object]) -> int:
    """Calls `run`, and shows the sentence of an error on standard error after `name`.

    Returns:
        0, 1 (UserError), 3 (DivergedError) or 75 (Ctrl-C).
    """
    try:
        run()
    except UserError as error:
        sentence, code = str(error), EXIT_USER_ERROR
    except DivergedError as error:
        sentence, code = str(error), EXIT_DIVERGED
    except KeyboardInterrupt:
        sentence, code = 'stopped: start it again', EXIT_RESTART
    else:
        return 0
    print(f'{name}: {sentence}', file=sys.stderr, flush=True)
    return code
