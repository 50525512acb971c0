"""The flags of the training command."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import accumulate
from typing import Any, NamedTuple

import torch

from chromagan_jax.errors import UserError
from tools import cli
from tools.torch_twin.networks import VARIANTS


class Stage(NamedTuple):
    """Part of a run with one size of crops."""

    size: int  # px
    batch: int  # images a step
    end: float  # completed share of the run at the end of the stage


@dataclass(frozen=True)
class Options:
    """The flags; `add_flags` describes them."""

    packs: list[str]
    val: str
    encoder: str
    output: str
    seconds: float | None
    steps: int | None
    stages: str
    variant: str
    init_from: str | None
    learning_rate: float
    encoder_ratio: float
    chroma: float
    l1_weight: float
    l1_min: float
    l1_max: float
    patch_weight: float
    perceptual_weight: float
    device: str
    workers: int
    checkpoint_seconds: float

    def that_define_the_run(self) -> dict[str, Any]:
        """The options that must not change when a run resumes."""
        free = ('output', 'device', 'workers', 'checkpoint_seconds')
        return {name: value for name, value in asdict(self).items() if name not in free}


def parse(argv: Sequence[str], description: str | None) -> Options:
    """The flags; raises UserError if one is missing or impossible."""
    parser = cli.Parser('python -m tools.torch_twin.train [FLAG...]', description)
    add_flags(parser)
    args = parser.parse_args(argv)
    options = Options(**{field.name: getattr(args, field.name) for field in fields(Options)})
    parse_stages(options.stages)
    if options.device == 'cuda' and not torch.cuda.is_available():
        raise UserError('PyTorch finds no GPU: --device cpu.')
    if (options.seconds or options.steps or 0) <= 0:
        raise UserError('--seconds or --steps must be above 0.')
    return options


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declares the flags; the defaults are those of the released weights."""
    add = parser.add_argument
    add('--packs', nargs='+', required=True, help='packs to train on, NAME of NAME.bin')
    add('--val', required=True, help='pack to score on')
    add('--encoder', required=True, help='.pth file of EfficientNet-Lite')
    add('--output', required=True, help='folder of the run')
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument('--seconds', type=float, help='length of the run, seconds')
    length.add_argument('--steps', type=int, help='length of the run, steps')
    add('--stages', default='128:128:0.4,192:64:0.6', help='SIZE:BATCH:SHARE,... (%(default)s)')
    add(
        '--variant',
        default='lite0',
        choices=sorted(VARIANTS),
        help='variant of EfficientNet-Lite (%(default)s)',
    )
    add('--init_from', help='generator.safetensors to start from')
    add(
        '--learning_rate',
        type=float,
        default=4e-4,
        help='learning rate of the decoder; discriminators: half (%(default)s)',
    )
    add(
        '--encoder_ratio',
        type=float,
        default=0.15,
        help="learning rate of the encoder, relative to the decoder's (%(default)s)",
    )
    add(
        '--chroma',
        type=float,
        default=0.88,
        help='wanted mean chroma of fakes over real (%(default)s)',
    )
    add('--l1_weight', type=float, default=30.0, help='weight of L1 at the start (%(default)s)')
    add('--l1_min', type=float, default=8.0, help='lower limit of that weight (%(default)s)')
    add('--l1_max', type=float, default=60.0, help='upper limit of that weight (%(default)s)')
    add('--patch_weight', type=float, default=0.2, help='weight of the PatchGAN (%(default)s)')
    add(
        '--perceptual_weight',
        type=float,
        default=2.0,
        help='weight of the perceptual distance (%(default)s)',
    )
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    add(
        '--device',
        default=device,
        choices=('cuda', 'cpu'),
        help='device of the run (a GPU if there is one)',
    )
    add('--workers', type=int, default=2, help='processes that decode the packs (%(default)s)')
    add(
        '--checkpoint_seconds',
        type=float,
        default=120.0,
        help='time between checkpoints (%(default)s)',
    )


def parse_stages(text: str) -> list[Stage]:
    """'128:128:0.4,192:64:0.6' -> stages; raises UserError for another syntax."""
    try:
        rows = [part.split(':') for part in text.split(',')]
        sizes, batches, shares = zip(*[(int(s), int(b), float(x)) for s, b, x in rows], strict=True)
    except ValueError:
        raise UserError(
            f'--stages {text}: write SIZE:BATCH:SHARE for each stage, as in 128:128:0.4,192:64:0.6.'
        ) from None
    if any(size < 32 or size % 2 for size in sizes) or min(batches) < 1 or min(shares) <= 0:
        raise UserError(
            f'--stages {text}: sizes are even and at least 32, batches at least 1, shares above 0.'
        )
    if abs(sum(shares) - 1) > 1e-6:
        raise UserError(f'--stages {text}: the shares add up to {sum(shares):g} instead of 1.')
    ends = [round(end, 6) for end in accumulate(shares)]
    return [Stage(*row) for row in zip(sizes, batches, ends, strict=True)]
