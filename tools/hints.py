"""Scores a generator that takes colour hints with 0, 1, 5, ... random hints a photograph.

    python -m tools.hints --workdir=runs/mine --val=HELD_OUT_DIR

A hint reveals the mean colour of 5 x 5 px at a random point, as a user's hint does. The points of
a photograph are the same in every run, and more hints contain the fewer ones. Prints one JSON line
for each number of hints: the means of PSNR (dB) and of the ab error (CIELAB units).

Exit codes: 0 done; 1 user error; 75 stopped by Ctrl-C.
"""

import argparse
import copy
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from chromagan_jax import sharding
from chromagan_jax.data.inputs import evaluation_input
from chromagan_jax.data.sources import make_source
from chromagan_jax.errors import UserError
from chromagan_jax.evaluation import measures, metrics
from chromagan_jax.gan import model as model_lib
from chromagan_jax.gan.released import Trained
from chromagan_jax.inference.hints import RADIUS
from chromagan_jax.inference.predictor import load
from tools import cli, table

COUNTS = (0, 1, 5, 10, 50)  # hints
SIZE = 256  # px, of the scored squares
PART = 'hints'  # the submodule
COLUMNS = {  # name in the scores -> heading, format
    'hints': ('hints a photograph', '{}'),
    'psnr': ('PSNR, dB', '{:.2f}'),
    'ab_mae': ('ab error', '{:.2f}'),
}
SECTION = """\
## Hints

The part `{part}` ({parameters:,} parameters) carries known colours to pixels with similar features.
{training}

{images:,} {scored_on}, at {size} px, by `python -m tools.hints` before
the rounding to float16:

{scores}

"""


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    return cli.exit_code('hints', lambda: print_scores(parse(argv)))


def print_scores(args: argparse.Namespace) -> None:
    """Prints a line of JSON for each number of hints."""
    for row in score(load(args.workdir), args.val, args.counts, args.size):
        print(json.dumps(row), flush=True)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The flags; raises UserError if one is missing or impossible."""
    parser = cli.Parser('python -m tools.hints [FLAG...]', __doc__)
    add = parser.add_argument
    add('--workdir', default=None, help='workdir of a run (the released weights)')
    add('--val', default='', help='photographs to score on, as eval.source takes them')
    counts = ','.join(map(str, COUNTS))
    add('--counts', default=counts, help=f'numbers of hints ({counts})')
    add('--size', default=SIZE, type=int, help=f'px, side of the centre crops ({SIZE})')
    args = parser.parse_args(argv)
    if not args.val:
        raise UserError('--val is missing: add --val=DIR.')
    if args.size < measures.SSIM_WINDOW:
        raise UserError(f'--size must be {measures.SSIM_WINDOW} or more, not {args.size}.')
    counts = args.counts.split(',')
    if not all(count.isdecimal() for count in counts):
        raise UserError(f'--counts must be comma-separated integers, not {args.counts!r}.')
    args.counts = [int(count) for count in counts]
    return args


def score(
    trained: Trained, val: str, counts: Sequence[int] = COUNTS, size: int = SIZE
) -> list[dict[str, float]]:
    """The mean scores for each number of hints: 'hints', 'psnr', 'ab_mae' and 'images'.

    Raises:
        UserError: if the generator takes no hints, or a source is missing.
    """
    if not getattr(trained.generator, 'hints', False):
        raise UserError(f'{trained.title} takes no hints: train one with generator.hints.')
    config, source = copy.deepcopy(trained.config), make_source(val, 'validation')
    config.eval.size, config.eval.batch_size = size, 8  # attention to hints takes 70 MB an image

    @jax.jit
    def measured(condition: jax.Array, target: jax.Array) -> dict[str, jax.Array]:
        prediction = model_lib.predict(trained.generator, trained.variables, condition)
        return metrics.image_metrics(condition[..., :1], target, prediction)

    values: dict[int, list[np.ndarray]] = {count: [] for count in counts}
    for batch in evaluation_input(
        config, source, sharding.make_mesh(devices=jax.local_devices()[:1])
    ):
        counted = batch['mask'] > 0
        for count in counts:
            planes = np.stack(
                [
                    reveal(target, count, max(index, 0))  # -1: a row that does not count
                    for target, index in zip(batch['target'], batch['index'], strict=True)
                ]
            )
            condition = np.concatenate([batch['condition'], planes], axis=-1)
            found = measured(condition, batch['target'])
            rows = np.stack([found['psnr'], found['ab_mae']], axis=-1)
            values[count].append(rows[counted])
    means = {count: np.concatenate(rows).mean(0) for count, rows in values.items()}
    number = sum(len(rows) for rows in values[counts[0]])
    return [
        table.finite(
            {'hints': count, 'psnr': float(psnr), 'ab_mae': float(error), 'images': number}
        )
        for count, (psnr, error) in means.items()
    ]


def section(
    variables: Any, rows: Sequence[Mapping[str, Any]], training: str, scored_on: str
) -> str:
    """The model card's section about hints.

    Args:
        variables: of the generator.
        rows: result of `score`.
        training: sentences about the training of the submodule, Markdown.
        scored_on: what the scored photographs are called, of `held_out.phrase`.
    """
    return SECTION.format(
        part=PART,
        parameters=table.count(variables['params'][PART]),
        training=training,
        images=rows[0]['images'],
        scored_on=scored_on,
        size=SIZE,
        scores=table.grid(rows, COLUMNS),
    )


def reveal(target: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The planes of `count` hints at random points.

    Args:
        target: (H, W, 2).
        count: of the hints.
        seed: of the points.

    Returns:
        (H, W, 3) float32: the mean target of each square, and a mask; 0 elsewhere.
    """
    height, width = target.shape[:2]
    points = np.random.default_rng(seed).random((count, 2))  # a prefix of more points
    planes = np.zeros((height, width, 3), np.float32)
    for row, column in (points * (height, width)).astype(int):
        square = (
            slice(max(row - RADIUS, 0), row + RADIUS + 1),
            slice(max(column - RADIUS, 0), column + RADIUS + 1),
        )
        planes[square] = *target[square].mean(axis=(0, 1)), 1
    return planes


if __name__ == '__main__':
    logging.set_verbosity(logging.ERROR)
    sys.exit(main(sys.argv[1:]))
