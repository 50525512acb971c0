"""Photographs at their own resolution with the colours of a small version.

Pixels are sRGB, uint8 or uint16: (H, W) gray, (H, W, 3) RGB or (H, W, 4) RGBA.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from chromagan_jax import color
from chromagan_jax.config.postprocess import OFF, PostProcess
from chromagan_jax.data.decode import resize
from chromagan_jax.data.decode.profiles import to_8_bits
from chromagan_jax.inference import postprocess
from chromagan_jax.inference.gamut import lab_to_rgb_of_lightness

_STRIP = 2**15  # pixels whose colours are computed at a time: their floats stay in a cache
_ROWS = 16  # at least, that are widened at a time: OpenCV computes the weights of a row anew
_NOISE = 4.0  # variance of L* that is taken for grain, not for an edge


class Box(NamedTuple):
    """A part of an image, px."""

    top: int
    bottom: int
    left: int
    right: int


def denoise(pixels: np.ndarray, post: PostProcess = OFF) -> np.ndarray:
    """A photograph through `post.denoise_before`; `pixels` themselves without it.

    Args:
        pixels: (H, W), (H, W, 3) or (H, W, 4).
        post: only `denoise_before` has an effect.

    Returns:
        (H, W) uint16, or (H, W, 4) gray with alpha of the type of `pixels`.
    """
    if not post.denoise_before:
        return pixels
    gray = postprocess.denoise_gray(to_gray(pixels), post.denoise_before)
    if pixels.shape[2:] != (4,):
        return gray
    if pixels.dtype == np.uint8:
        gray = cv2.convertScaleAbs(gray, alpha=1 / 257)
    return cv2.merge([gray, gray, gray, pixels[..., 3]])


def shrink(pixels: np.ndarray, width: int, height: int | None = None) -> np.ndarray:
    """An image resized to (height, width, 3) uint8 RGB, with transparent parts on white.

    Args:
        pixels: (H, W), (H, W, 3) or (H, W, 4).
        width: px.
        height: px; as `width` if it is None. The aspect is not kept.
    """
    height = width if height is None else height
    if pixels.ndim == 3:
        return resize(on_white(to_8_bits(np.ascontiguousarray(pixels))), height, width)
    small = resize(np.ascontiguousarray(pixels), height, width)
    if small.dtype == np.uint16:
        small = np.rint(small / 257).astype(np.uint8)
    return cv2.merge([small] * 3)


def on_white(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) or (H, W, 4) uint8 to (H, W, 3), transparent parts on white."""
    if pixels.shape[2] == 3:
        return pixels
    alpha = cv2.merge([pixels[..., 3]] * 3)
    rgb = cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB)
    return cv2.add(cv2.multiply(rgb, alpha, scale=1 / 255), 255 - alpha)


def recolor(
    pixels: np.ndarray,
    small: np.ndarray,
    ab: np.ndarray,
    post: PostProcess = OFF,
    box: Box | None = None,
    deep: bool = False,
) -> np.ndarray:
    """Combines the lightness of a photograph with the colours of a small version.

    Where ab follows L* in the small version, it does so in the large one: with the slope A of the
    local regression of ab on L*,

        ab_large = up(ab - A L_small) + up(A) L_large,

    clipped to the smallest and the largest ab of the neighbourhood. This is the residual form of a
    guided filter (He et al. 2013, https://doi.org/10.1109/TPAMI.2012.213) computed on the small
    version (He and Sun 2015, https://arxiv.org/abs/1505.00996), so that colours end at the edges
    of the photograph. docs/files.md compares it with interpolations.

    L* is that of `pixels` everywhere, up to the rounding of the result and unless `post.contrast`
    changes it: colours outside sRGB lose chroma, not lightness.

    Args:
        pixels: the photograph, (H, W), (H, W, 3) or (H, W, 4).
        small: (h, w, 3) uint8, the photograph inside `box`.
        ab: (h, w, 2) a*, b* of `small`.
        post: processing of colours and contrast.
        box: the part with colours, the rest becomes gray; None: all of it.
        deep: whether the result is uint16; otherwise it is uint8.

    Returns:
        (H, W, 3), or (H, W, 4) with the alpha of `pixels`.
    """
    height, width = pixels.shape[:2]
    top, bottom, left, right = box or Box(0, height, 0, width)
    seen = lightness(small)
    maps = _guided_maps(seen, postprocess.treat_chroma(post, seen, ab))
    enlarged = _enlarged(maps, bottom - top, right - left, _rows_of_strips(width))
    dtype = np.uint16 if deep else np.uint8
    result = np.empty((height, width, 4 if pixels.shape[2:] == (4,) else 3), dtype)
    change = _contrast_change(pixels, post) if post.contrast else None
    bounds = sorted({0, top, bottom, height})
    for strip in _strips(bounds, width):
        guide = lightness(pixels[strip])
        light = guide if change is None else np.clip(guide + change[strip], 0, 100)
        ab_planes = [np.zeros_like(guide) for _ in range(2)]
        if top <= strip.start < bottom:
            rows = next(enlarged)
            inside = guide[:, left:right]
            for index, plane in enumerate(ab_planes):
                plane[:, left:right] = _chroma(inside, *rows[4 * index : 4 * index + 4])
        for index, plane in enumerate(lab_to_rgb_of_lightness(light, *ab_planes)):
            cv2.mixChannels([_quantized(plane, deep)], [result[strip]], [0, index])
    if result.shape[2] == 4:
        result[..., 3] = _alpha(pixels, deep)
    return result


