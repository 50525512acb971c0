"""Scores options of colorize: sizes of the network's input, and saturation.

    python -m tools.options --val=HELD_OUT_DIR --features=SQUEEZENET --sizes=256 --sizes=192,384 \
        --saturation=1 --saturation=1.1

The metrics are those of evaluations, on centre squares of 256 px. Each input of the network is the
square at one size. The ab of all sizes of one --sizes are averaged and multiplied by --saturation.
Prints one JSON line for each pair, and first one for the gray images.

`colorize` does three things differently, so the figures are close to those of its files but not the
same. It resizes the photograph by area and takes the lightness of the result; here the lightness of
the square itself is resized linearly. It resizes ab bicubically; here that is linear. It makes
colours outside sRGB paler until they lie inside, at the same lightness; here, as in evaluations,
their RGB is clipped, which changes the lightness.

Exit codes: 0 done; 1 user error; 75 stopped by Ctrl-C.
"""

import argparse
import copy
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import logging
from flax import linen as nn

from chromagan_jax import sharding
from chromagan_jax.config import Config
from chromagan_jax.data.inputs import evaluation_input
from chromagan_jax.data.sources import make_source
from chromagan_jax.errors import UserError
from chromagan_jax.evaluation import evaluator, metrics
from chromagan_jax.gan.model import make_model
from chromagan_jax.gan.released import Trained
from chromagan_jax.inference.predictor import load
from tools import cli
from tools.release import parse_sizes

SIZE = 256  # px, of the scored squares


class Averaged(NamedTuple):
    """A generator of ab that sees each image at several sizes. It replaces a Linen module."""

    generator: nn.Module
    sizes: Sequence[int]  # px
    saturation: float  # multiplies ab

    def apply(self, variables: Any, condition: jax.Array, **options: Any) -> jax.Array:
        """(B, H, W, 1) -> ab / 110, (B, H, W, 2)."""
        b, h, w, _ = condition.shape
        found = []
        for size in self.sizes:
            seen = jax.image.resize(condition, (b, size, size, 1), 'linear')
            ab: Any = self.generator.apply(variables, seen, **options)
            found.append(jax.image.resize(ab, (b, h, w, 2), 'linear'))
        return self.saturation * jnp.stack(found).mean(axis=0)


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    return cli.exit_code('options', lambda: print_scores(parse(argv)))


def print_scores(args: argparse.Namespace) -> None:
    """Prints a line of JSON for each option."""
    for row in scores(args):
        print(json.dumps(row), flush=True)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The flags; raises UserError if one is missing or impossible."""
    parser = cli.Parser('python -m tools.options [FLAG...]', __doc__)
    add = parser.add_argument
    add('--workdir', default=None, help='of a run (the released weights)')
    add('--val', default='', help='photographs to score on, as eval.source takes them')
    add('--features', default='', help="SqueezeNet's weights, for Frechet distances (none)")
    text = 'px, comma-separated, of the inputs that are averaged; may be repeated (256)'
    add('--sizes', action='append', help=text)
    add('--saturation', action='append', type=float, help='may be repeated (1)')
    args = parser.parse_args(argv)
    if not args.val:
        raise UserError('--val is missing: add --val=DIR.')
    args.sizes = [parse_sizes(sizes) for sizes in args.sizes or ['256']]
    args.saturation = args.saturation or [1.0]
    return args


def load_at(workdir: str | None, size: int) -> tuple[Trained, Config]:
    """A generator of ab, and its config with evaluations at `size` px; None: the released one.

    Raises:
        UserError: if it predicts RGB.
    """
    trained = load(workdir)
    config = copy.deepcopy(trained.config)
    if config.color_space != 'lab':
        raise UserError(f'{trained.title} predicts RGB: choose a run with color_space=lab.')
    config.eval.size = size
    return trained, config


def scores(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The metrics of the gray images, then of each pair of sizes and saturation."""
    trained, config, mesh = *load_at(args.workdir, SIZE), sharding.make_mesh()
    source, model = make_source(args.val, 'validation'), make_model(config, mesh)
    first = True
    for sizes in args.sizes:
        for saturation in args.saturation:
            averaged: Any = Averaged(model.generator, sizes, saturation)
            step = evaluator.make_eval_step(args.features, model._replace(generator=averaged), mesh)
            values = evaluator.image_scores(
                step, trained.variables, evaluation_input(config, source, mesh), mesh
            )
            found = evaluator.aggregate_metrics(values)
            row = {name.removeprefix('eval/'): value for name, value in found.items()}
            if first:
                yield {'sizes': 'gray', **metrics.gray_figures(row)}
            first = False
            yield {'sizes': ','.join(map(str, sizes)), 'saturation': saturation, **row}


if __name__ == '__main__':
    logging.set_verbosity(logging.ERROR)
    sys.exit(main(sys.argv[1:]))
