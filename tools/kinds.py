"""Scores a generator by kind of photograph.

    python -m tools.kinds --val=DIR

Each folder in --val is a kind: DIR/people, DIR/street. The metrics are those of evaluations, on
centre squares of 256 px. Prints a Markdown table on standard output.

Exit codes: 0 done; 1 user error; 75 stopped by Ctrl-C.
"""

import argparse
import copy
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from chromagan_jax import sharding
from chromagan_jax.data.inputs import evaluation_input
from chromagan_jax.data.sources import make_source
from chromagan_jax.errors import UserError
from chromagan_jax.evaluation import evaluator
from chromagan_jax.gan.model import make_model
from chromagan_jax.gan.released import Trained
from chromagan_jax.inference.predictor import load
from chromagan_jax.utils import paths
from tools import cli, table

SIZE = 256  # px, of the scored squares
COLUMNS = {  # name in the scores -> heading, format
    'kind': ('kind', '{}'),
    'images': ('photographs', '{:.0f}'),
    'psnr': ('PSNR, dB', '{:.2f}'),
    'psnr_gray': ('of gray', '{:.2f}'),
    'ab_mae': ('ab error', '{:.1f}'),
    'ab_mae_gray': ('of gray', '{:.1f}'),
    'colorfulness': ('colorfulness', '{:.1f}'),
    'colorfulness_original': ('of originals', '{:.1f}'),
    'blotchy_share': ('blotchy', '{:.1%}'),
}


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    return cli.exit_code('kinds', lambda: print_scores(parse(argv)))


def print_scores(args: argparse.Namespace) -> None:
    """Prints the table of kinds."""
    print(table.grid(list(scores(load(args.workdir), args.val)), COLUMNS))


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The flags; raises UserError if one is missing."""
    parser = cli.Parser('python -m tools.kinds [FLAG...]', __doc__)
    parser.add_argument('--workdir', default=None, help='of a run (the released weights)')
    parser.add_argument('--val', default='', help='folder with one folder of photographs a kind')
    args = parser.parse_args(argv)
    if not args.val:
        raise UserError('--val is missing: add --val=DIR.')
    return args


def scores(trained: Trained, val: str) -> Iterator[dict[str, Any]]:
    """The metrics of each kind, and of all photographs ('all', last).

    Raises:
        UserError: if `val` holds no folders, or a folder no photographs.
    """
    folder = paths.expand(val)
    kinds = sorted(path for path in folder.glob('*') if path.is_dir())
    if not kinds:
        raise UserError(f'{val} holds no folders: give each kind of photograph its own.')
    mesh = sharding.make_mesh()
    config = copy.deepcopy(trained.config)
    config.eval.size = SIZE
    step = evaluator.make_eval_step('', make_model(config, mesh), mesh)
    measured = []
    for kind in kinds:
        inputs = evaluation_input(config, make_source(str(kind), 'validation'), mesh)
        measured.append(evaluator.image_scores(step, trained.variables, inputs, mesh))
        yield _row(kind.name, measured[-1])
    yield _row('all', {n: np.concatenate([m[n] for m in measured]) for n in measured[0]})


def _row(kind: str, values: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The metrics of the photographs of a kind, from those of each photograph."""
    found = evaluator.aggregate_metrics(values)
    figures = {name.removeprefix('eval/'): value for name, value in found.items()}
    return table.finite({'kind': kind, **figures})


if __name__ == '__main__':
    logging.set_verbosity(logging.ERROR)
    sys.exit(main(sys.argv[1:]))
