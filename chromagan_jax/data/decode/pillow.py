"""Reading of the kinds that Pillow and its plug-ins decode."""

import functools
import io
import struct
import zlib
from typing import Any

import cv2
import imagecodecs
import numpy as np
import simplejpeg
from PIL import Image

from chromagan_jax.data.decode.formats import Format, install_hint, is_available
from chromagan_jax.data.decode.frame import DAMAGE, Frame, UnreadableImage, check_size, damage
from chromagan_jax.data.decode.profiles import rgb_to_srgb

_ORIENTATION = 0x0112  # the EXIF tag
_PLUGINS = {
    **{'JPEG': 'JPEG', 'PNG': 'PNG', 'WebP': 'WEBP', 'GIF': 'GIF', 'BMP': 'BMP', 'PNM': 'PPM'},
    **{'TIFF': 'TIFF', 'JPEG 2000': 'JPEG2000', 'AVIF': 'AVIF', 'HEIF': 'HEIF', 'JPEG XL': 'JXL'},
}
_PNG_TEXT = (b'tEXt', b'zTXt', b'iTXt', b'iCCP')
_OFFSET = np.array([0, 128, 128], np.uint8)  # signed a*, b* to those with an offset
_MAX_PROFILE = 2**24  # bytes; those of presses have some 3 MB


def open_image(
    data: bytes, kind: Format, max_pixels: int, min_side: int = 0
) -> tuple[Image.Image, bytes | None]:
    """Opens an image and reads its header.

    Args:
        data: the whole file.
        kind: its kind.
        max_pixels: larger images are rejected before memory is allocated.
        min_side: as in `decode.decode`; affects JPEG only.

    Returns:
        The image, not loaded, and its ICC profile.
    """
    profile = None
    if kind.name == 'PNG':
        data, profile = _without_text(data)
    # Image.open would apply Pillow's own bound of the size, which is one for all of a program.
    factory = _plugin(kind)
    try:
        image = factory(io.BytesIO(data), '')
        check_size(image.width, image.height, max_pixels)
        if min_side:
            image.draft(None, (min_side, min_side))
    except UnreadableImage:
        raise
    except DAMAGE as error:
        raise damage(error) from error
    if not isinstance(image.info.get('icc_profile', b''), bytes):
        image.info.pop('icc_profile')
    return image, profile or image.info.get('icc_profile') or None


@functools.cache
def _plugin(kind: Format) -> Any:
    """Pillow's function that opens a kind of file."""
    if not is_available(kind):
        raise UnreadableImage(f'{kind.name} is not read without an extra: {install_hint(kind)}')
    if kind.name == 'HEIF':
        import pillow_heif

        pillow_heif.register_heif_opener(thumbnails=False)
    elif kind.name == 'JPEG XL':
        import pillow_jxl  # noqa: F401
    Image.init()
    return Image.OPEN[_PLUGINS[kind.name]][0]


def read(data: bytes, kind: Format, max_pixels: int, min_side: int = 0) -> Frame:
    """Reads the first frame of a file; raises UnreadableImage."""
    image, profile = open_image(data, kind, max_pixels, min_side)
    frames = count_frames(image)
    try:
        if (plain := _read_plain_png(image, data) if kind.name == 'PNG' else None) is not None:
            space = 'gray' if plain.ndim == 2 else 'rgb'
            return Frame(plain, space, profile=profile, gamma=_gamma(image, data))
        if kind.name == 'PNG' and data[24:25] == b'\x10' and image.mode in ('RGB', 'RGBA', 'LA'):
            samples, alpha, space = _read_deep_png(data)
        elif kind.name == 'BMP' and data[30:34] == b'\2\0\0\0':
            samples, alpha, space = _read_rle4_bmp(data)
        else:
            image.load()
            check_size(image.width, image.height, max_pixels)
            samples, alpha, space = _samples(image)
    except UnreadableImage:
        raise
    except DAMAGE as error:
        raise damage(error) from error
    return Frame(samples, space, alpha, profile, _gamma(image, data), orientation(image), frames)


def read_plain_jpeg(data: bytes, kind: Format, max_pixels: int, min_side: int) -> Any:
    """(H, W, 3) uint8 sRGB of an upright JPEG; None if `read` has to read it.

    simplejpeg uses the same library as Pillow but avoids its copies. On any error Pillow decides
    whether the file is damaged.
    """
    image, profile = open_image(data, kind, max_pixels, min_side)
    if image.mode != 'RGB' or orientation(image) != 1:
        return None
    try:
        pixels = simplejpeg.decode_jpeg(data, min_height=image.height, min_width=image.width)
    except ValueError:
        return None
    return rgb_to_srgb(pixels, profile)


def _read_plain_png(image: Image.Image, data: bytes) -> np.ndarray | None:
    """(H, W) or (H, W, 3) uint8 of an upright PNG of 8 bits; None if Pillow has to read it.

    libpng is faster without Pillow's copies. On any error Pillow decides whether the file is
    damaged. EXIF data may follow the pixels, which Pillow would decode to find them.
    """
    if image.mode not in ('L', 'RGB') or data[24] != 8 or image.has_transparency_data:
        return None
    if any(name in data for name in (b'acTL', b'eXIf', b'Raw profile type exi')):
        return None
    try:
        return imagecodecs.png_decode(data)
    except (RuntimeError, ValueError):
        return None


