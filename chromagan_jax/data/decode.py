"""Decoding of image files to sRGB pixels, resizing and cropping.

All files become uint8 RGB: rotated by their EXIF orientation, transparency on white, 16-bit values
scaled and not clipped, wide-gamut and CMYK colours converted by their ICC profile. All decode
failures raise `UnreadableImage`.
"""

import functools
import io
import struct

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageCms, UnidentifiedImageError

# Pillow would also try formats that are no photographs; some of them start programs (EPS).
FORMATS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'GIF', 'TIFF')

_ORIENTATION = 0x0112  # the EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow has no exception for damaged files and raises all of these. TypeError, AttributeError and
# struct.error come from EXIF data, which it parses while it loads a TIFF.
_DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    AttributeError,
    struct.error,
    Image.DecompressionBombError,
)


# Why a record is unreadable: its file cannot be read, is no image, or is a damaged image.
KINDS = ('no_file', 'no_image', 'damaged')


class UnreadableImage(ValueError):  # noqa: N818
    """A record is not a complete image; the message is a short reason without the file name."""

    def __init__(self, reason: str, kind: str = 'damaged'):
        """`kind` is one of `KINDS`."""
        super().__init__(reason)
        self.kind = kind


def decode(data: bytes, min_side: int = 0) -> np.ndarray:
    """Decodes an image file to sRGB with transparency on white.

    Args:
        data: the whole file, as in `load`.
        min_side: as in `load`.

    Returns:
        (H, W, 3) uint8 sRGB.

    Raises:
        UnreadableImage: the bytes are truncated, damaged, too large or no image.
    """
    image = _open(data, min_side)
    pixels = _decode_jpeg(data, image)
    if pixels is not None:
        return pixels
    colour, alpha = to_srgb(_read(image))
    if alpha is not None:
        colour = Image.composite(colour, Image.new('RGB', colour.size, 'white'), alpha)
    return np.asarray(colour)


def load(data: bytes, min_side: int = 0, max_pixels: int | None = None) -> Image.Image:
    """Reads an image file in its original Pillow mode, upright.

    Args:
        data: the whole file: JPEG, PNG, WebP, BMP, GIF or TIFF, the first frame of several.
        min_side: short side that the caller needs, px. A JPEG at least twice as large is decoded
            at 1/2, 1/4 or 1/8 of its size, which is faster; its short side is never less than
            this. 0 decodes at full size.
        max_pixels: larger images are rejected before memory is allocated.

    Raises:
        UnreadableImage: the bytes are truncated, damaged, too large or no image.
    """
    return _read(_open(data, min_side, max_pixels))


def _open(data: bytes, min_side: int, max_pixels: int | None = None) -> Image.Image:
    """Opens an image as `load` does; reads only the header."""
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        if max_pixels is not None and image.width * image.height > max_pixels:
            raise UnreadableImage(
                f'{image.width} x {image.height} px are more than {max_pixels / 1e6:g} megapixels'
            )
        if min_side:
            image.draft(None, (min_side, min_side))  # affects JPEG only
        return image
    except UnidentifiedImageError as error:
        reason = 'not a JPEG, PNG, WebP, BMP, GIF or TIFF image'
        raise UnreadableImage(reason, 'no_image') from error
    except UnreadableImage:
        raise
    except _DAMAGE as error:
        raise UnreadableImage(str(error) or type(error).__name__) from error


def _read(image: Image.Image) -> Image.Image:
    """Reads the pixels of an opened image, upright."""
    try:
        image.load()
    except _DAMAGE as error:
        raise UnreadableImage(str(error) or type(error).__name__) from error
    if not image.width * image.height:
        raise UnreadableImage('it has no pixels')
    turn = _turn(image)
    return image if turn is None else image.transpose(turn)


def _decode_jpeg(data: bytes, image: Image.Image) -> np.ndarray | None:
    """Decodes an upright sRGB JPEG to (H, W, 3) uint8; None if Pillow has to decode it.

    simplejpeg uses the same library as Pillow but avoids its copies. On any error Pillow decides
    whether the file is damaged.

    Args:
        data: the whole file.
        image: the same file opened by Pillow; its size, maybe already reduced, is the target size.
    """
    if image.format not in ('JPEG', 'MPO') or image.mode != 'RGB' or _turn(image) is not None:
        return None
    profile = image.info.get('icc_profile')
    if profile and _profile_transform(profile, 'RGB'):
        return None
    try:
        return simplejpeg.decode_jpeg(data, min_height=image.height, min_width=image.width)
    except ValueError:
        return None


