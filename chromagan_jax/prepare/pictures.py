"""Filters, hashes and splits of single images: pure functions of the bytes of a file.

`process` decodes, measures and encodes an image, or returns the reason for dropping it. Perceptual
hashes find near-duplicates. `split_of` draws the test split. No result depends on other images, so
order and number of workers do not matter. `docs/prepare.md` has measured error rates.
"""

import hashlib
import io
import math
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from PIL import Image

from chromagan_jax import color
from chromagan_jax.data.decode import FORMATS, UnreadableImage, decode, resize_short

REASONS = ('undecodable', 'too_small', 'too_elongated', 'gray', 'duplicate')
DISTANCE = 6  # maximum Hamming distance of the hashes of near-duplicates

_MEASURED_SIDE = 128  # short side for colour statistics and hashes, px
_BLOCKS = 16  # along the short side; the spread uses their mean colours
_DEGREE = 5  # of the polynomial of lightness that models a tint
# Column k: coefficients of the Legendre polynomial of degree k, for a stable regression.
_LEGENDRE = np.stack(
    [
        np.pad(np.polynomial.legendre.leg2poly(row[: k + 1]), (0, _DEGREE - k))
        for k, row in enumerate(np.eye(_DEGREE + 1))
    ],
    axis=-1,
)
_STEEPNESS = 1e-4  # ridge penalty on the coefficients, in squared units of ab
_ORIENTATION = 0x0112  # the EXIF tag
_ON_ITS_SIDE = (5, 6, 7, 8)  # orientations that swap width and height
_ODD_COLUMNS = 0x5555555555555555  # bits of odd horizontal frequencies in a hash
_HASHED_BITS = 63  # the topmost bit of 64 stands for the mean and is always 0


class Options(NamedTuple):
    """Limits for keeping an image, and the form of its output."""

    min_side: int = 64  # of the short side, px; smaller images are dropped
    max_aspect: float = 3.0  # long side / short side; more elongated images are dropped
    min_chroma: float = 0.5  # mean chroma in Lab; images below it count as gray
    min_spread: float = 1.3  # spread of ab at equal lightness; below it: gray, sepia, duotone
    size: int = 256  # short side of the output, px; 0: as is; never enlarged
    quality: int = 95  # of the output JPEG, 1 to 100


class Kept(NamedTuple):
    """An image for the training set."""

    image: bytes  # JPEG, sRGB
    width: int  # px of the original, upright
    height: int
    kept_width: int  # px of `image`
    kept_height: int
    chroma: float  # from `colour_statistics`
    spread: float
    phash: int  # from `perceptual_hash`
    digest: str  # from `content_digest`


class Dropped(NamedTuple):
    """A dropped image and the reason."""

    reason: str  # one of REASONS
    detail: str  # the measured values
    thumbnail: bytes | None  # JPEG, if the image was decoded
    digest: str  # from `content_digest`


def process(data: bytes, options: Options) -> Kept | Dropped:
    """Prepares one image for a training set.

    Args:
        data: the whole file.
        options: limits, and form of the output.

    Returns:
        The upright sRGB image on white, its short side reduced to `options.size` by an area filter
        (a JPEG at least four times as large is reduced during decoding first), or `Dropped` with
        any reason but 'duplicate'.
    """
    digest = content_digest(data)
    try:
        # At twice the size the area filter still determines the result.
        rgb = decode(data, 2 * max(options.size, _MEASURED_SIDE) if options.size else 0)
        width, height = _size(data)
    except UnreadableImage as error:
        return Dropped('undecodable', str(error), None, digest)
    short, long = sorted((width, height))
    kept = _reduced(rgb, options.size) if options.size else rgb
    small = _measured(kept if min(kept.shape[:2]) >= _MEASURED_SIDE else rgb)

    def dropped(reason: str, detail: str) -> Dropped:
        return Dropped(reason, detail, thumbnail(small), digest)

    if short < options.min_side:
        return dropped('too_small', f'{width} x {height} px')
    if long > options.max_aspect * short:
        return dropped('too_elongated', f'{width} x {height} px, {long / short:.3g} to 1')
    chroma, spread = colour_statistics(small)
    if chroma < options.min_chroma or spread < options.min_spread:
        return dropped('gray', f'mean chroma {chroma:.2f}, spread {spread:.2f}')
    return Kept(
        image=encode_jpeg(kept, options.quality),
        width=width,
        height=height,
        kept_width=kept.shape[1],
        kept_height=kept.shape[0],
        chroma=chroma,
        spread=spread,
        phash=perceptual_hash(small),
        digest=digest,
    )


