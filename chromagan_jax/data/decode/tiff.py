"""Reading of TIFF: structure by tifffile, compressed data by imagecodecs.

They read more than Pillow and OpenCV and keep the bits (`docs/files.md` has the comparison).
"""

import contextlib
import itertools
import logging
import math
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from chromagan_jax.data.decode.frame import (
    DAMAGE,
    Frame,
    UnreadableImage,
    check_size,
    damage,
    open_file,
)
from chromagan_jax.data.decode.pillow import to_unassociated

_WHITE_IS_ZERO, _PALETTE, _SEPARATED, _YCBCR, _LAB, _ICC_LAB = 0, 3, 5, 6, 8, 9  # photometric
_SENSOR = (32803, 34892)  # colour filter array, linear raw
_DNG_VERSION, _ORIENTATION, _PROFILE = 50706, 274, 34675  # tags
_OLD_JPEG = 6  # a compression
_LOSSLESS = (5, 8, 32773, 32946)  # LZW, Deflate, PackBits, Deflate
_ASSOCIATED, _UNASSOCIATED = 1, 2  # alpha among the extra samples
_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 4: 1, 5: 4, 6: 3, 8: 3, 9: 3}  # samples of a photometric
_SPACES = {2: 'rgb', 3: 'rgb', 5: 'cmyk', 6: 'rgb', 8: 'lab', 9: 'lab'}
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_MAX_PAGES = 10_000
_WHITES = tuple(2**bits - 1 for bits in (8, 10, 12, 14, 16))
_HIGHLIGHT = 16.0

logging.getLogger('tifffile').setLevel(logging.CRITICAL)  # it logs every odd tag


class CameraRaw(Exception):  # noqa: N818
    """A TIFF holds the values of a camera's sensor; its other images are previews."""


def read(source: bytes | Path, page: int, max_pixels: int) -> Frame:
    """Reads a page of a TIFF.

    Args:
        source: the whole file, or its path, of which only the page is read.
        page: from 0; thumbnails and masks do not count.
        max_pixels: larger images are rejected before memory is allocated.

    Raises:
        CameraRaw: it is a camera's file, such as DNG or NEF.
        UnreadableImage: it is damaged, or of a kind that is not read.
    """
    try:
        with _opened(source) as tiff:
            pages = _pages(tiff)
            if page >= len(pages):
                raise UnreadableImage(f'it has {len(pages)} pages, not {page + 1}')
            return _read_page(pages[page], source, len(pages), max_pixels)
    except (UnreadableImage, CameraRaw):
        raise
    except DAMAGE as error:
        raise damage(error) from error


@contextlib.contextmanager
def _opened(source: bytes | Path) -> Iterator[tifffile.TiffFile]:
    # The name is one for all, since tifffile reads some kinds by their suffix.
    with open_file(source) as file, tifffile.TiffFile(file, name='a.tif') as tiff:
        yield tiff


def directories(source: bytes | Path, page: int) -> tuple[int, ...]:
    """The offsets of the directories that describe a page, its own as the last; () in camera raw.

    An image below or behind a thumbnail is also described by the directory of the thumbnail.

    Args:
        source: the whole file, or its path.
        page: as of `read`.

    Raises:
        Exception: one of `DAMAGE`.
    """
    with _opened(source) as tiff:
        try:
            pages = _pages(tiff)
        except CameraRaw:
            return ()
        own: Any = pages[page]
        above: Any = own
        if own.is_subifd:
            above = tiff.pages[own.treeindex[0]]
        elif len(pages) == 1:
            above = tiff.pages[0]
        return above.offset, own.offset


def count_pages(source: bytes | Path) -> int:
    """The number of pages; 1 if damage hides it."""
    try:
        with _opened(source) as tiff:
            return len(_pages(tiff))
    except (*DAMAGE, CameraRaw):  # UnreadableImage is a ValueError
        return 1


def is_plain(source: bytes | Path) -> bool:
    """Whether no page is compressed, so that no decoder of a library can crash on it."""
    try:
        with _opened(source) as tiff:
            plain = _COLOURS.keys() - {_YCBCR}  # libtiff reads it
            return all(page.compression == 1 and page.photometric in plain for page in _pages(tiff))
    except (*DAMAGE, CameraRaw):
        return False


