"""Makes one HTML page about one or several runs, without other files.

    python -m tools.report runs/mine --output=mine.html
    python -m tools.report runs/a theirs=runs/b --output=compared.html

A RUN is a workdir, or NAME=WORKDIR. One run gets the page that a training writes as report.html.
Several runs get a page with their curves over each other and their scores, settings and newest
samples beside each other. A workdir can be in a bucket.

Exit codes: 0 done; 1 user error; 75 stopped.
"""

import argparse
import signal
import sys
from collections.abc import Sequence

from absl import logging

from chromagan_jax.errors import UserError
from chromagan_jax.evaluation import report
from chromagan_jax.utils import paths
from tools import cli


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return cli.exit_code('report', lambda: write(parse(argv)))


def write(args: argparse.Namespace) -> None:
    """Writes the report of the runs."""
    workdirs = {name: paths.as_path(place) for name, place in named(args.runs).items()}
    report.write_runs(paths.as_path(args.output), workdirs)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The flags; raises UserError if one is missing."""
    parser = cli.Parser('python -m tools.report --output=FILE RUN...', __doc__)
    parser.add_argument('runs', nargs='*', metavar='RUN', help='WORKDIR or NAME=WORKDIR')
    parser.add_argument('--output', default='', help='the page, a .html file')
    args = parser.parse_args(argv)
    if not args.runs:
        raise UserError('No run is named: add the workdir of a run.')
    if not args.output.endswith('.html'):
        raise UserError(f'--output must be a .html file, not {args.output!r}.')
    return args


def named(runs: Sequence[str]) -> dict[str, str]:
    """The places of runs by name; raises UserError if two have the same."""
    found: dict[str, str] = {}
    for run in runs:
        name, equals, place = run.partition('=')
        if not equals or '/' in name or (paths.as_path(run) / 'config.json').exists():
            name, place = run.rstrip('/').rpartition('/')[2], run
        if name in found:
            raise UserError(f'Two runs are called {name}: write NAME={place}.')
        found[name] = place
    return found


if __name__ == '__main__':
    logging.set_verbosity(logging.ERROR)
    sys.exit(main(sys.argv[1:]))
