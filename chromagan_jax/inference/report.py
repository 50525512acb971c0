"""One HTML page about a run: each photograph before and after, what was left out, what failed.

The page holds its images and needs no network. Unless stated, texts come from file names and are
escaped.
"""

import html
import io
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from chromagan_jax.data.decode import UnreadableImage, decode, read, resize
from chromagan_jax.data.decode.profiles import to_8_bits
from chromagan_jax.inference import headers, output, photos
from chromagan_jax.utils import page

_SIDE = 720  # px, of a preview
_QUALITY = 80  # of its JPEG

_STYLE = f"""body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 96rem;
  padding: 0 1rem; color: #222; background: #f6f6f4; }}
main {{ display: grid; gap: 1.5rem; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); }}
figure {{ margin: 0; content-visibility: auto; contain-intrinsic-size: 20rem; }}
figcaption {{ overflow-wrap: anywhere; margin-top: .35rem; }}
small {{ color: #666; }}
li {{ overflow-wrap: anywhere; }}
{page.PAIR_STYLE}"""
_INTRODUCTION = """<h1>Colorized photographs</h1>
<p>The colours are made by a machine and may be wrong. Drag over a photograph, or use the arrow
keys, to compare it with the original.</p>
"""


class Preview(NamedTuple):
    """Small JPEGs of a photograph and its result."""

    before: bytes
    after: bytes


def make_preview(pixels: np.ndarray, result: np.ndarray) -> Preview:
    """A preview of (H, W, ...) pixels of a photograph and of its result."""
    return Preview(_small_jpeg(pixels), _small_jpeg(result))


def read_preview(source: Path, target: Path, page: int, max_pixels: int) -> Preview | None:
    """A preview of a photograph and its result, from their files; None if one cannot be read.

    Args:
        source: the photograph.
        target: its result.
        page: of the photograph, from 0.
        max_pixels: larger images are not read.
    """
    try:
        return Preview(_of_file(source, page, max_pixels), _of_file(target, 0, max_pixels))
    except (OSError, UnreadableImage, MemoryError):
        return None


def _of_file(path: Path, page: int, max_pixels: int) -> bytes:
    if page:
        return _small_jpeg(read(path, max_pixels, page).pixels)
    sides = headers.size(path)
    least = -(-_SIDE * min(sides) // max(sides)) if sides else 0  # a JPEG is read at that size
    return _small_jpeg(decode(path.read_bytes(), least, max_pixels))


def _small_jpeg(pixels: np.ndarray) -> bytes:
    scale = min(1.0, _SIDE / max(pixels.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    small = to_8_bits(np.ascontiguousarray(resize(pixels, height, width)))
    rgb = cv2.merge([small] * 3) if small.ndim == 2 else photos.on_white(small)
    data = io.BytesIO()
    Image.fromarray(rgb).save(data, 'JPEG', quality=_QUALITY)
    return data.getvalue()


class Report:
    """A page that grows while a run goes on. Its photographs are in a file, not in memory."""

    def __init__(self, path: Path):
        """`path` is that of the page."""
        self._path = path
        self._figures = TemporaryFile()  # noqa: SIM115
        self._number = self._earlier = 0
        self._lists: dict[str, list[str]] = {'Failed': [], 'Left out': []}

    def add(
        self,
        source: Path,
        target: Path,
        preview: Preview,
        notes: Sequence[str] = (),
        earlier: bool = False,
    ) -> None:
        """Adds a photograph and its result; `earlier`: the result was there already."""
        name = _shown(source)
        said = ''.join(f'<br><small>{html.escape(note)}</small>' for note in notes)
        link = html.escape(Path(os.path.relpath(target, self._path.parent)).as_posix())
        figure = (
            f'<figure>{page.pair(name, preview.after, {"original": preview.before})}'
            f'<figcaption>{html.escape(name)} &rarr; {link}{said}</figcaption></figure>\n'
        )
        self._figures.write(figure.encode('utf-8', 'backslashreplace'))
        self._number += not earlier
        self._earlier += earlier

    def fail(self, sentence: str) -> None:
        """Adds a sentence about a failure."""
        self._lists['Failed'].append(sentence)

    def leave_out(self, sentence: str) -> None:
        """Adds a sentence about what was left out."""
        self._lists['Left out'].append(sentence)

    def write(self) -> None:
        """Writes the page.

        Raises:
            UserError: nothing more can be written there.
            OSError: the page cannot be written.
        """
        head = [
            page.head('chromagan_jax: colorized photographs', _STYLE),
            _INTRODUCTION,
            f'<p>{self._number} colorized',
        ]
        head += [f', {self._earlier} there already'] if self._earlier else []
        head += [f', {len(lines)} {name.lower()}' for name, lines in self._lists.items() if lines]
        head.append('.</p>\n')
        for name, lines in self._lists.items():
            if lines:
                items = ''.join(f'<li>{html.escape(_shown(line))}</li>\n' for line in lines)
                head.append(f'<h2>{name}</h2>\n<ul>\n{items}</ul>\n')
        self._figures.seek(0)
        first = (''.join(head) + '<main>\n').encode('utf-8', 'backslashreplace')
        last = f'</main>\n{page.PAIR_SCRIPT}{page.TAIL}'.encode()
        output.write(self._path, itertools.chain([first], self._figures, [last]))
        self._figures.close()


def _shown(text: Path | str) -> str:
    """Text with the bytes of a name that are no UTF-8 escaped."""
    return os.fsencode(str(text)).decode('utf-8', 'backslashreplace')
