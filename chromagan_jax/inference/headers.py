"""Sizes of photographs, read from their headers, and the sizes that formats can hold."""

import warnings
from pathlib import Path

from PIL import Image

from chromagan_jax.data.decode import UnreadableImage, formats
from chromagan_jax.data.decode.frame import DAMAGE

# px a side: libjpeg's JPEG_MAX_DIMENSION, libwebp's WEBP_MAX_DIMENSION.
_MAX_SIDE = {'JPEG': 65500, 'WebP': 16383}
_PLUGINS = ('JPEG', 'PNG', 'WEBP', 'GIF', 'BMP', 'PPM', 'TIFF')  # those that only read a header
_PIXELS_PER_BYTE = 10  # of the other kinds, when little is lost


def size(path: Path) -> tuple[int, int] | None:
    """The two sides of a photograph, px, as they are stored; None if its header does not say."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # a large image is no attack here
            with path.open('rb') as file, Image.open(file, formats=_PLUGINS) as image:
                return image.size
    except DAMAGE:  # reported when it is read
        return None


def pixels(path: Path, most: int) -> int:
    """The pixels of a photograph, or an estimate by the size of its file, up to `most`."""
    sides = size(path)
    if sides is not None:
        return min(sides[0] * sides[1], most)
    try:
        return min(path.stat().st_size * _PIXELS_PER_BYTE, most)
    except OSError:  # reported when it is read
        return 0


def is_limited(suffix: str) -> bool:
    """Whether files of a suffix cannot have any size."""
    return formats.OF_SUFFIX[suffix.lower()].name in _MAX_SIDE


def check_side(side: int, suffix: str) -> None:
    """Raises UnreadableImage if a file of that suffix cannot be `side` px wide or high."""
    kind = formats.OF_SUFFIX[suffix.lower()].name
    if side > (most := _MAX_SIDE.get(kind, side)):
        raise UnreadableImage(
            f'{kind} holds at most {most} px a side, not {side}: choose --format=png or tif'
        )
