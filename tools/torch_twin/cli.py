"""Parsing of flags and exit codes, shared by the commands of this package."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from chromagan_jax.errors import DivergedError, UserError


class Parser(argparse.ArgumentParser):
    """Shows the description as it is written; raises UserError for a wrong flag."""

    def __init__(self, prog: str, description: str | None) -> None:
        super().__init__(
            prog=prog,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Raises UserError."""
        raise UserError(f'{message}: --help lists the flags.')


def run_command(main: Callable[[Sequence[str]], None], argv: Sequence[str]) -> int:
    """Runs `main`; returns the exit code: 0, 1 (UserError), 3 (DivergedError) or 75 (Ctrl-C)."""
    try:
        main(argv)
    except UserError as error:
        return print_error(error, 1)
    except DivergedError as error:
        return print_error(error, 3)
    except KeyboardInterrupt:
        return print_error('Stopped: start the same command again.', 75)
    return 0


def print_error(sentence: object, code: int) -> int:
    """Prints a sentence to stderr; returns `code`."""
    print(sentence, file=sys.stderr)
    return code
