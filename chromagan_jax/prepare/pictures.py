"""What happens to one picture on its way into a training set: pure functions of its bytes.

`process` decodes, measures and encodes one picture, or says why it is dropped. The hashes find
near-duplicates among many, and `split_of` draws the test set: from a picture alone, so that
neither the order nor the number of workers matters.
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
DISTANCE = 6  # bits in which the hashes of near-duplicates may differ

_MEASURED_SIDE = 128  # px of the short side on which colours and hashes are measured
_BLOCKS = 16  # along the short side, over which the colours are averaged for the spread
_DEGREE = 5  # of the polynomials of lightness that a tint may follow
# Column k: the monomials of the Legendre polynomial of degree k, which keep the regression stable.
_LEGENDRE = np.stack(
    [
        np.pad(np.polynomial.legendre.leg2poly(row[: k + 1]), (0, _DEGREE - k))
        for k, row in enumerate(np.eye(_DEGREE + 1))
    ],
    axis=-1,
)
_STEEPNESS = 1e-4  # cost of a curve's squared coefficients, as a squared distance of colours
_ORIENTATION = 0x0112  # the EXIF tag
_ON_ITS_SIDE = (5, 6, 7, 8)
_ODD_COLUMNS = 0x5555555555555555  # bits of a hash that belong to odd horizontal frequencies
_HASHED_BITS = 63  # the topmost of the 64 is the mean's, and always 0


class Options(NamedTuple):
    """What is kept, and in which form."""

    min_side: int = 64  # px; pictures with a smaller short side are dropped
    max_aspect: float = 3.0  # long side over short; pictures beyond it are dropped
    min_chroma: float = 0.5  # mean chroma in Lab; below it gray, but for a stamp or a watermark
    min_spread: float = 1.3  # spread of ab at equal lightness; below it gray, sepia or duotone
    size: int = 256  # px of the short side of what is kept; 0: as it is; never enlarged
    quality: int = 95  # of the kept JPEG files, 1 to 95


class Kept(NamedTuple):
    """A picture for the training set."""

    image: bytes  # JPEG, sRGB
    width: int  # px of the original, upright
    height: int
    kept_width: int  # px of `image`
    kept_height: int
    chroma: float  # as `colour_statistics` has it
    spread: float
    phash: int  # as `perceptual_hash` has it
    digest: str  # as `content_digest` has it


class Dropped(NamedTuple):
    """A picture that is left out, and why."""

    reason: str  # one of REASONS
    detail: str  # what was measured
    thumbnail: bytes | None  # JPEG, where there is a picture
    digest: str  # as `content_digest` has it


def process(data: bytes, options: Options) -> Kept | Dropped:
    """Prepares one picture for a training set.

    Args:
        data: the whole file.
        options: what is kept, and in which form.

    Returns:
        The upright sRGB picture on white, its short side reduced to `options.size` by an area
        filter (a JPEG four times as large or more is first halved as it is decoded), or the
        reason for which it is dropped. 'duplicate' is no reason that one picture can give.
    """
    digest = content_digest(data)
    try:
        # Twice the size leaves the area filter the last word: 47 dB PSNR to the full decode.
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
    except SyntaxError:  # the EXIF data are damaged: `load` passes over them too
        on_its_side = False
    return (image.height, image.width) if on_its_side else image.size


def _reduced(rgb: np.ndarray, side: int) -> np.ndarray:
    return resize_short(rgb, side) if min(rgb.shape[:2]) > side else rgb


def content_digest(data: bytes) -> str:
    """32 hexadecimal digits that the bytes of a file decide: the name of the picture."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def encode_jpeg(rgb: np.ndarray, quality: int) -> bytes:
    """(H, W, 3) uint8 sRGB as a JPEG file, colours at full resolution: they are the target."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, format='JPEG', quality=quality, subsampling=0)
    return buffer.getvalue()


def thumbnail(rgb: np.ndarray, side: int = 96) -> bytes:
    """(H, W, 3) uint8 sRGB as a small JPEG file with at most `side` px on the long side."""
    scale = side / max(rgb.shape[:2])
    return encode_jpeg(_scaled(rgb, scale, cv2.INTER_AREA) if scale < 1 else rgb, 75)


def colour_statistics(rgb: np.ndarray) -> tuple[float, float]:
    """How much colour a picture has, and how much of it its lightness does not tell.

    The spread is the root mean square distance of the colours ab from the best curve ab(L*), a
    polynomial of degree 5: nothing for a gray picture, and next to nothing for one in sepia,
    another tint or two inks, however strong, because a tint is a function of lightness. A plain
    spread about the mean colour would grow with the strength of the tint. A coloured balloon in a
    gray photograph shares the lightness of gray parts, and counts by the root of its area, where
    in the mean chroma it counts by its area.

    JPEG files keep colours at half the resolution and in fewer levels, which smears tints over
    edges. So both sides of the regression, ab and the powers of L*, are averaged over 16 blocks
    along the short side before they are compared; an exact tint stays exact. Steep curves have a
    cost, else two colours of nearly one lightness would lie on one.

    Measured with the limits of `Options`: of 7,697 colour photographs of 150 to 256 px, 63 were
    dropped, of which to the eye 37 are toned monochromes, 4 drawings in two inks and 22 (0.3 %)
    photographs whose colours follow lightness (a dark garment on a pale floor, mist). Of 300 gray
    copies all were found; of copies of 30 photographs in 13 tints (sepia, cyanotype, duotones,
    faded paper; mean chroma 3 to 56; colours subsampled) 99 % at JPEG quality 95, 98 % at 75 and
    35 % at 30, where JPEG's own steps of colour exceed the limit; measured at 64 px instead of
    128, 96 and 94 % at 95 and 75. Of 300 gray photographs with a red balloon all were kept where
    it filled 1 % of the picture, none at 0.5 %.

    Args:
        rgb: (H, W, 3) uint8 sRGB; its short side is reduced to 128 px where it is longer.

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
    # As complex numbers, whose absolute values take NumPy half the time of `hypot`.
    return float(np.abs(ab.view(np.complex64)).mean()) * color.AB_SCALE, spread