def _alpha(pixels: np.ndarray, deep: bool) -> np.ndarray:
    """The alpha of (H, W, 4) pixels, uint16 if `deep`, otherwise uint8."""
    alpha = np.ascontiguousarray(pixels[..., 3])
    if not deep:
        return to_8_bits(alpha)
    return alpha.astype(np.uint16) * 257 if alpha.dtype == np.uint8 else alpha


def _quantized(plane: np.ndarray, deep: bool) -> np.ndarray:
    """Values in [0, 1] as uint16 if `deep`, otherwise as uint8, rounded."""
    if deep:
        return np.rint(plane * np.float32(65535)).astype(np.uint16)
    return cv2.convertScaleAbs(plane, alpha=255)


def _chroma(
    guide: np.ndarray, rest: np.ndarray, slope: np.ndarray, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """a* or b* from L* and its maps, (h, w) each."""
    chroma = slope * guide
    chroma += rest
    return np.minimum(np.maximum(chroma, low, out=chroma), high, out=chroma)


def _strips(bounds: Sequence[int], width: int) -> Iterator[slice]:
    """Rows between the first and the last bound, with a few rows each; none crosses a bound."""
    rows = _rows_of_strips(width)
    for start, end in itertools.pairwise(bounds):
        for top in range(start, end, rows):
            yield slice(top, min(top + rows, end))


def _rows_of_strips(width: int) -> int:
    return max(1, _STRIP // width)


def _contrast_change(pixels: np.ndarray, post: PostProcess) -> np.ndarray:
    steps = np.rint(_lightness_of_gray(np.dtype(np.uint16)) * 2.55).astype(np.uint8)
    return postprocess.contrast_change(
        steps[to_gray(pixels)], post.contrast, post.clahe_clip, post.clahe_tiles
    )


def to_gray(pixels: np.ndarray) -> np.ndarray:
    """(H, W) uint16 gray of the same L*; what alpha hides altogether is white."""
    if pixels.ndim == 2:
        return pixels if pixels.dtype == np.uint16 else pixels.astype(np.uint16) * 257
    gray = np.empty(pixels.shape[:2], np.uint16)
    for strip in _strips((0, pixels.shape[0]), pixels.shape[1]):
        gray[strip] = np.rint(color.lightness_to_gray(lightness(pixels[strip])) * 65535)
    if pixels.shape[2] == 4:
        gray[pixels[..., 3] == 0] = 65535
    return gray


def lightness(pixels: np.ndarray) -> np.ndarray:
    """(H, W) float32 L* of pixels of any kind, alpha left out."""
    if pixels.ndim == 2:
        return _lightness_of_gray(pixels.dtype)[pixels]
    return color.lightness(pixels)


@functools.cache
def _lightness_of_gray(dtype: np.dtype) -> np.ndarray:
    full = np.iinfo(dtype).max
    return color.gray_to_lightness(np.arange(full + 1, dtype=np.float64) / full).astype(np.float32)


def _guided_maps(guide: np.ndarray, ab: np.ndarray) -> list[np.ndarray]:
    """(h, w) each, first of a*, then of b*: it less what L* explains, the slope, the bounds nearby.

    The bounds are the least and the greatest value of the neighbourhood.
    """

    def mean(x: np.ndarray) -> np.ndarray:
        return cv2.blur(x, (3, 3), borderType=cv2.BORDER_REFLECT)

    guide_mean = mean(guide)
    variance = mean(guide * guide)
    variance -= guide_mean * guide_mean
    variance += np.float32(_NOISE)
    window = np.ones((3, 3), np.uint8)
    maps = []
    for plane in cv2.split(np.asarray(ab, np.float32)):
        covariance = mean(plane * guide)
        covariance -= mean(plane) * guide_mean
        covariance /= variance
        slope = mean(covariance)
        rest = plane - slope * guide
        maps += [rest, slope, cv2.erode(plane, window), cv2.dilate(plane, window)]
    return maps


def _enlarged(
    maps: Sequence[np.ndarray], height: int, width: int, rows: int
) -> Iterator[np.ndarray]:
    """(n, rows, width) parts of n maps at (height, width), from the first row to the last one."""
    tall = np.stack([_resized(image, image.shape[1], height) for image in maps])
    block = rows * -(-_ROWS // rows)
    for top in range(0, height, block):
        part = tall[:, top : top + block]
        number = part.shape[1]
        wide = _resized(part.reshape(-1, part.shape[2]), width, len(maps) * number)
        wide = wide.reshape(len(maps), number, width)
        for start in range(0, number, rows):
            yield wide[:, start : start + rows]


def _resized(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """(h, w) to (height, width) by bicubic interpolation to enlarge, by areas to shrink.

    One of the two sides stays what it is: then no row, or no column, depends on its neighbours.
    """
    if image.shape == (height, width):
        return image
    shrinks = width * height < image.size
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(image, (width, height), interpolation=method)
