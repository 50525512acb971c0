"""Colour hints of a user: known colours at points of a photograph.

A file of hints is JSON, for one photograph

    [{"x": 120, "y": 80, "color": "#7a2e2e"}, {"x": 40, "y": 300, "color": [96, 128, 64]}]

or, for several, an object with such a list under each file name. x and y are px from the left and
the top, and a colour is sRGB. Its lightness does not count.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import ImageColor

from chromagan_jax import color
from chromagan_jax.errors import UserError

RADIUS = 2  # px at the size of the network, of the hinted square


class Hint(NamedTuple):
    """A colour at a point of a photograph."""

    x: float  # px from the left
    y: float  # px from the top
    color: tuple[int, int, int]  # sRGB, 0 to 255


def read(path: Path) -> Mapping[str, tuple[Hint, ...]]:
    """The hints of a file by photograph; under '' for a file about one photograph.

    Raises:
        UserError: if the file cannot be read or holds something else.
    """
    try:
        content = json.loads(path.read_text('utf-8-sig'))  # Windows' editors add a mark
    except OSError as error:
        raise UserError(
            f'--hints={path} cannot be read ({error.strerror}): correct the path.'
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f'--hints={path} is not JSON ({error}): correct the file.') from error
    lists = content if isinstance(content, dict) else {'': content}
    return {name: parse(hints, f'--hints={path}') for name, hints in lists.items()}


def parse(hints: Any, origin: str = 'hints') -> tuple[Hint, ...]:
    """Hints from a list of {'x', 'y', 'color'} or of (x, y, color).

    A colour is '#rrggbb', a CSS name, or three whole numbers from 0 to 255.

    Raises:
        UserError: for the first entry of another form.
    """
    if not isinstance(hints, Sequence) or isinstance(hints, str):
        raise UserError(f'{origin} must hold a list of hints, not {hints!r}.')
    return tuple(_parse_one(hint, origin) for hint in hints)


def _parse_one(hint: Any, origin: str) -> Hint:
    try:
        x, y, given = (hint['x'], hint['y'], hint['color']) if isinstance(hint, Mapping) else hint
        rgb = ImageColor.getrgb(given) if isinstance(given, str) else tuple(given)
        red, green, blue = (int(value) for value in rgb[:3])
        exact = (red, green, blue) == tuple(rgb[:3])  # fractions would become black
        if not (exact and all(0 <= value <= 255 for value in (red, green, blue))):
            raise ValueError('a colour has three whole numbers from 0 to 255')
        return Hint(float(x), float(y), (red, green, blue))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f'{origin}: {hint!r} is not a hint like {{"x": 120, "y": 80, "color": "#7a2e2e"}}: a '
            'colour is #rrggbb or whole numbers from 0 to 255.'
        ) from error


def rasterize(hints: Sequence[Hint], shape: tuple[int, int], size: int) -> np.ndarray:
    """The input of a network with hints.

    Each hint becomes a square of 5 x 5 px; where squares overlap, the last hint counts.

    Args:
        hints: of one photograph.
        shape: height and width of the photograph, px.
        size: px, side of the square that the network sees.

    Returns:
        (size, size, 3) float32: a*/110, b*/110 and the mask, 0 elsewhere.

    Raises:
        UserError: for a point outside the photograph.
    """
    height, width = shape
    planes = np.zeros((size, size, 3), np.float32)
    for hint in hints:
        if not (0 <= hint.x < width and 0 <= hint.y < height):
            raise UserError(
                f'The hint at x={hint.x:g}, y={hint.y:g} lies outside the photograph of '
                f'{width} x {height} px: correct it.'
            )
        rgb = np.array(hint.color, np.float64) / 255
        ab = color.rgb_to_lab(rgb)[1:] / color.AB_SCALE
        row, column = int(hint.y * size / height), int(hint.x * size / width)
        rows = slice(max(row - RADIUS, 0), row + RADIUS + 1)
        columns = slice(max(column - RADIUS, 0), column + RADIUS + 1)
        planes[rows, columns] = *ab, 1
    return planes
