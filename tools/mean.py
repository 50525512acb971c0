"""Makes the mean of the weights of several generators (model soup).

    python -m tools.mean --output=runs/mean chromagan_jax/weights runs/a runs/b
    python -m tools.mean --output=runs/mean --weights=0.6,0.4 chromagan_jax/weights runs/a

A RUN is a workdir, of which the newest checkpoint is taken, or the folder of a release. The mean of
runs that started from the same weights often has smaller errors than each of them (Wortsman et al.
2022, arXiv:2203.05482). Writes the weights in float16 to --output, a folder that --workdir of
`colorize` and of the tools takes.

Exit codes: 0 done; 1 user error; 75 stopped by Ctrl-C.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from chromagan_jax.config import to_dict
from chromagan_jax.errors import UserError
from chromagan_jax.gan import released
from chromagan_jax.inference.predictor import load
from tools import cli, record


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    return cli.exit_code('mean', lambda: write(parse(argv)))


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The flags; raises UserError if one is missing or impossible."""
    parser = cli.Parser('python -m tools.mean --output=DIR [--weights=W,W...] RUN...', __doc__)
    parser.add_argument('runs', nargs='*', metavar='RUN', help='workdir or folder of a release')
    parser.add_argument('--output', default='', help='folder of the mean')
    parser.add_argument('--weights', default='', help='a number for each RUN (equal ones)')
    args = parser.parse_args(argv)
    if len(args.runs) < 2:
        raise UserError('A mean needs two runs or more: name their workdirs.')
    if not args.output:
        raise UserError('--output is missing: add --output=DIR.')
    try:
        given = [float(weight) for weight in args.weights.split(',')] if args.weights else None
    except ValueError:
        given = []
    args.weights = [1.0] * len(args.runs) if given is None else given
    if len(args.weights) != len(args.runs) or not all(0 < w < np.inf for w in args.weights):
        raise UserError(f'--weights must be {len(args.runs)} positive numbers, one for each run.')
    return args


def write(args: argparse.Namespace) -> None:
    """Writes the mean.

    Raises:
        UserError: if a run cannot be read, the networks differ, or --output is a run's workdir.
    """
    record.check_is_no_run(Path(args.output))
    trained = [load(run) for run in args.runs]
    for run, other in zip(args.runs[1:], trained[1:], strict=True):
        if shapes(other.variables) != shapes(trained[0].variables):
            raise UserError(f'The networks of {args.runs[0]} and {run} differ: they have no mean.')
    variables = mean([one.variables for one in trained], args.weights)
    shares = zip(args.runs, args.weights, strict=True)
    described = {
        'config': to_dict(trained[0].config),
        'step': trained[0].step,
        'mean_of': [{'run': Path(run).name, 'weight': weight} for run, weight in shares],
    }
    released.save(Path(args.output), variables, described)


def shapes(variables: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of a generator's variables by their paths."""
    return {name: leaf.shape for name, leaf in released.named(variables).items()}


def mean(trees: Sequence[Any], weights: Sequence[float]) -> Any:
    """The weighted mean of trees of arrays, float32; equal values stay equal."""
    shares = np.array(weights) / np.sum(weights)

    def average(*leaves: Any) -> np.ndarray:
        exact = [np.asarray(leaf, np.float64) for leaf in leaves]
        first = exact[0]
        differences = [share * (one - first) for share, one in zip(shares, exact, strict=True)]
        return np.asarray(first + sum(differences), np.float32)

    return jax.tree.map(average, *trees)


if __name__ == '__main__':
    logging.set_verbosity(logging.ERROR)
    sys.exit(main(sys.argv[1:]))