def _pages(tiff: tifffile.TiffFile) -> list[Any]:
    """The images of a file without thumbnails and masks; raises CameraRaw."""
    top: list[Any] = list(itertools.islice(tiff.pages, _MAX_PAGES))
    below = [sub for page in top for sub in itertools.islice(page.pages or (), _MAX_PAGES)]
    for page in (*top, *below):
        if page.photometric in _SENSOR or _DNG_VERSION in page.tags:
            raise CameraRaw
    for candidates in (top, below):
        if whole := [page for page in candidates if not page.subfiletype & (_REDUCED | _MASK)]:
            return whole
    if not top:
        raise UnreadableImage('it holds no image')
    return top


def _read_page(page: Any, source: bytes | Path, pages: int, max_pixels: int) -> Frame:
    check_size(page.imagewidth, page.imagelength, max_pixels)
    photometric, colours = page.photometric, _COLOURS.get(page.photometric)
    if page.nbytes > 16 * max_pixels:
        raise UnreadableImage(f'{page.nbytes / 1e9:.3g} GB of samples are too many')
    spans = zip(page.dataoffsets, page.databytecounts, strict=False)
    if any(offset + count > page.parent.filehandle.size for offset, count in spans):
        raise UnreadableImage('its data end early')
    known = page.compression in tifffile.TIFF.DECOMPRESSORS and page.compression != _OLD_JPEG
    subsampled = photometric == _YCBCR and page.subsampling not in (None, (1, 1))
    if colours is None or not known or (subsampled and not _is_jpeg(page)):
        return _read_by_libtiff(page, source, pages)
    values = _values_by_libtiff(page, source) if _is_common(page) else None
    values = _values(page) if values is None else values
    if values.shape[2] < colours:
        raise UnreadableImage(f'{values.shape[2]} samples a pixel are too few')
    full = _full_scale(values, page)
    alpha = _alpha(page, colours, values, full)
    samples = values[..., 0] if colours == 1 else values[..., :colours]
    samples = _of_palette(samples, page) if photometric == _PALETTE else _scaled(samples, full)
    if photometric == _WHITE_IS_ZERO:
        samples = ~samples
    if photometric == _YCBCR and not _is_jpeg(page):
        size = samples.shape[1], samples.shape[0]
        image = Image.frombytes('YCbCr', size, samples.tobytes())
        samples = np.asarray(image.convert('RGB'))
    if photometric == _LAB:  # a*, b* are signed
        samples = _from_signed_lab(samples)
    elif photometric == _ICC_LAB and samples.dtype == np.uint16:  # of ICC version 2
        samples = _scaled(np.minimum(samples, 65280), 65280)
    if alpha is not None and page.extrasamples and _ASSOCIATED in page.extrasamples:
        samples = to_unassociated(samples, alpha)
    profile = page.tags.valueof(_PROFILE)
    return Frame(
        np.ascontiguousarray(samples),
        _SPACES.get(photometric, 'gray'),
        alpha,
        bytes(profile) if isinstance(profile, bytes) else None,
        orientation=_orientation(page),
        frames=pages,
    )


def _read_by_libtiff(page: Any, source: bytes | Path, pages: int) -> Frame:
    """Colours and compressions that tifffile does not decode, in 8 bits."""
    try:
        rgba = _by_libtiff(source, index=page.index, asrgb=True)
    except DAMAGE as error:
        what = f'photometric {page.photometric:d} and compression {page.compression:d}'
        raise UnreadableImage(f'TIFF of {what} is not read') from error
    # libtiff mirrors an image by its orientation and does not turn it.
    turned = 5 if _orientation(page) > 4 else 1
    return Frame(np.ascontiguousarray(rgba[..., :3]), 'rgb', orientation=turned, frames=pages)


def _is_common(page: Any) -> bool:
    """Whether libtiff, which is faster, reads the same values as tifffile."""
    return (
        page.compression in _LOSSLESS
        and page.photometric in (0, 1, 2)
        and page.bitspersample in (8, 16)
        and page.sampleformat == 1
        and page.predictor in (1, 2)
        and not (page.is_tiled or page.is_subifd or page.is_volumetric)
        and (page.planarconfig == 1 or page.samplesperpixel == 1)
    )


def _by_libtiff(source: bytes | Path, **options: Any) -> np.ndarray:
    """What libtiff decodes; of a path it reads what it needs."""
    if isinstance(source, bytes):
        return imagecodecs.tiff_decode(source, **options)
    with source.open('rb') as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return imagecodecs.tiff_decode(mapped, **options)