def _measured(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) with the short side reduced to 128 px, by halves: bilinear then misses no pixel."""
    while (short := min(rgb.shape[:2])) > _MEASURED_SIDE:
        rgb = _scaled(rgb, max(0.5, _MEASURED_SIDE / short), cv2.INTER_LINEAR)
    return rgb


def _block_means(values: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, C) to (N, C), the means over blocks of the picture."""
    scale = min(1.0, _BLOCKS / min(values.shape[:2]))
    means = _scaled(values, scale, cv2.INTER_AREA)
    return means.reshape(means.shape[0] * means.shape[1], -1)


def _scaled(values: np.ndarray, scale: float, interpolation: int) -> np.ndarray:
    height, width = values.shape[:2]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(values, size, interpolation=interpolation)


def perceptual_hash(rgb: np.ndarray) -> int:
    """64 bits of a picture that resizing and compression leave nearly alone.

    The signs of the 8 x 8 lowest frequencies of the cosine transform (DCT-II) of L* at 32 x 32 px,
    rows first, the topmost bit for the mean, which is always 0 (Zauner, Implementation and
    Benchmarking of Perceptual Image Hash Functions, 2010, compares with the median instead; signs
    make the hash of the mirrored picture known). The proportions of the picture do not matter.

    Args:
        rgb: (H, W, 3) uint8 sRGB.
    """
    small = cv2.resize(rgb, (32, 32), interpolation=cv2.INTER_AREA)
    positive = cv2.dct(color.encode(small, 'lab')[0][..., 0])[:8, :8] > 0
    positive[0, 0] = False
    return int.from_bytes(np.packbits(positive).tobytes(), 'big')


def mirrored(phash: Any) -> Any:
    """The hash of the mirrored picture: cosines of odd horizontal frequency change their sign.

    A mirrored copy teaches a colorizer nothing new, and in a test set would be known from training.
    """
    return phash ^ _ODD_COLUMNS


def hamming(a: int, b: int) -> int:
    """How many bits differ."""
    return (a ^ b).bit_count()


def near(a: int, b: int, distance: int = DISTANCE) -> bool:
    """Whether two hashes differ in at most `distance` bits, one of them mirrored or not.

    Measured at the default of 6 bits, on 500 photographs: copies scaled to 50 to 200 %, saved at
    JPEG quality 30 to 90, 10 % brighter or darker, with 10 % more or less contrast, or mirrored are
    all near; cropped by 1 % on each side 99 %, by 2 % on each side 86 %, by 2 % at one corner 81 %;
    cropped by 1 %, halved, 10 % brighter and saved at quality 50, 99 %. Of the 29 million pairs of
    7,633 photographs 4 are near, all within 1 bit and duplicates indeed (mirrored in part, and
    stretched); the first pair that is not differs in 7 bits.
    """
    return min(hamming(a, b), hamming(a, mirrored(b))) <= distance


def bands(phash: Any, distance: int = DISTANCE) -> list[tuple[int, Any]]:
    """Keys to find near hashes by: any two that are `near` have at least one in common.

    The bits are dealt out to distance + 1 bands, of which `distance` bits cannot touch all
    (Manku, Jain and Das Sarma, Detecting Near-Duplicates for Web Crawling, 2007). Each band is
    replaced by its mirror image where that is the smaller number, so mirrored copies meet too.
    At 6 bits, 7,697 photographs share a band in 0.8 million pairs, at most 64 photographs one band.

    Args:
        phash: as `perceptual_hash` has it, or an array of them, uint64.
        distance: as in `near`.

    Returns:
        distance + 1 pairs: the number of the band, and its bits.
    """
    count = distance + 1
    found = []
    for number in range(count):
        # Every count-th bit: neighbours, whose frequencies are alike, go to different bands.
        mask = sum(1 << bit for bit in range(number, _HASHED_BITS, count))
        found.append((number, np.minimum(phash & mask, mirrored(phash) & mask)))
    return found


def rank(kept: Kept) -> tuple[int, str]:
    """Sorts near-duplicates, the one to keep first: most original pixels, then by digest."""
    return -kept.width * kept.height, kept.digest


def split_of(digest: str, fraction: float, seed: int) -> Literal['train', 'test']:
    """The split that a picture is drawn into: 'test' with the probability `fraction`.

    Each picture is drawn by itself, from its digest and the seed: more pictures, or other ones,
    change nothing for it. So the share is `fraction` on average, in every category: of n pictures
    n * fraction, with a standard deviation of sqrt(n * fraction * (1 - fraction)).
    """
    draw = hashlib.blake2b(f'{seed}:{digest}'.encode(), digest_size=8).digest()
    return 'test' if int.from_bytes(draw, 'big') < fraction * 2**64 else 'train'
