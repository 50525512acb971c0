"""Frames as arrays: what the network sees of each, and their colours along a scene."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from chromagan_jax.config.postprocess import OFF, PostProcess
from chromagan_jax.inference import layout, photos, postprocess
from chromagan_jax.inference.layout import Predict, View
from chromagan_jax.inference.photos import Box
from chromagan_jax.inference.video.scenes import is_cut
from chromagan_jax.inference.video.smoothing import Blend, Colored, smooth

_PLAIN = 10.0  # of L*, deviation below which a frame shows no border


class Look(NamedTuple):
    """A frame before the network."""

    view: View
    light: np.ndarray  # (h, w) uint8 lightness of `view.small`, L* in steps of 100/255
    starts: bool  # whether a scene starts with it


def look(
    pixels: np.ndarray, before: np.ndarray | None, size: int, post: PostProcess, box: Box | None
) -> Look:
    """Prepares a frame.

    Args:
        pixels: (H, W) or (H, W, 3), uint8 or uint16.
        before: `light` of the frame before; None: there is none.
        size: px, the side of the square that the network sees.
        post: only `denoise_before` has an effect.
        box: the frame without a border; None: as `layout.content_box` finds it.
    """
    view = layout.prepare(pixels, size, post, box=box)
    light = np.rint(photos.lightness(view.small) * 2.55).astype(np.uint8)
    return Look(view, light, before is None or is_cut(light, before))


def color(
    looks: Sequence[Look],
    previous: Colored | None,
    predict: Predict,
    batch_size: int,
    post: PostProcess = OFF,
    blend: Blend | None = None,
) -> list[Colored]:
    """The colours of frames that follow each other.

    Saturation, white balance and noise reduction of `post` come before the colours are blended, so
    that they do not flicker either.

    Args:
        looks: the frames.
        previous: the frame before them.
        predict: the network.
        batch_size: inputs of the network at once.
        post: processing of colours.
        blend: how colours are carried; None: each frame by itself.
    """
    parts = layout.predict_views(predict, [(one.view, None) for one in looks], batch_size)
    results = []
    for one, colors in zip(looks, parts, strict=True):
        lightness = photos.lightness(one.view.small)
        ab = postprocess.treat_chroma(post, lightness, layout.joined(one.view, colors))
        before = None if one.starts or blend is None else previous
        previous = smooth(before, one.light, ab, blend or Blend())
        results.append(previous)
    return results


def recolor(one: Look, colored: Colored, post: PostProcess = OFF, deep: bool = False) -> np.ndarray:
    """A frame in its colours, (H, W, 3) uint8, or uint16 if `deep`, with its own lightness."""
    rest = replace(post, saturation=1.0, white_balance='none', denoise_after=0.0)
    view = one.view
    return photos.recolor(view.pixels, view.small, colored.ab, rest, view.box, deep)


def common_box(frames: Iterable[np.ndarray]) -> Box | None:
    """The part of a film without its border: that of all frames that show one; None without any."""
    boxes = [
        layout.content_box(pixels)
        for pixels in frames
        if photos.lightness(photos.shrink(pixels, 64)).std() > _PLAIN
    ]
    if not boxes:
        return None
    tops, bottoms, lefts, rights = zip(*boxes, strict=True)
    return Box(min(tops), max(bottoms), min(lefts), max(rights))