def _size(data: bytes) -> tuple[int, int]:
    """Width and height of a readable image, upright."""
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    try:
        on_its_side = image.getexif().get(_ORIENTATION) in _ON_ITS_SIDE
    except SyntaxError:  # damaged EXIF data, which `decode` ignores too
        on_its_side = False
    return (image.height, image.width) if on_its_side else image.size


def _reduced(rgb: np.ndarray, side: int) -> np.ndarray:
    return resize_short(rgb, side) if min(rgb.shape[:2]) > side else rgb


def content_digest(data: bytes) -> str:
    """BLAKE2b hash of a file, 32 hexadecimal digits: the name of the image."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def encode_jpeg(rgb: np.ndarray, quality: int) -> bytes:
    """Encodes (H, W, 3) uint8 sRGB as a JPEG file without chroma subsampling."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, format='JPEG', quality=quality, subsampling=0)
    return buffer.getvalue()


def thumbnail(rgb: np.ndarray, side: int = 96) -> bytes:
    """Encodes (H, W, 3) uint8 sRGB as a JPEG file with a long side of at most `side` px."""
    scale = side / max(rgb.shape[:2])
    return encode_jpeg(_scaled(rgb, scale, cv2.INTER_AREA) if scale < 1 else rgb, 75)


def colour_statistics(rgb: np.ndarray) -> tuple[float, float]:
    """Mean chroma, and the spread of colours that lightness does not explain.

    The spread is the root mean square distance of ab from the best polynomial of degree 5 in L*. It
    is 0 for a gray image and near 0 for sepia, duotone or any other tint, because a tint is a
    function of lightness. A small coloured object in a gray image raises the spread by the square
    root of its area.

    JPEG subsamples and quantizes chroma, which blurs tints at edges. So ab and the powers of L* are
    averaged over 16 blocks along the short side before the regression; an exact tint remains exact.
    A ridge penalty limits steep curves, which could fit two colours of similar lightness.

    Args:
        rgb: (H, W, 3) uint8 sRGB; a short side above 128 px is reduced to 128 px.

    Returns:
        Mean chroma and spread, in units of L*a*b*.
    """
    condition, ab = color.encode(_measured(rgb), 'lab')
    powers = [condition[..., 0]]
    for _ in range(_DEGREE - 1):
        powers.append(powers[-1] * powers[0])
    means = [_block_means(channels) for channels in (*powers, ab)]
    monomials = np.concatenate([np.ones_like(means[0]), *means[:-1]], axis=-1)
    curve = monomials.astype(np.float64) @ _LEGENDRE
    observed = means[-1].astype(np.float64) * color.AB_SCALE
    normal = curve.T @ curve + _STEEPNESS * len(curve) * np.diag(np.arange(_DEGREE + 1) > 0)
    residual = observed - curve @ np.linalg.solve(normal, curve.T @ observed)
    spread = math.sqrt(np.vdot(residual, residual) / len(residual))
    # The absolute value of complex numbers is faster in NumPy than `hypot`.
    return float(np.abs(ab.view(np.complex64)).mean()) * color.AB_SCALE, spread


