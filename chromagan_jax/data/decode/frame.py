"""What a reader returns, and the error of a file that cannot be read."""

import io
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image

MAX_PIXELS = 200_000_000  # of an image, unless the caller says otherwise

# Why a record is unreadable: its file cannot be read, is no image, or is a damaged image.
KINDS = ('no_file', 'no_image', 'damaged')

# Libraries have no common exception for damaged files. Pillow, tifffile, OpenCV and the plug-ins
# raise these; RuntimeError is the base of the errors of imagecodecs, rawpy and pillow-heif.
DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    EOFError,
    AssertionError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,  # of a GIF
)


class UnreadableImage(ValueError):  # noqa: N818
    """A record is not a complete image; the message is a short reason without the file name."""

    def __init__(self, reason: str, kind: str = 'damaged'):
        """`kind` is one of `KINDS`."""
        super().__init__(reason, kind)
        self.reason = reason
        self.kind = kind

    def __str__(self) -> str:
        return self.reason


class Frame(NamedTuple):
    """An image as it is stored, before its colours are converted and it is turned upright."""

    samples: np.ndarray  # (H, W) gray, or (H, W, C); uint8 or uint16, black at 0
    space: str  # gray, rgb, cmyk (0: no ink) or lab (ICC version 4: a*, b* with an offset of 128)
    alpha: np.ndarray | None = None  # (H, W), the type of `samples`; 0 is transparent
    profile: bytes | None = None  # ICC
    gamma: float | None = None  # stored value = light ** gamma; None: that of sRGB
    orientation: int = 1  # of EXIF
    frames: int = 1  # pages of a TIFF, frames of an animation


def open_file(source: bytes | Path) -> BinaryIO:
    """A file object of the bytes of a file, or of its path."""
    return source.open('rb') if isinstance(source, Path) else io.BytesIO(source)


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raises UnreadableImage for an image without pixels or with too many."""
    if width <= 0 or height <= 0:
        raise UnreadableImage('it has no pixels')
    if width * height > max_pixels:
        raise UnreadableImage(
            f'{width} x {height} px are more than {max_pixels / 1e6:g} megapixels'
        )


def damage(error: BaseException) -> UnreadableImage:
    """The exception of a library as one of ours."""
    words = ' '.join(str(error).split())[:200] or type(error).__name__
    return UnreadableImage(f'it is damaged ({words})')
