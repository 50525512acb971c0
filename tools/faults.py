"""Measures typical faults of colorized photographs: tints, red patches, specks, soft edges.

    python -m tools.faults --val=HELD_OUT_DIR

Centre squares of 256 px are colorized and compared with the originals in Lab. The colours are those
that the file of a colorized photograph holds: inside sRGB, with 8 bits a channel. FAULTS defines
the measures. Prints a Markdown table with a column for the colorized images and one for the
originals. --sizes and --saturation are those of tools.options, once each.

Exit codes: 0 done; 1 user error; 75 stopped by Ctrl-C.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from chromagan_jax import color, sharding
from chromagan_jax.data.inputs import evaluation_input
from chromagan_jax.data.sources import make_source
from chromagan_jax.errors import UserError
from chromagan_jax.gan.model import make_model
from chromagan_jax.inference.gamut import lab_to_rgb_of_lightness
from tools import cli, options, table
from tools.release import parse_sizes

Array = jax.Array
SIZE = options.SIZE  # px
COLUMNS = {
    'fault': ('measure', '{}'),
    'made': ('colorized', '{:.2f}'),
    'original': ('originals', '{:.2f}'),
}


class Fault(NamedTuple):
    """A measure of one fault. Its figure is the mean of `value` over the pixels in `where`."""

    text: str
    value: Callable[[Array], Array]  # Lab (B, H, W, 3) -> (B, H, W)
    where: Callable[[Array], Array]  # of the original: Lab (B, H, W, 3) -> (B, H, W), bool


def chroma(lab: Array) -> Array:
    """(B, H, W, 3) -> (B, H, W), the distance of a* and b* from gray."""
    return jnp.hypot(lab[..., 1], lab[..., 2])


def gradient(x: Array) -> Array:
    """Norm of the forward differences over all channels, (B, H, W, C) -> (B, H, W)."""
    down = jnp.diff(x, axis=1, append=x[:, -1:])
    right = jnp.diff(x, axis=2, append=x[:, :, -1:])
    return jnp.sqrt((down**2 + right**2).sum(axis=-1))


def specks(lab: Array) -> Array:
    """Distance of ab from their Gaussian mean (sigma 2 px), (B, H, W, 3) -> (B, H, W)."""
    ab = lab[..., 1:]
    padded = jnp.pad(ab, ((0, 0), (6, 6), (6, 6), (0, 0)), mode='edge')
    blurred = jax.vmap(lambda image: dm_pix.gaussian_blur(image, 2.0, 13, padding='VALID'))(padded)
    return jnp.linalg.norm(ab - blurred, axis=-1)


def edges(lab: Array) -> Array:
    """The twentieth of the pixels of each image with the largest gradient of ab."""
    steep = gradient(lab[..., 1:])
    return steep >= jnp.quantile(steep, 0.95, axis=(1, 2), keepdims=True)


def neutral(lab: Array, least: float, most: float) -> Array:
    """Pixels of chroma below 8 whose L* lies between `least` and `most`."""
    light = lab[..., 0]
    return (chroma(lab) < 8) & (light >= least) & (light < most)


def in_a_file(lab: np.ndarray) -> np.ndarray:
    """The colours of an image that `colorize` writes, (B, H, W, 3) Lab in and out, float32."""
    planes = lab_to_rgb_of_lightness(*np.moveaxis(np.asarray(lab, np.float32), -1, 0))
    rgb = (np.stack(planes, axis=-1) * 255).round() / np.float32(255)
    return color.rgb_to_lab(rgb)


def everywhere(lab: Array) -> Array:
    """All pixels."""
    return jnp.ones(lab.shape[:-1], bool)


FAULTS = (
    Fault('chroma of neutral lights (L* of 85 or more)', chroma, lambda x: neutral(x, 85, 101)),
    Fault('chroma of neutral middle tones', chroma, lambda x: neutral(x, 30, 85)),
    Fault(
        'blue of neutral darks (L* below 30; mean of -b* where it is positive)',
        lambda x: jnp.maximum(0, -x[..., 2]),
        lambda x: neutral(x, 0, 30),
    ),
    Fault(
        '% of the neutral pixels that are purple (a* above 6, b* below -6)',
        lambda x: 100.0 * ((x[..., 1] > 6) & (x[..., 2] < -6)),
        lambda x: neutral(x, 0, 101),
    ),
    Fault(
        '% of the pixels with a* below 12 that are red (a* above 25)',
        lambda x: 100.0 * (x[..., 1] > 25),
        lambda x: x[..., 1] < 12,
    ),
    Fault('specks: distance of ab from their mean around a pixel', specks, everywhere),
    Fault('gradient of ab at the edges of colours', lambda x: gradient(x[..., 1:]), edges),
)


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    return cli.exit_code('faults', lambda: print_faults(parse(argv)))


def print_faults(args: argparse.Namespace) -> None:
    """Prints a row for each network and size."""
    print(table.grid(measure(args), COLUMNS))


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The flags; raises UserError if one is missing or impossible."""
    parser = cli.Parser('python -m tools.faults [FLAG...]', __doc__)
    add = parser.add_argument
    add('--workdir', default=None, help='of a run (the released weights)')
    add('--val', default='', help='photographs to measure on, as eval.source takes them')
    add('--sizes', default='256', help='px, of the inputs that are averaged (256)')
    add('--saturation', default=1.0, type=float, help='multiplies ab (1)')
    args = parser.parse_args(argv)
    if not args.val:
        raise UserError('--val is missing: add --val=DIR.')
    args.sizes = parse_sizes(args.sizes)
    return args


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each of FAULTS, with 'fault', 'made' and 'original'."""
    trained, config, mesh = *options.load_at(args.workdir, SIZE), sharding.make_mesh()
    source, model = make_source(args.val, 'validation'), make_model(config, mesh)
    generator = options.Averaged(model.generator, args.sizes, args.saturation)

    @jax.jit
    def predict(variables: Any, condition: Array) -> Array:
        return color.to_lab(condition, generator.apply(variables, condition, train=False))

    @jax.jit
    def sums(made: Array, batch: Any) -> Array:
        """(FAULTS, 3): of the colorized images, of the originals, and the number of pixels."""
        images = (made, color.to_lab(batch['condition'], batch['target']))
        counts = batch['mask'][:, None, None]
        found = []
        for fault in FAULTS:
            where = fault.where(images[1]) * counts
            found.append([*((fault.value(x) * where).sum() for x in images), where.sum()])
        return jnp.array(found)

    totals = np.zeros((len(FAULTS), 3))
    for batch in evaluation_input(config, source, mesh):
        made = in_a_file(np.asarray(predict(trained.variables, batch['condition'])))
        totals += np.asarray(sums(made, batch))
    return [
        {'fault': fault.text, 'made': made / count, 'original': original / count}
        for fault, (made, original, count) in zip(FAULTS, totals, strict=True)
        if count
    ]


if __name__ == '__main__':
    logging.set_verbosity(logging.ERROR)
    sys.exit(main(sys.argv[1:]))
