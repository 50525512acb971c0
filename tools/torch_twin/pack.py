"""Makes a pack from folders of photographs.

    python -m tools.torch_twin.pack PHOTOS --output=packs/train

Reads all images below the folders. It reduces an image to a short side of --side px, crops the long
side to 1.4 times the short side, and encodes the image as AVIF. Images are never enlarged. Images
that cannot be decoded or have a short side below 120 px are left out. The result is OUTPUT.bin and
OUTPUT.npy, described in tools/torch_twin/data.py. The AVIF encoder needs Pillow 11.3.

Exit codes: 0 done; 1 user error; 75 stopped by Ctrl-C.
"""

import io
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, features

from chromagan_jax.data.decode import UnreadableImage, decode
from chromagan_jax.data.listing import Ignored, image_names
from chromagan_jax.errors import UserError
from chromagan_jax.utils.files import writing
from tools import cli
from tools.torch_twin.data import parallel_map

MIN_SIDE = 120  # px
MAX_ASPECT = 1.4  # long side over short side


def main(argv: Sequence[str]) -> None:
    """Runs the command; raises UserError for a wrong flag or missing photographs."""
    parser = cli.Parser('python -m tools.torch_twin.pack [FLAG...] PHOTOS...', __doc__)
    add = parser.add_argument
    add('folders', nargs='+', help='folders of photographs, searched recursively')
    add('--output', required=True, help='path of the pack, without a suffix')
    add('--side', type=int, default=192, help='px, short side (%(default)s)')
    add('--quality', type=int, default=50, help='quality of AVIF, 0 to 100 (%(default)s)')
    add('--workers', type=int, default=2, help='processes (%(default)s)')
    args = parser.parse_args(argv)
    if not features.check('avif'):
        raise UserError('This Pillow cannot write AVIF: pip install "pillow>=11.3".')
    paths = find(args.folders)
    encode_one = partial(encode, side=args.side, quality=args.quality)
    images = parallel_map(encode_one, paths, args.workers, chunk=16)
    with writing(args.output):
        kept, skipped = write(args.output, images)
    print(f'{args.output}: {kept} photographs, {skipped["small"]} left out as small, ', end='')
    print(f'{skipped["unreadable"]} as unreadable')


def find(folders: Sequence[str]) -> list[Path]:
    """The images below the folders, sorted; raises UserError if there are none."""
    for folder in folders:
        if not Path(folder).is_dir():
            raise UserError(f'{folder} is no folder: name one that holds photographs.')
    paths = sorted(
        Path(folder, name) for folder in folders for name in image_names(folder, Ignored())
    )
    if not paths:
        raise UserError(f'{", ".join(folders)}: no photographs.')
    return paths


def encode(path: Path, side: int, quality: int) -> bytes | str:
    """The AVIF file of an image, or the reason to leave it out: 'small' or 'unreadable'."""
    try:
        image = Image.fromarray(decode(path.read_bytes()))
    except (UnreadableImage, OSError):
        return 'unreadable'
    short = min(image.size)
    if short < MIN_SIDE:
        return 'small'
    if short > side:
        width, height = (max(1, round(length * side / short)) for length in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    longest = int(MAX_ASPECT * min(image.size))
    width, height = (min(length, longest) for length in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    buffer = io.BytesIO()
    image.crop((left, top, left + width, top + height)).save(
        buffer, 'AVIF', quality=quality, speed=9, max_threads=1
    )
    return buffer.getvalue()


def write(name: str, images: Iterator[bytes | str]) -> tuple[int, Counter[str]]:
    """Writes a pack; returns how many images it holds and how many were left out, by reason.

    Raises UserError if no image is left.
    """
    offsets, skipped = [0], Counter[str]()
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    with Path(f'{name}.bin').open('wb') as file:
        for image in images:
            if isinstance(image, str):
                skipped[image] += 1
            else:
                file.write(image)
                offsets.append(offsets[-1] + len(image))
    np.save(f'{name}.npy', np.array(offsets, np.int64))
    if len(offsets) < 2:
        raise UserError(f'No photograph has a short side of {MIN_SIDE} px: {dict(skipped)}.')
    return len(offsets) - 1, skipped


if __name__ == '__main__':
    sys.exit(cli.exit_code('pack', lambda: main(sys.argv[1:])))