def _values_by_libtiff(page: Any, source: bytes | Path) -> np.ndarray | None:
    """As `_values`; None if libtiff rejects it."""
    try:
        values = _by_libtiff(source, index=page.index)
    except DAMAGE:
        return None
    shape = (page.imagelength, page.imagewidth, page.samplesperpixel)
    return values.reshape(shape) if values.size == math.prod(shape) else None


def _is_jpeg(page: Any) -> bool:
    return page.compression in (7, 33007, 34892)  # tifffile converts these to RGB


def _orientation(page: Any) -> int:
    value = page.tags.valueof(_ORIENTATION, default=1)
    value = value[0] if isinstance(value, bytes) and value else value
    return value if value in range(1, 9) else 1


def _values(page: Any) -> np.ndarray:
    """(H, W, C) of the type that the file has."""
    separate, _, height, width, together = page.shaped
    values = page.asarray(maxworkers=1).reshape(page.shaped)[:, 0]  # the first slice of a volume
    if values.dtype.kind == 'i' and page.bitspersample <= 16 and values.min(initial=0) < 0:
        # 8 bits are unsigned with a wrong label, 16 bits have black at the smallest value.
        unsigned = values.view(f'u{values.dtype.itemsize}')
        values = unsigned if unsigned.dtype == np.uint8 else unsigned ^ np.uint16(32768)
    return np.moveaxis(values, 0, 2).reshape(height, width, separate * together)


def _full_scale(values: np.ndarray, page: Any) -> float:
    """The value of white.

    That of integers of up to 24 bits is the largest of their bits. For 32 bits and floats it is the
    smallest of `_WHITES` that no sample exceeds, else the largest of the type. A float image whose
    white is 1 may have highlights of up to 16.
    """
    kind, bits = values.dtype.kind, page.bitspersample
    if kind == 'b':
        return 1.0
    if kind in 'ui' and bits < 32:
        return 2.0 ** (bits - (kind == 'i')) - 1
    peak = float(np.nanmax(values, initial=0))
    if kind == 'f' and peak <= _HIGHLIGHT:
        return 1.0
    top = peak if kind == 'f' else float(np.iinfo(values.dtype).max)
    return next((float(white) for white in _WHITES if peak <= white), top)


def _scaled(values: np.ndarray, full: float) -> np.ndarray:
    """To uint8, or uint16 if the values have more than 8 bits; black is 0 and white the maximum."""
    kind = values.dtype.kind
    if kind in 'ub' and full <= 255 and values.dtype.itemsize == 1:
        if full == 255:
            return values
        table = np.rint(np.arange(256).clip(0, full) * (255 / full)).astype(np.uint8)
        return table[values.astype(np.uint8)]
    if values.dtype == np.uint16:
        if full == 65535:
            return values
        table = np.rint(np.arange(65536).clip(0, full) * (65535 / full)).astype(np.uint16)
        return table[values]
    result = np.empty(values.shape, np.uint16)
    for row, out in zip(values, result, strict=True):
        light = np.nan_to_num(row.astype(np.float64), posinf=full, neginf=0)
        out[...] = np.rint((light * (65535 / full)).clip(0, 65535))
    return result


def _alpha(page: Any, colours: int, values: np.ndarray, full: float) -> np.ndarray | None:
    """(H, W) of the first extra sample that is transparency; others, as infrared, do not count."""
    # A file that does not say what its one extra sample is means transparency.
    kinds = page.extrasamples or (_UNASSOCIATED,) * (values.shape[2] == colours + 1)
    for index, kind in enumerate(kinds):
        if kind in (_ASSOCIATED, _UNASSOCIATED) and colours + index < values.shape[2]:
            return np.ascontiguousarray(_scaled(values[..., colours + index], full))
    return None


def _of_palette(indices: np.ndarray, page: Any) -> np.ndarray:
    """(H, W, 3) uint8."""
    colours = np.asarray(page.colormap)
    if colours.max(initial=0) > 255:  # some writers store 8 bits
        colours = colours >> 8
    return colours.astype(np.uint8).T[np.minimum(indices, colours.shape[1] - 1)]


def _from_signed_lab(samples: np.ndarray) -> np.ndarray:
    """CIELAB of a TIFF to that of ICC version 4, of the same type."""
    if samples.dtype == np.uint8:
        return samples ^ np.array([0, 128, 128], np.uint8)
    signed = samples[..., 1:].view(np.int16) / 256
    ab = np.rint((signed + 128) * 257).clip(0, 65535).astype(np.uint16)
    return np.concatenate([samples[..., :1], ab], axis=-1)
