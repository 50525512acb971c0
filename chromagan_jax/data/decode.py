"""Bytes of an image file to sRGB pixels.

Every kind of file that people keep among their photographs ends as uint8 RGB: rotated as its EXIF
data say, transparent parts on white, 16-bit values scaled instead of clipped, wide-gamut and CMYK
colours converted by their ICC profile. What cannot be decoded raises one exception with a reason.
"""

import functools
import io
import struct

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageCms, UnidentifiedImageError

# Pillow would also try formats that no photograph has, some of which start other programs (EPS).
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

# What Pillow raises for damaged files, which have no exception of their own: found by flipping
# bits in, cutting and splicing files of every format. TypeError, AttributeError and struct.error
# come from EXIF data that it parses while it loads a TIFF.
_DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    AttributeError,
    struct.error,
    Image.DecompressionBombError,
)


# Why a record cannot be read: its bytes cannot be had, are no image, or are one no longer.
KINDS = ('no_file', 'no_image', 'damaged')


class UnreadableImage(ValueError):  # noqa: N818
    """Bytes that are not a whole image; the message is a short reason without the file's name."""

    def __init__(self, reason: str, kind: str = 'damaged'):
        """`kind` is one of `KINDS`."""
        super().__init__(reason)
        self.kind = kind


def decode(data: bytes, min_side: int = 0) -> np.ndarray:
    """Decodes an image file to sRGB, transparent parts on white.

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
    """Reads an image file in its own mode, upright.

    Args:
        data: the whole file: JPEG, PNG, WebP, BMP, GIF or TIFF, the first frame of several.
        min_side: the caller needs no more than this many pixels on the short side; a JPEG at
            least twice as large is decoded at a half, a quarter or an eighth of its size, which is
            cheaper. The short side never gets smaller than this. 0 decodes at full size.
        max_pixels: an image with more is refused before memory is taken for it.

    Raises:
        UnreadableImage: the bytes are truncated, damaged, too large or no image.
    """
    return _read(_open(data, min_side, max_pixels))


def _open(data: bytes, min_side: int, max_pixels: int | None = None) -> Image.Image:
    """What `load` begins with: the header alone is read."""
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        if max_pixels is not None and image.width * image.height > max_pixels:
            raise UnreadableImage(
                f'{image.width} x {image.height} px are more than {max_pixels / 1e6:g} megapixels'
            )
        if min_side:
            image.draft(None, (min_side, min_side))  # does nothing for other formats than JPEG
        return image
    except UnidentifiedImageError as error:
        reason = 'not a JPEG, PNG, WebP, BMP, GIF or TIFF image'
        raise UnreadableImage(reason, 'no_image') from error
    except UnreadableImage:
        raise
    except _DAMAGE as error:
        raise UnreadableImage(str(error) or type(error).__name__) from error


def _read(image: Image.Image) -> Image.Image:
    """What `load` ends with: the pixels, upright."""
    try:
        image.load()
    except _DAMAGE as error:
        raise UnreadableImage(str(error) or type(error).__name__) from error
    if not image.width * image.height:
        raise UnreadableImage('it has no pixels')
    turn = _turn(image)
    return image if turn is None else image.transpose(turn)


def _decode_jpeg(data: bytes, image: Image.Image) -> np.ndarray | None:
    """The pixels of an upright JPEG in sRGB, (H, W, 3) uint8; None where Pillow has to look.

    Pillow and simplejpeg decode with the same library; without Pillow's copies it takes two thirds
    of the time. At the first irregularity Pillow decides whether it is damage.

    Args:
        data: the whole file.
        image: the same, opened by Pillow; its size, maybe a half or less, is what is wanted.
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
    """How many frames an animation or pages a TIFF has; 1 where damage hides it.

    The previews that cameras append to a JPEG (MPO) do not count.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        return 1 if image.format == 'MPO' else getattr(image, 'n_frames', 1)
    except (*_DAMAGE, EOFError):  # the first frame is whole all the same
        return 1


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What makes it upright; None if it is."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except SyntaxError:  # the EXIF data are damaged, the photograph is whole
        return None
    # ImageOps.exif_transpose would also rewrite the EXIF data, and fails where they are odd.
    return _UPRIGHT.get(orientation)


def to_srgb(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Any mode of Pillow to 'RGB' in sRGB, and the alpha channel ('L') of one that has it."""
    if image.mode[0] in 'IF':  # 'I', 'I;16', 'I;16B', 'F': convert('RGB') would clip them
        return Image.fromarray(_to_8_bit(image)).convert('RGB'), None
    profile = image.info.get('icc_profile')
    if image.has_transparency_data:
        image = image.convert('RGBA')
        return _apply_profile(image.convert('RGB'), profile), image.getchannel('A')
    if image.mode == 'LAB':  # convert('RGB') does not know it
        return _lab_transform().apply(image), None
    if image.mode not in ('RGB', 'L', 'CMYK'):
        image = image.convert('RGB')
    return _apply_profile(image, profile), None


def _to_8_bit(image: Image.Image) -> np.ndarray:
    """(H, W) uint8 of a gray image with deeper pixels.

    16-bit images say how deep they are. For 32-bit integers and floats the files do not, so the
    range is the smallest customary one that holds the brightest pixel.
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


@functools.lru_cache(maxsize=16)  # a collection has few profiles, and each may be 500 kB
def _profile_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform of an ICC profile to sRGB; None where it would change nothing.

    Relative colorimetric with black point compensation, as browsers show photographs. A profile
    that is damaged or belongs to another colour space than the pixels is passed over: the
    photograph is good without it.
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
        # Most profiles are one of the many editions of sRGB, which names do not tell apart from
        # others: asked for a sample of all colours, they return it.
        levels = np.linspace(0, 255, 18).astype(np.uint8)
        probe = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(18, -1, 3)
        answer = np.asarray(transform.apply(Image.fromarray(probe)))
        if np.abs(answer.astype(np.int16) - probe).max() <= 2:
            return None
    return transform


@functools.cache
def _lab_transform() -> ImageCms.ImageCmsTransform:
    lab, srgb = ImageCms.createProfile('LAB'), ImageCms.createProfile('sRGB')
    return ImageCms.buildTransform(lab, srgb, 'LAB', 'RGB')


def resize_short(image: np.ndarray, side: int) -> np.ndarray:
    """(H, W, 3) uint8 to the same proportions with a short side of `side` px."""
    height, width = image.shape[:2]
    scale = side / min(height, width)
    return resize(image, max(side, round(height * scale)), max(side, round(width * scale)))


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8 to (height, width, 3): area filter to shrink, cubic filter to enlarge."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = height * width < image.shape[0] * image.shape[1]
    filtering = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(image, (width, height), interpolation=filtering)


def crop_square(image: np.ndarray, side: int, y: float = 0.5, x: float = 0.5) -> np.ndarray:
    """The (side, side, 3) view at the relative position (y, x), each in [0, 1); 0.5 is the centre.

    Uniform y and x make every position of the square equally likely.
    """
    height, width = image.shape[:2]
    top, left = int(y * (height - side + 1)), int(x * (width - side + 1))
    return image[top : top + side, left : left + side]
