"""Results as the bytes of image files: pixels, sRGB tag, resolution, metadata and the note.

PNG has an sRGB chunk, the other kinds a profile of sRGB.
"""

import binascii
import functools
import io
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import tifffile
from PIL import Image, ImageCms

from chromagan_jax.data.decode import formats
from chromagan_jax.inference import exif as exif_lib
from chromagan_jax.inference import metadata, photos
from chromagan_jax.inference.metadata import Metadata

_DEEP = ('PNG', 'TIFF')
_PNG_HEAD = 33  # bytes of a PNG before its second chunk
_METRE = 0.0254  # of an inch


class Encoding(NamedTuple):
    """How results are written."""

    quality: int = 95  # of JPEG and WebP, 1 to 100
    depth: int = 8  # bits; 16: as many as the photograph has, in PNG and TIFF
    metadata: bool = True  # whether EXIF, IPTC, XMP and resolution are kept
    keep_date: bool = False  # whether the file has the date of the photograph's


DEFAULT = Encoding()


def kind(target: Path) -> str:
    """The kind of file that a result becomes, by its suffix."""
    return formats.OF_SUFFIX[target.suffix.lower()].name


def is_deep(target: Path, pixels: np.ndarray, encoding: Encoding) -> bool:
    """Whether a result has 16 bits."""
    return encoding.depth == 16 and pixels.dtype == np.uint16 and kind(target) in _DEEP


def encode(
    pixels: np.ndarray,
    target: Path,
    source: Path,
    kept: Metadata = metadata.NONE,
    encoding: Encoding = DEFAULT,
) -> bytes:
    """The content of the file of a result.

    Args:
        pixels: (H, W, 3) or (H, W, 4), uint8, or uint16 for PNG and TIFF. JPEG has transparent
            parts on white.
        target: its suffix chooses the kind of file.
        source: the photograph, which the note names.
        kept: metadata of the photograph.
        encoding: quality.
    """
    name = kind(target)
    if name == 'JPEG':
        kept = metadata.for_jpeg(kept)
    noted = metadata.with_note(kept, source, pixels.shape[1], pixels.shape[0])
    if name == 'PNG':
        return _png(pixels, noted)
    if name == 'TIFF':
        return _tiff(pixels, noted)
    data = io.BytesIO()
    options = {
        'quality': encoding.quality,
        'exif': b'Exif\0\0' + exif_lib.to_bytes(noted.exif),
        'xmp': noted.xmp,
        'icc_profile': srgb_profile(),
    }
    if name == 'WebP':
        Image.fromarray(pixels).save(data, 'WEBP', **options)
        return data.getvalue()
    if noted.dpi:
        options['dpi'] = noted.dpi
    Image.fromarray(photos.on_white(pixels)).save(data, 'JPEG', subsampling=0, **options)
    return _with_iptc(data.getvalue(), noted.iptc)


def _with_iptc(jpeg: bytes, iptc: bytes) -> bytes:
    """A JPEG with an APP13 segment behind its JFIF header."""
    if not iptc:
        return jpeg
    content = metadata.resources(iptc)
    segment = struct.pack('>HH', 0xFFED, 2 + len(content)) + content
    head = 4 + struct.unpack_from('>H', jpeg, 4)[0]
    return jpeg[:head] + segment + jpeg[head:]


