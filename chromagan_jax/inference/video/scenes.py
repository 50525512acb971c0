"""Scene changes, from the lightness of two frames."""

import cv2
import numpy as np

_BINS = 32  # of the histogram
_SIDE = 32  # px, at which structure is compared
_CUT = 0.14  # change of structure times change of tones; docs/video.md has the figures


def is_cut(light: np.ndarray, before: np.ndarray) -> bool:
    """Whether a scene ends between two frames; each is (h, w) uint8 lightness.

    Structure and tones both have to change: a flash changes the tones, motion the structure.
    """
    return (1 - _correlation(light, before)) * _tones_apart(light, before) > _CUT


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """The correlation of two images at a small size; 1 if both are plain."""
    small = [
        cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
        for image in (one, other)
    ]
    centred = [image - image.mean() for image in small]
    norm = np.sqrt(np.prod([np.square(image).sum() for image in centred]))
    return float((centred[0] * centred[1]).sum() / norm) if norm > _SIDE**2 else 1.0


def _tones_apart(one: np.ndarray, other: np.ndarray) -> float:
    """The share of the pixels whose tones the other image does not have, in [0, 1]."""
    histograms = [
        cv2.calcHist([image], [0], None, [_BINS], [0, 256]).ravel() / image.size
        for image in (one, other)
    ]
    return float(np.abs(histograms[0] - histograms[1]).sum() / 2)