def count_frames(data: bytes) -> int:
    """The number of frames of an animation or pages of a TIFF; 1 if damage hides it.

    The previews that cameras append to a JPEG (MPO) do not count.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        return 1 if image.format == 'MPO' else getattr(image, 'n_frames', 1)
    except (*_DAMAGE, EOFError):  # the first frame is still readable
        return 1


def _turn(image: Image.Image) -> Image.Transpose | None:
    """The transpose that makes an image upright; None if it is upright."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except SyntaxError:  # the EXIF data are damaged, the image is not
        return None
    # ImageOps.exif_transpose also rewrites the EXIF data, and fails on malformed ones.
    return _UPRIGHT.get(orientation)


def to_srgb(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Converts any Pillow mode to 'RGB' in sRGB, and returns the alpha channel ('L') or None."""
    if image.mode[0] in 'IF':  # 'I', 'I;16', 'I;16B', 'F': convert('RGB') would clip them
        return Image.fromarray(_to_8_bit(image)).convert('RGB'), None
    profile = image.info.get('icc_profile')
    if image.has_transparency_data:
        image = image.convert('RGBA')
        return _apply_profile(image.convert('RGB'), profile), image.getchannel('A')
    if image.mode == 'LAB':  # convert('RGB') does not support it
        return _lab_transform().apply(image), None
    if image.mode not in ('RGB', 'L', 'CMYK'):
        image = image.convert('RGB')
    return _apply_profile(image, profile), None


def _to_8_bit(image: Image.Image) -> np.ndarray:
    """Scales a gray image with more than 8 bits to (H, W) uint8.

    The range of 16-bit images is known. For 32-bit integers and floats it is the smallest common
    range (1, 255, 65535) that contains the brightest pixel.
    """
    values = np.nan_to_num(np.asarray(image).astype(np.float64))
    peak = float(values.max(initial=0))
    if image.mode.startswith('I;16'):
        full = 65535.0
    else:
        ranges = (1.0, 255.0, 65535.0) if image.mode == 'F' else (255.0, 65535.0)
        full = next((full for full in ranges if peak <= full), peak)
    return np.rint(np.clip(values / full, 0, 1) * 255).astype(np.uint8)


def _apply_profile(image: Image.Image, profile: bytes | None) -> Image.Image:
    transform = _profile_transform(profile, image.mode) if profile else None
    if transform:
        return transform.apply(image)
    return image if image.mode == 'RGB' else image.convert('RGB')


@functools.lru_cache(maxsize=16)  # few, because a profile may be 500 kB
def _profile_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform from an ICC profile to sRGB; None if it would change nothing.

    Relative colorimetric with black point compensation, as in browsers. A profile that is damaged
    or does not match the mode of the image is ignored.
    """
    try:
        source = ImageCms.getOpenProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile('sRGB'),
            mode,
            'RGB',
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError):
        return None
    if mode == 'RGB':
        # Most profiles are variants of sRGB, which names do not identify reliably: they map a
        # sample of all colours to itself.
        levels = np.linspace(0, 255, 18).astype(np.uint8)
        probe = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(18, -1, 3)
        converted = np.asarray(transform.apply(Image.fromarray(probe)))
        if np.abs(converted.astype(np.int16) - probe).max() <= 2:
            return None
    return transform


@functools.cache
def _lab_transform() -> ImageCms.ImageCmsTransform:
    lab, srgb = ImageCms.createProfile('LAB'), ImageCms.createProfile('sRGB')
    return ImageCms.buildTransform(lab, srgb, 'LAB', 'RGB')


def resize_short(image: np.ndarray, side: int) -> np.ndarray:
    """Resizes (H, W, 3) uint8 to a short side of `side` px and the same aspect ratio."""
    height, width = image.shape[:2]
    scale = side / min(height, width)
    return resize(image, max(side, round(height * scale)), max(side, round(width * scale)))


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes (H, W, 3) uint8 to (height, width, 3): area filter to shrink, else cubic."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = height * width < image.shape[0] * image.shape[1]
    filtering = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(image, (width, height), interpolation=filtering)


def crop_square(image: np.ndarray, side: int, y: float = 0.5, x: float = 0.5) -> np.ndarray:
    """A (side, side, 3) view at the relative position (y, x), each in [0, 1); 0.5 is the centre.

    Uniform y and x make every position of the square equally likely.
    """
    height, width = image.shape[:2]
    top, left = int(y * (height - side + 1)), int(x * (width - side + 1))
    return image[top : top + side, left : left + side]
