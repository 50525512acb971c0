"""The decoder of image files, one for training, prepare and colorize.

    formats.py   which kinds of files there are, and what reads each
    pillow.py    JPEG, PNG, WebP, GIF, BMP, PNM, JPEG 2000, AVIF, HEIF, JPEG XL
    tiff.py      TIFF
    raw.py       raw files of cameras
    profiles.py  stored colours to sRGB
    process.py   decoders that run in a process of their own

A reader returns a `Frame`, the image as it is stored. `read` turns it into upright sRGB pixels.
All failures raise `UnreadableImage`.
"""

from pathlib import Path
from pickle import PickleBuffer
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from chromagan_jax.data.decode import pillow, process, profiles, raw, tiff
from chromagan_jax.data.decode.formats import BY_NAME, FORMATS, HEAD, RAW, Format, identify
from chromagan_jax.data.decode.frame import (
    KINDS,
    MAX_PIXELS,
    Frame,
    UnreadableImage,
    open_file,
)
from chromagan_jax.data.decode.resize import crop_square, resize, resize_short

__all__ = [
    'KINDS',
    'MAX_PIXELS',
    'Photo',
    'UnreadableImage',
    'count_pages',
    'crop_square',
    'decode',
    'original_size',
    'read',
    'resize',
    'resize_short',
]

_UPRIGHT = {  # by EXIF orientation, from stored rows and columns
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x.swapaxes(0, 1)[:, ::-1],
    7: lambda x: x.swapaxes(0, 1)[::-1, ::-1],
    8: lambda x: x.swapaxes(0, 1)[::-1],
}
_ON_ITS_SIDE = (5, 6, 7, 8)  # orientations that swap width and height


class Photo(NamedTuple):
    """A decoded image, upright, in sRGB."""

    pixels: np.ndarray  # (H, W) gray, (H, W, 3) RGB or (H, W, 4) RGBA; uint8 or uint16
    frames: int = 1  # pages of a TIFF, frames of an animation


def decode(data: bytes, min_side: int = 0, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decodes an image file to sRGB with transparency on white.

    Args:
        data: the whole file.
        min_side: short side that the caller needs, px. A JPEG at least twice as large is decoded
            at 1/2, 1/4 or 1/8 of its size, which is faster; its short side is never less than
            this. 0 decodes at full size.
        max_pixels: larger images are rejected before memory is allocated.

    Returns:
        (H, W, 3) uint8 sRGB.

    Raises:
        UnreadableImage: the bytes are truncated, damaged, too large or no image.
    """
    kind = _kind(data)
    if kind.name == 'JPEG':
        pixels = pillow.read_plain_jpeg(data, kind, max_pixels, min_side)
        if pixels is not None:
            return pixels
    pixels = _photo(data, kind, min_side=min_side, max_pixels=max_pixels).pixels
    if pixels.ndim == 2:
        return cv2.merge([profiles.to_8_bits(pixels)] * 3)
    return pixels if pixels.shape[2] == 3 else _on_white(pixels)


def read(
    source: bytes | Path, max_pixels: int = MAX_PIXELS, page: int = 0, deep: bool = False
) -> Photo:
    """Decodes an image file to sRGB and keeps gray, transparency and, of gray, the bits.

    Args:
        source: the whole file, or its path, which takes less memory: only a page of a TIFF is read.
        max_pixels: larger images are rejected before memory is allocated.
        page: of a TIFF, from 0; of an animation only the first frame is read.
        deep: whether colour and transparency keep more than 8 bits, too.

    Raises:
        UnreadableImage: the bytes are truncated, damaged, too large or no image.
        OSError: the file cannot be read.
    """
    with open_file(source) as file:
        kind = _kind(file.read(HEAD))
    return _photo(source, kind, page=page, max_pixels=max_pixels, deep=deep)


def count_pages(source: bytes | Path) -> int:
    """The number of pages of a TIFF; 1 for another file, and if damage hides it.

    Args:
        source: the whole file, or its path, of which only the directories are read.

    Raises:
        OSError: the file cannot be read.
    """
    with open_file(source) as file:
        kind = identify(file.read(HEAD))
    return tiff.count_pages(source) if kind and kind.name == 'TIFF' else 1


def original_size(data: bytes, pixels: np.ndarray) -> tuple[int, int]:
    """Width and height of a file, upright, whose `decode` may have reduced it to `pixels`."""
    kind = _kind(data)
    if kind.name != 'JPEG':
        return pixels.shape[1], pixels.shape[0]
    image, _ = pillow.open_image(data, kind, MAX_PIXELS)
    return image.size[::-1] if pillow.orientation(image) in _ON_ITS_SIDE else image.size


def _kind(data: bytes) -> Format:
    kind = identify(data)
    if not data:
        raise UnreadableImage('the file is empty', 'no_image')
    if kind is None:
        *names, last = (kind.name for kind in FORMATS)
        raise UnreadableImage(f'not a {", ".join(names)} or {last} image', 'no_image')
    return kind


def _photo(source: bytes | Path, kind: Format, **options: Any) -> Photo:
    if not kind.apart or (kind.reader == 'tiff' and tiff.is_plain(source)):
        return _finish(source, kind.name, **options)
    if isinstance(source, Path):
        return process.call(_finish, source.stat().st_size, source, kind.name, **options)
    return process.call(_finish, len(source), PickleBuffer(source), kind.name, **options)


def _finish(
    source: bytes | np.ndarray | Path,
    name: str,
    max_pixels: int,
    min_side: int = 0,
    page: int = 0,
    deep: bool = False,
) -> Photo:
    """Reads a file of a kind, converts it to sRGB and turns it upright."""
    file = source if isinstance(source, Path) else bytes(source)
    frame = _frame(file, BY_NAME[name], max_pixels, min_side, page)
    colour, alpha = profiles.to_srgb(frame), frame.alpha
    if colour.ndim == 3 or alpha is not None:
        eight = not deep or colour.dtype == np.uint8
        colour = profiles.to_8_bits(colour) if eight else colour
        alpha = profiles.to_8_bits(alpha) if eight and alpha is not None else alpha
    if alpha is not None:
        planes = [colour] * 3 if colour.ndim == 2 else cv2.split(colour)
        colour = cv2.merge([*planes, alpha])
    turn = _UPRIGHT.get(frame.orientation)
    return Photo(np.ascontiguousarray(turn(colour) if turn else colour), frame.frames)


def _frame(source: bytes | Path, kind: Format, max_pixels: int, min_side: int, page: int) -> Frame:
    if kind.reader == 'tiff':
        try:
            return tiff.read(source, page, max_pixels)
        except tiff.CameraRaw:
            kind = BY_NAME[RAW]
    data = source.read_bytes() if isinstance(source, Path) else source
    if kind.reader == 'raw':
        return raw.read(data, max_pixels)
    return pillow.read(data, kind, max_pixels, min_side)


def _on_white(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 4) uint8 to (H, W, 3)."""
    image = Image.fromarray(pixels)
    white = Image.new('RGB', image.size, 'white')
    return np.asarray(Image.composite(image.convert('RGB'), white, image.getchannel('A')))
