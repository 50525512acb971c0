"""Colours that follow the motion in a film, so that they do not flicker. Functions of arrays.

L is (h, w) uint8 lightness at the size of the network, L* in steps of 100/255. Flow is (h, w, 2)
float32, px right and down.
"""

from typing import Any, NamedTuple

import cv2
import numpy as np


class Blend(NamedTuple):
    """How strongly colours are carried from frame to frame; docs/video.md has the figures."""

    strength: float = 0.95  # share of the carried colours where the motion is certain
    lightness: float = 20.0  # of L: a carried pixel that differs by more counts little
    slack: float = 1.0  # px^2 by which forward and backward flow may differ, Sundaram et al.


class Colored(NamedTuple):
    """A frame and its colours, which the next frame takes over."""

    light: np.ndarray  # L
    ab: np.ndarray  # (h, w, 2) float32


def smooth(previous: Colored | None, light: np.ndarray, ab: np.ndarray, blend: Blend) -> Colored:
    """Blends the colours of the network with those of the previous frame, moved along the flow.

    Args:
        previous: the frame before; None at the start of a scene.
        light: L of this frame.
        ab: (h, w, 2) float32 of the network.
        blend: constants.
    """
    if previous is None:
        return Colored(light, ab)
    backward = flow(light, previous.light)
    forward = flow(previous.light, light)
    share = blend.strength * trust(light, previous.light, backward, forward, blend)
    carried = warp(previous.ab, backward)
    return Colored(light, ab + share[..., None] * (carried - ab))


def flow(target: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Where each pixel of `target` lies in `source`, relative to its place; both are L.

    Dense inverse search (Kroeger et al. 2016, https://arxiv.org/abs/1603.03590).
    """
    search: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return search.calc(np.ascontiguousarray(target), np.ascontiguousarray(source), None)


def warp(image: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """An image at the places to which `motion` points, bilinear; its edge goes on outside."""
    return cv2.remap(image, *_places(motion), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _places(motion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """X and y to which `motion` points."""
    height, width = motion.shape[:2]
    x = motion[..., 0] + np.arange(width, dtype=np.float32)
    y = motion[..., 1] + np.arange(height, dtype=np.float32)[:, None]
    return x, y


def trust(
    light: np.ndarray,
    before: np.ndarray,
    backward: np.ndarray,
    forward: np.ndarray,
    blend: Blend,
) -> np.ndarray:
    """How certain each pixel's motion is, (h, w) float32 in [0, 1].

    It falls with the way that is left after the flow to the frame before and back (the bound is
    that of Sundaram et al. 2010, https://doi.org/10.1007/978-3-642-15549-9_32), and with the
    difference of the lightness along it. It is 0 where the flow leaves the frame.
    """
    back = warp(forward, backward)
    left = np.square(backward + back).sum(axis=2)
    bound = 0.01 * (np.square(backward).sum(axis=2) + np.square(back).sum(axis=2)) + blend.slack
    change = cv2.absdiff(light, warp(before, backward))
    change = cv2.blur(np.asarray(change, np.float32), (5, 5))  # grain differs from frame to frame
    certain = np.exp(-left / bound - np.square(change / blend.lightness))
    height, width = light.shape
    x, y = _places(backward)
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return np.where(inside, certain, 0).astype(np.float32)
