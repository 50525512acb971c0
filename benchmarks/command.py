"""The command line of the benchmarks that take --config."""

import importlib.metadata
import os
import platform
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags, logging

from chromagan_jax.config import Config, command_line
from chromagan_jax.errors import UserError
from chromagan_jax.utils import cli

_FIELD = ('config.FIELD=VALUE', 'Value of a field; chromagan_jax/config/schema.py lists them.')


def describe() -> dict[str, Any]:
    """The machine and the versions that a result depends on, for its JSON line."""
    info = Path('/proc/cpuinfo')  # Linux only
    models = [
        line.partition(':')[2].strip()
        for line in (info.read_text().splitlines() if info.exists() else [])
        if line.startswith('model name')
    ]
    return {
        'machine': models[0] if models else platform.machine(),
        'cores': os.cpu_count(),
        'versions': {
            'python': platform.python_version(),
            **{
                name: importlib.metadata.version(name)
                for name in ('flax', 'jax', 'jaxlib', 'numpy')
            },
        },
    }


def peak_bytes() -> int:
    """The most memory that this process has held so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def start(main: Callable[[list[str]], None]) -> None:
    """Runs a command without --config; exits with the sentence of a UserError."""
    if cli.asks_for_help(sys.argv):
        print(_help())
        return
    try:
        main([sys.argv[0], *cli.parse(flags.FLAGS, sys.argv)])
    except UserError as error:
        sys.exit(f'chromagan_jax: {error}')


def run(main: Callable[[Config], None]) -> None:
    """Runs a command that takes --config; exits with the sentence of a UserError."""
    logging.set_verbosity(logging.FATAL)
    if cli.asks_for_help(sys.argv):
        print(_help(('config=FILE', 'Config file, or the name of one.'), _FIELD))
        return
    line = command_line.split(sys.argv[1:])
    try:
        cli.parse(flags.FLAGS, [sys.argv[0], *line.rest])
        main(command_line.make_config(line))
    except UserError as error:
        sys.exit(f'chromagan_jax: {error}')


def _help(*lines: tuple[str, str]) -> str:
    """The description of the command and its own flags, without those of libraries."""
    own = cli.described(flags.FLAGS.get_key_flags_for_module(sys.argv[0]))
    return f'{sys.modules["__main__"].__doc__}\n{cli.flag_lines([*lines, *own])}'
