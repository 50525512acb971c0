"""Which parts of a photograph the network sees: borders are left out, long strips are divided."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from chromagan_jax.config.postprocess import OFF, PostProcess
from chromagan_jax.inference import photos
from chromagan_jax.inference.hints import Hint, rasterize
from chromagan_jax.inference.photos import Box

# Up to a batch of (size, size, 3) uint8 images, the sample of each (None: without noise) and the
# hints of each (`hints.rasterize`) -> a*, b*, (n, size, size, 2) float32.
Predict = Callable[[Sequence[np.ndarray], Sequence[int | None], Sequence[np.ndarray]], np.ndarray]

_MAX_ASPECT = 2.0  # wider and higher photographs are divided; docs/files.md has the figures
_MAX_PARTS = 64  # of one photograph; a longer one is squeezed to these
_BORDER_SIDE = 512  # px, at most; a border is looked for at this size
_MAX_BORDER = 0.25  # of a side
_MIN_BORDER = 0.02  # of a side
_WHITE, _BLACK = 92.0, 8.0  # L* of borders, at least and at most
_PLAIN, _TOLERANCE = 0.98, 3.0  # share of a border's row, and how far it is from the tone, L*
_STEP, _SHARE = 15.0, 0.1  # step in L* to the photograph, and the share of the row that has it


class View(NamedTuple):
    """A photograph and what the network sees of it."""

    pixels: np.ndarray  # (H, W), (H, W, 3) or (H, W, 4)
    box: Box  # the photograph without its border
    small: np.ndarray  # (h, w, 3) uint8, the box at the size of the colours
    inputs: list[np.ndarray]  # (size, size, 3) uint8, parts of `small`
    points: list[np.ndarray]  # (size, size, 3) float32, the hints of each input


def prepare(
    pixels: np.ndarray,
    size: int,
    post: PostProcess = OFF,
    hints: Sequence[Hint] = (),
    box: Box | None = None,
) -> View:
    """Denoises a photograph if `post` says so, and makes the inputs of a network.

    A photograph without a border whose aspect is at most 2 is one input, squeezed to a square.
    A longer one becomes squares that overlap by at least a half.

    Args:
        pixels: (H, W), (H, W, 3) or (H, W, 4).
        size: px, the side of the square that the network sees.
        post: only `denoise_before` has an effect.
        hints: known colours, at pixels of the photograph.
        box: the photograph without its border; None: as `content_box` finds it.

    Raises:
        UserError: for a hint outside the photograph.
    """
    rasterize(hints, pixels.shape[:2], size)  # checks them
    pixels = photos.denoise(pixels, post)
    box = box or content_box(pixels)
    inside = pixels[box.top : box.bottom, box.left : box.right]
    height, width = inside.shape[:2]
    aspect = max(height, width) / min(height, width)
    if aspect <= _MAX_ASPECT:
        small = photos.shrink(inside, size)
        return View(pixels, box, small, [small], [_points(hints, box, size)])
    length = min(round(size * aspect), size * (_MAX_PARTS + 1) // 2)
    wide = width > height
    small = photos.shrink(inside, *((length, size) if wide else (size, length)))
    inputs, points = [], []
    for start in _starts(length, size):
        part = small[:, start : start + size] if wide else small[start : start + size]
        inputs.append(np.ascontiguousarray(part))
        points.append(_points(hints, _part(box, start / length, size / length, wide), size))
    return View(pixels, box, small, inputs, points)


def _part(box: Box, start: float, share: float, wide: bool) -> Box:
    """A part of a box, given by where it begins and how long it is, as shares of the long side."""
    if wide:
        across = box.right - box.left
        left = box.left + start * across
        return box._replace(
            left=round(left), right=max(round(left) + 1, round(left + share * across))
        )
    down = box.bottom - box.top
    top = box.top + start * down
    return box._replace(top=round(top), bottom=max(round(top) + 1, round(top + share * down)))


def _points(hints: Sequence[Hint], box: Box, size: int) -> np.ndarray:
    """The input for the hints inside a box."""
    inside = [
        hint._replace(x=hint.x - box.left, y=hint.y - box.top)
        for hint in hints
        if box.left <= hint.x < box.right and box.top <= hint.y < box.bottom
    ]
    return rasterize(inside, (box.bottom - box.top, box.right - box.left), size)


def predict_views(
    predict: Predict, views: Sequence[tuple[View, int | None]], batch_size: int
) -> list[list[np.ndarray]]:
    """The colours of each input of views, each with the number of its sample."""
    inputs = [
        (image, sample, points)
        for view, sample in views
        for image, points in zip(view.inputs, view.points, strict=True)
    ]
    colors: list[np.ndarray] = []
    for start in range(0, len(inputs), batch_size):
        images, samples, hints = zip(*inputs[start : start + batch_size], strict=True)
        colors += list(predict(images, samples, hints))
    taken = iter(colors)
    return [[next(taken) for _ in view.inputs] for view, _ in views]


def recolor(
    view: View, colors: Sequence[np.ndarray], post: PostProcess = OFF, deep: bool = False
) -> np.ndarray:
    """The result of a photograph.

    Args:
        view: of `prepare`.
        colors: (size, size, 2) a*, b* of each input.
        post: processing of colours and contrast.
        deep: whether the result is uint16; otherwise it is uint8.

    Returns:
        (H, W, 3), or (H, W, 4) with the alpha of the photograph. A border is gray.
    """
    return photos.recolor(view.pixels, view.small, joined(view, colors), post, view.box, deep)


def _starts(length: int, size: int) -> list[int]:
    """Where squares begin that cover a strip and overlap by at least a half."""
    number = -(-(length - size) // (size // 2)) + 1
    return [round(index * (length - size) / (number - 1)) for index in range(number)]


def joined(view: View, colors: Sequence[np.ndarray]) -> np.ndarray:
    """(h, w, 2) colours of `view.small`, those of overlapping inputs blended."""
    if len(colors) == 1:
        return colors[0]
    height, width = view.small.shape[:2]
    size, wide = colors[0].shape[0], width > height
    total = np.zeros((max(height, width), size, 2), np.float32)  # along the strip
    weights = np.zeros((max(height, width), 1, 1), np.float32)
    ramp = np.minimum(np.arange(size) + 0.5, size - 0.5 - np.arange(size))
    weight = ramp.astype(np.float32)[:, None, None]
    for start, ab in zip(_starts(len(total), size), colors, strict=True):
        total[start : start + size] += weight * (ab.swapaxes(0, 1) if wide else ab)
        weights[start : start + size] += weight
    total /= weights
    return np.ascontiguousarray(total.swapaxes(0, 1)) if wide else total


def content_box(pixels: np.ndarray) -> Box:
    """The photograph without a white or black border, such as of prints and films.

    A border has rows, or columns, of one white or black tone, on two opposite sides at least. It
    ends at a step in lightness. A sky or a dark ground that fades into the photograph is none.
    """
    height, width = pixels.shape[:2]
    whole = Box(0, height, 0, width)
    if min(height, width) < 32:
        return whole
    scale = min(1.0, _BORDER_SIDE / max(height, width))
    small = photos.shrink(pixels, max(16, round(width * scale)), max(16, round(height * scale)))
    light = photos.lightness(small)
    ends = [*_border(light), *_border(light.T)]
    top, bottom, left, right = (
        round(count * side / across)
        for count, side, across in zip(
            ends, (height, height, width, width), np.repeat(light.shape, 2), strict=True
        )
    )
    if not (top and bottom) and not (left and right):
        return whole
    return Box(top, height - bottom, left, width - right)


def _border(light: np.ndarray) -> tuple[int, int]:
    """How many first and last rows of L* are a border; 0 without one."""
    return _first_rows(light), _first_rows(light[::-1])


def _first_rows(light: np.ndarray) -> int:
    """How many first rows are a border; 0 if they are none."""
    tone = np.median(light[0])
    if _BLACK < tone < _WHITE:
        return 0
    rows = np.mean(np.abs(light - tone) <= _TOLERANCE, axis=1) >= _PLAIN
    number = len(rows) if rows.all() else int(np.argmin(rows))
    if not _MIN_BORDER * len(rows) <= number <= _MAX_BORDER * len(rows):
        return 0
    # Two rows behind: the first one may be a mixture by the resize.
    step = np.abs(light[min(number + 1, len(rows) - 1)] - tone)
    return number if np.mean(step >= _STEP) >= _SHARE else 0
