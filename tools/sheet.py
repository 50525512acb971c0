"""Makes a figure of photographs and their colorized versions, side by side.

    python -m tools.sheet --output=sheet.jpg PATH...
    python -m tools.sheet --output=sheet.jpg --run=ours=runs/a --run=theirs=runs/b PATH...
    python -m tools.sheet --output=sheet.jpg --whole --cell=320 PATH...

A PATH is a photograph, a folder or another source that data.source takes (such as sample). Of a
source --each photographs are shown, evenly spaced. A row shows a photograph: gray, one column for
each --run NAME=WORKDIR (without --run, the released weights), and the original. Each generator gets
the photographs at the size of its evaluation. A cell shows the centre square at --cell px. With
--whole each column shows a whole photograph, --cell px high: gray, and below it one row for each
generator, without the original.

Exit codes: 0 done; 1 user error; 75 stopped by Ctrl-C.
"""

import argparse
import io
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import logging
from PIL import Image

from chromagan_jax import color
from chromagan_jax.data.decode import UnreadableImage, crop_square, decode, resize
from chromagan_jax.data.sources import make_source
from chromagan_jax.data.transforms import read_image
from chromagan_jax.errors import UserError
from chromagan_jax.gan.released import Trained
from chromagan_jax.inference.predictor import colorize, load
from chromagan_jax.utils import files, writers
from tools import cli
from tools.table import GAP


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    return cli.exit_code('sheet', lambda: write(parse(argv)))


def write(args: argparse.Namespace) -> None:
    """Draws the sheet and writes it."""
    images = [image for path in args.paths for image in read(path, args.each)]
    sheet = draw(images, networks(args.run), args.cell, args.whole)
    files.write_atomically(Path(args.output), sheet)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The flags; raises UserError if one is missing or impossible."""
    parser = cli.Parser('python -m tools.sheet --output=FILE [FLAG...] PATH...', __doc__)
    parser.add_argument('paths', nargs='*', help='photographs and folders of them, or sample')
    parser.add_argument('--output', default='', help='figure to write, a .jpg')
    parser.add_argument(
        '--run',
        default=[],
        action='append',
        help='column of a run, NAME=WORKDIR; may be given several times',
    )
    parser.add_argument(
        '--each', default=24, type=int, help='number of photographs of each source (24)'
    )
    parser.add_argument('--cell', default=128, type=int, help='px, side of a cell (128)')
    text = 'whole photographs side by side, without the originals'
    parser.add_argument('--whole', action='store_true', help=text)
    args = parser.parse_args(argv)
    if not args.paths:
        raise UserError('No photograph is named: add a file or a folder.')
    if Path(args.output).suffix != '.jpg':
        raise UserError(f'--output must be a .jpg file, not {args.output!r}.')
    for name in ('each', 'cell'):
        if getattr(args, name) < 1:
            raise UserError(f'--{name} must be 1 or more, not {getattr(args, name)}.')
    return args


def read(path: str, each: int) -> list[np.ndarray]:
    """The photograph in a file, or up to `each` of a source; (H, W, 3) uint8 each."""
    try:
        if Path(path).is_file():
            return [decode(Path(path).read_bytes())]
        source = make_source(path, 'train')
        count = min(each, len(source))
        return [read_image(source, i * len(source) // count)[0] for i in range(count)]
    except (OSError, UnreadableImage) as error:
        raise UserError(f'{path} cannot be read ({error}): name another.') from error


def networks(runs: Sequence[str]) -> dict[str, Trained]:
    """The generators, by the names of their columns."""
    if not runs:
        return {'colorized': load()}
    workdirs: dict[str, str] = {}
    for run in runs:
        name, equals, workdir = run.partition('=')
        if not equals or not name:
            raise UserError(f'--run must be NAME=WORKDIR, not {run!r}.')
        if name in workdirs or name in ('gray', 'original'):
            raise UserError(f'There is a column {name!r} already: choose another NAME for --run.')
        workdirs[name] = workdir
    return {name: load(workdir) for name, workdir in workdirs.items()}


def draw(
    images: Sequence[np.ndarray], networks: dict[str, Trained], cell: int, whole: bool = False
) -> bytes:
    """The figure as the bytes of a JPEG."""
    columns = {'gray': [gray(image) for image in images]}
    for name, trained in networks.items():
        columns[name] = colorize(images, trained.generator, trained.variables, trained.size)
    if whole:
        return jpeg(side_by_side(list(columns.values()), cell))
    columns['original'] = list(images)
    rows = [[middle(image, cell) for image in row] for row in zip(*columns.values(), strict=True)]
    # Blocks of rows side by side make the figure a little wider than high.
    across = math.ceil((len(rows) / len(columns)) ** 0.5)
    down = -(-len(rows) // across)
    rows += [[np.full_like(rows[0][0], 255)] * len(columns)] * (across * down - len(rows))
    blocks = [stacked(rows[i * down : (i + 1) * down], list(columns)) for i in range(across)]
    return jpeg(np.concatenate(blocks, axis=1))


def side_by_side(rows: Sequence[Sequence[np.ndarray]], height: int) -> np.ndarray:
    """Rows of whole photographs, each resized to `height` px, (H, W, 3) uint8."""
    gap = ((0, GAP), (0, GAP), (0, 0))
    lines = []
    for row in rows:
        widths = [round(image.shape[1] * height / image.shape[0]) for image in row]
        shown = [resize(image, height, width) for image, width in zip(row, widths, strict=True)]
        padded = [np.pad(image, gap, constant_values=255) for image in shown]
        lines.append(np.concatenate(padded, axis=1))
    return np.concatenate(lines)[:-GAP, :-GAP]


def jpeg(pixels: np.ndarray) -> bytes:
    """The bytes of a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, 'JPEG', quality=88)
    return buffer.getvalue()


def stacked(rows: Sequence[Sequence[np.ndarray]], labels: Sequence[str]) -> np.ndarray:
    """Rows of images below one line of labels, (H, W, 3) uint8."""
    gap = ((0, GAP), (0, 0), (0, 0))
    padded = [[np.pad(image, gap, constant_values=255) for image in row] for row in rows]
    columns = [np.concatenate(column) for column in zip(*padded, strict=True)]
    return writers.sample_grid([columns], labels)


def gray(photograph: np.ndarray) -> np.ndarray:
    """The gray image of the same lightness, (H, W, 3) uint8."""
    lightness, _ = color.encode(photograph[None], 'lab')
    rgb = color.to_rgb(lightness, color.gray_target(lightness, 2))
    return (np.asarray(rgb[0]) * 255).round().astype(np.uint8)


def middle(image: np.ndarray, cell: int) -> np.ndarray:
    """The centre square of (H, W, 3), resized to (cell, cell, 3)."""
    return resize(crop_square(image, min(image.shape[:2])), cell, cell)


if __name__ == '__main__':
    logging.set_verbosity(logging.ERROR)
    sys.exit(main(sys.argv[1:]))