def _measured(rgb: np.ndarray) -> np.ndarray:
    """Reduces the short side to 128 px by factors up to 2, so that bilinear uses every pixel."""
    while (short := min(rgb.shape[:2])) > _MEASURED_SIDE:
        rgb = _scaled(rgb, max(0.5, _MEASURED_SIDE / short), cv2.INTER_LINEAR)
    return rgb


def _block_means(values: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, C) to (N, C), the means over N blocks of the image."""
    scale = min(1.0, _BLOCKS / min(values.shape[:2]))
    means = _scaled(values, scale, cv2.INTER_AREA)
    return means.reshape(means.shape[0] * means.shape[1], -1)


def _scaled(values: np.ndarray, scale: float, interpolation: int) -> np.ndarray:
    height, width = values.shape[:2]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(values, size, interpolation=interpolation)


def perceptual_hash(rgb: np.ndarray) -> int:
    """A 64-bit hash that resizing and compression change in few bits.

    The bits are the signs of the 8 x 8 lowest frequencies of the cosine transform (DCT-II) of L* at
    32 x 32 px, rows first. The topmost bit stands for the mean and is always 0. The aspect ratio is
    ignored. Zauner (Implementation and Benchmarking of Perceptual Image Hash Functions, 2010)
    compares with the median instead; with signs, `mirrored` follows from the hash.

    Args:
        rgb: (H, W, 3) uint8 sRGB.
    """
    small = cv2.resize(rgb, (32, 32), interpolation=cv2.INTER_AREA)
    positive = cv2.dct(color.encode(small, 'lab')[0][..., 0])[:8, :8] > 0
    positive[0, 0] = False
    return int.from_bytes(np.packbits(positive).tobytes(), 'big')


def mirrored(phash: Any) -> Any:
    """The hash of the mirrored image: cosines of odd horizontal frequency change their sign.

    Accepts an int or an array of uint64.
    """
    return phash ^ _ODD_COLUMNS


def hamming(a: int, b: int) -> int:
    """The number of bits that differ."""
    return (a ^ b).bit_count()


def near(a: int, b: int, distance: int = DISTANCE) -> bool:
    """Whether two hashes differ in at most `distance` bits, directly or with one mirrored."""
    return min(hamming(a, b), hamming(a, mirrored(b))) <= distance


def bands(phash: Any, distance: int = DISTANCE) -> list[tuple[int, Any]]:
    """Search keys for near hashes: any two hashes that are `near` share at least one key.

    The bits are divided into distance + 1 bands, so `distance` different bits leave one band equal
    (Manku, Jain and Das Sarma, Detecting Near-Duplicates for Web Crawling, 2007). Each band is the
    minimum of the bits and their mirror image, so that mirrored copies share bands too.

    Args:
        phash: from `perceptual_hash`, or an array of hashes, uint64.
        distance: as in `near`.

    Returns:
        distance + 1 pairs of the band's index and its bits.
    """
    count = distance + 1
    found = []
    for number in range(count):
        # Every count-th bit: neighbouring frequencies are similar and go to different bands.
        mask = sum(1 << bit for bit in range(number, _HASHED_BITS, count))
        found.append((number, np.minimum(phash & mask, mirrored(phash) & mask)))
    return found


def rank(kept: Kept) -> tuple[int, str]:
    """Sort key of near-duplicates, best first: most original pixels, then by digest."""
    return -kept.width * kept.height, kept.digest


def split_of(digest: str, fraction: float, seed: int) -> Literal['train', 'test']:
    """The split of an image: 'test' with the probability `fraction`.

    The draw depends only on the digest and the seed, so other images do not change it. Of n images
    n * fraction are expected in 'test', with a standard deviation of
    sqrt(n * fraction * (1 - fraction)).
    """
    draw = hashlib.blake2b(f'{seed}:{digest}'.encode(), digest_size=8).digest()
    return 'test' if int.from_bytes(draw, 'big') < fraction * 2**64 else 'train'