def _png(pixels: np.ndarray, kept: Metadata) -> bytes:
    order = cv2.COLOR_RGBA2BGRA if pixels.shape[2] == 4 else cv2.COLOR_RGB2BGR
    # Faster than Pillow and little larger: photographs repeat little but runs of pixels.
    options = {
        cv2.IMWRITE_PNG_COMPRESSION: 2,
        cv2.IMWRITE_PNG_STRATEGY: cv2.IMWRITE_PNG_STRATEGY_RLE,
        cv2.IMWRITE_PNG_FILTER: cv2.IMWRITE_PNG_FILTER_PAETH,
    }
    parameters = [number for option in options.items() for number in option]
    data = cv2.imencode('.png', cv2.cvtColor(pixels, order), parameters)[1].tobytes()
    chunks = _chunk(b'eXIf', exif_lib.to_bytes(kept.exif)) + _chunk(b'sRGB', b'\0')
    if kept.dpi:
        across, down = (round(value / _METRE) for value in kept.dpi)
        chunks += _chunk(b'pHYs', struct.pack('>LLB', across, down, 1))
    if kept.xmp:
        chunks += _chunk(b'iTXt', b'XML:com.adobe.xmp\0\0\0\0\0' + kept.xmp)
    if kept.iptc:  # as ImageMagick and exiv2 write it
        block = metadata.resources(kept.iptc).removeprefix(b'Photoshop 3.0\0')
        text = f'\niptc\n{len(block):8}\n'.encode() + binascii.hexlify(block) + b'\n'
        chunks += _chunk(b'zTXt', b'Raw profile type iptc\0\0' + zlib.compress(text))
    return data[:_PNG_HEAD] + chunks + data[_PNG_HEAD:]


def _chunk(name: bytes, content: bytes) -> bytes:
    body = name + content
    return struct.pack('>L', len(content)) + body + struct.pack('>L', zlib.crc32(body))


def _tiff(pixels: np.ndarray, kept: Metadata) -> bytes:
    """Deflated strips of a TIFF, with directories of EXIF and GPS behind them."""
    exif = kept.exif
    tags = {tag: value for tag, value in exif.main.items() if tag not in _WRITTEN}
    if kept.xmp:
        tags[exif_lib.XMP] = exif_lib.Tag(1, len(kept.xmp), kept.xmp)
    if kept.iptc:
        tags[exif_lib.IPTC] = exif_lib.Tag(exif_lib.UNDEFINED, len(kept.iptc), kept.iptc)
    parts = {exif_lib.EXIF: exif.exif, exif_lib.GPS: exif.gps}
    parts = {tag: part for tag, part in parts.items() if part}
    tags |= {tag + 1: exif.tag(exif_lib.LONG, 0) for tag in parts}  # tifffile leaves out pointers
    file = io.BytesIO()
    with tifffile.TiffWriter(file, byteorder=exif.order) as writer:
        writer.write(
            pixels,
            photometric='rgb',
            extrasamples=['unassalpha'] if pixels.shape[2] == 4 else None,
            compression='zlib',
            predictor=True,
            rowsperstrip=64,
            description=None,
            metadata=None,
            software=False,
            iccprofile=srgb_profile(),
            resolution=kept.dpi,
            resolutionunit='INCH' if kept.dpi else None,
            extratags=[(tag, v.type, v.number, v.data, True) for tag, v in sorted(tags.items())],
        )
    for tag, part in parts.items():
        file.seek(0, io.SEEK_END)
        if file.tell() % 2:
            file.write(b'\0')
        offset = file.tell()
        file.write(exif_lib.directory_to_bytes(part, exif.order, offset))
        file.seek(0)
        with tifffile.TiffFile(file) as written:
            place = written.pages.first.tags[tag + 1].offset
        file.seek(place)
        file.write(struct.pack(exif.order + 'HHLL', tag, exif_lib.LONG, 1, offset))
    return file.getvalue()


_WRITTEN = (
    exif_lib.X_RESOLUTION,
    exif_lib.Y_RESOLUTION,
    exif_lib.RESOLUTION_UNIT,
    exif_lib.ORIENTATION,
)


@functools.cache
def srgb_profile() -> bytes:
    """An ICC profile of sRGB, the same in every run."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes())
    data[24:36] = struct.pack('>6H', 2000, 1, 1, 0, 0, 0)  # otherwise the time of its making
    data[84:100] = bytes(16)  # a hash with that time
    return bytes(data)
