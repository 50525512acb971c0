"""Photographs in colour, as distinct from gray and toned ones."""

import numpy as np

from chromagan_jax import color
from chromagan_jax.data.decode import resize
from chromagan_jax.data.decode.profiles import to_8_bits

_SIDE = 64  # px; noise and specks are averaged
_BINS = 20  # of L*
_LEAST = 8  # pixels of a bin
_ALONG = 0.3  # weight of distances along the hue of the tone: prints fade and stain unevenly
_COLOR = 5.5  # of `chroma_spread`; docs/files.md has the figures


def is_color(pixels: np.ndarray) -> bool:
    """Whether a photograph has colours. Sepia and other toned prints have none.

    Args:
        pixels: (H, W), (H, W, 3) or (H, W, 4), uint8 or uint16 sRGB.
    """
    return chroma_spread(pixels) > _COLOR


def chroma_spread(pixels: np.ndarray) -> float:
    """How far a*, b* of an image lie from one tone for each lightness.

    A toned print has one curve of a*, b* over L*, and mostly one hue. The spread is the 98th
    percentile of the distances to the curve (the median of a*, b* in bins of L*), in units of a*
    and b*. Distances along the mean hue have a lower weight.
    """
    if pixels.ndim == 2:
        return 0.0
    small = resize(to_8_bits(np.ascontiguousarray(pixels)), _SIDE, _SIDE)
    shown = small[..., 3] > 127 if small.shape[2] == 4 else np.ones(small.shape[:2], bool)
    if not shown.any():
        return 0.0
    condition, target = color.encode(np.ascontiguousarray(small[..., :3]), 'lab')
    lightness, ab = (condition[shown, 0] + 1) / 2, target[shown] * color.AB_SCALE
    u, v = ab.mean(axis=0) / max(np.hypot(*ab.mean(axis=0)), 1e-6)
    ab = ab @ np.array([[_ALONG * u, -v], [_ALONG * v, u]], np.float32)
    bins = np.minimum((lightness * _BINS).astype(int), _BINS - 1)
    distances = [
        np.hypot(*(ab[bins == index] - np.median(ab[bins == index], axis=0)).T)
        for index in range(_BINS)
        if np.count_nonzero(bins == index) >= _LEAST
    ]
    return float(np.percentile(np.concatenate(distances), 98)) if distances else 0.0