def count_frames(image: Image.Image) -> int:
    """The number of frames of an animation; 1 if damage hides it.

    The previews that cameras append to a JPEG (MPO) do not count.
    """
    if image.format == 'MPO':
        return 1
    try:
        return getattr(image, 'n_frames', 1)
    except DAMAGE:  # the first frame is still readable
        return 1


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except DAMAGE:  # the EXIF data are damaged, the image is not
        return 1
    return value if value in range(1, 9) else 1


def _gamma(image: Image.Image, data: bytes) -> float | None:
    """Of a PNG that has it and nothing that goes before it (PNG, third edition, 4.3)."""
    gamma = image.info.get('gamma', 0)
    if image.format != 'PNG' or 'srgb' in image.info or not 0.05 < gamma < 20:
        return None
    return None if b'cICP' in data[: data.find(b'IDAT')] else gamma


def _samples(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None, str]:
    """Samples, alpha and space of a loaded image of any mode."""
    mode = image.mode
    if mode[0] == 'I' or mode == 'F':
        return (*deep_gray(image), 'gray')
    if image.has_transparency_data:
        gray = mode in ('1', 'L', 'LA', 'La')
        image = image.convert('RGBA') if not gray or mode == 'La' else image.convert('LA')
        *colour, alpha = image.split()
        merged = colour[0] if gray else Image.merge('RGB', colour)
        return np.asarray(merged), np.asarray(alpha), 'gray' if gray else 'rgb'
    if mode in ('1', 'L'):
        return np.asarray(image.convert('L')), None, 'gray'
    if mode == 'CMYK':
        return np.asarray(image), None, 'cmyk'
    if mode == 'LAB':  # Pillow has a*, b* without an offset
        return np.asarray(image) ^ _OFFSET, None, 'lab'
    return np.asarray(image.convert('RGB')), None, 'rgb'


def deep_gray(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """(H, W) uint16 and alpha of the modes 'I', 'I;16', 'I;16B' (16 bits) and 'F' (0 to 1)."""
    values = np.asarray(image)
    if image.mode == 'F':
        values = np.nan_to_num(values) * 65535
    samples = np.clip(values, 0, 65535).astype(np.uint16)
    key = image.info.get('transparency')
    if not isinstance(key, int):
        return samples, None
    return samples, np.where(samples == key, 0, 65535).astype(np.uint16)


def _read_deep_png(data: bytes) -> tuple[np.ndarray, np.ndarray | None, str]:
    """As `_samples`, of a PNG with 16 bits that Pillow would reduce to 8."""
    slim, _ = _without_text(data)
    values = imagecodecs.png_decode(slim)
    colours = 1 if values.ndim == 2 or values.shape[2] == 2 else 3
    if values.ndim == 2:
        return values, None, 'gray'
    alpha = values[..., colours] if values.shape[2] > colours else None
    samples = values[..., 0] if colours == 1 else values[..., :3]
    return samples, alpha, 'gray' if colours == 1 else 'rgb'


def _read_rle4_bmp(data: bytes) -> tuple[np.ndarray, np.ndarray | None, str]:
    """As `_samples`, of a BMP of 4 bits with run lengths, which Pillow reads wrong (as of 13.0)."""
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if values is None:
        raise UnreadableImage('it is damaged (OpenCV does not read it)')
    return values, None, 'rgb'


def _without_text(data: bytes) -> tuple[bytes, bytes | None]:
    """A PNG without texts and profile, which Pillow bounds, and the profile."""
    view, profile = memoryview(data), None
    kept, place, start = [view[:8]], 8, 8
    while place + 8 <= len(data):
        length, name = struct.unpack_from('>I4s', data, place)
        end = place + 12 + length
        if name in _PNG_TEXT and end <= len(data) and not _has_exif(view[place + 8 : end]):
            kept.append(view[start:place])
            start = end
            if name == b'iCCP':
                profile = _inflate_profile(data[place + 8 : end - 4])
        place = end
    if start == 8:
        return data, None
    return b''.join([*kept, view[start:]]), profile


def _has_exif(content: memoryview) -> bool:
    """Whether a short text chunk has EXIF data as ImageMagick writes them."""
    return len(content) < 2**16 and bytes(content[:20]) == b'Raw profile type exi'


def _inflate_profile(content: bytes) -> bytes | None:
    """The profile of an iCCP chunk; None if it is damaged or too long."""
    try:
        inflater = zlib.decompressobj()
        profile = inflater.decompress(content[content.index(b'\0') + 2 :], _MAX_PROFILE)
    except (ValueError, zlib.error):
        return None
    return profile if inflater.eof else None


def to_unassociated(samples: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours that were stored multiplied by alpha, divided by it again."""
    full = np.iinfo(samples.dtype).max
    share = alpha if samples.ndim == 2 else cv2.merge([alpha] * samples.shape[2])
    divided = cv2.divide(samples, np.maximum(share, 1), scale=full)
    return divided.reshape(samples.shape)
