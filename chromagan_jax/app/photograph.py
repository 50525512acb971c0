"""One photograph of a visitor: colorized once, then treated and written as often as wanted.

It has a folder with

    NAME          the file as it was uploaded
    colors.npz    the network's colours and what a preview needs
    before.jpg    a preview of the photograph
    after.N.jpg   a preview of the result
    small.jpg     a thumbnail of the first result

So other options only treat the stored colours again, and no memory is held between two requests.
"""

import io
import os
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw

from chromagan_jax.config.postprocess import PostProcess
from chromagan_jax.data.decode import UnreadableImage, read, resize
from chromagan_jax.data.decode.profiles import to_8_bits
from chromagan_jax.errors import UserError
from chromagan_jax.inference import encode, headers, layout, metadata, output, photos, toning
from chromagan_jax.inference.encode import Encoding
from chromagan_jax.inference.hints import Hint, parse
from chromagan_jax.inference.layout import Predict, View, predict_views
from chromagan_jax.inference.photos import Box

_PREVIEW_SIDE, _THUMBNAIL_SIDE = 1280, 240  # px, at most
_LOADING = 30.0  # s that a page takes to load a preview, at most
_QUALITY = 90  # of a preview's JPEG
_MAX_NAME = 120  # characters of a file name that are kept
# Errors of one photograph, after which the page goes on.
FAILURES = (UserError, UnreadableImage, OSError, MemoryError)


class Network(NamedTuple):
    """What colorizes."""

    predict: Predict
    size: int  # px, side of its input
    max_pixels: int  # of a photograph
    sample: int | None = None  # of the noise
    takes_hints: bool = False


class Photograph(NamedTuple):
    """A colorized photograph."""

    source: Path
    width: int
    height: int
    notes: tuple[str, ...] = ()
    hints: tuple[Hint, ...] = ()
    denoised: float = 0.0  # `denoise_before` of the colours

    @property
    def folder(self) -> Path:
        return self.source.parent

    @property
    def before(self) -> Path:
        return self.folder / 'before.jpg'

    @property
    def thumbnail(self) -> Path:
        return self.folder / 'small.jpg'


def reason(error: BaseException) -> str:
    """What an error of `FAILURES` says, as one sentence."""
    if isinstance(error, FileNotFoundError):
        return 'The photograph is no longer there: reload the page and add it again.'
    text = getattr(error, 'strerror', None) or str(error) or 'not enough memory'
    return text if text.endswith('.') else f'{text}.'


def add(upload: Path, folder: Path, network: Network, post: PostProcess) -> Photograph:
    """Takes an uploaded file into a session's folder and runs the network.

    Args:
        upload: the file. It stays where it is; the session gets a link.
        folder: of the session.
        network: that colorizes.
        post: only `denoise_before` has an effect.

    Raises:
        UnreadableImage: the file is damaged, too large or no image.
        OSError: it cannot be read or stored.
    """
    place = folder / secrets.token_hex(8)
    place.mkdir(parents=True)
    source = place / plain_name(upload.name)
    try:
        try:
            os.link(upload, source)
        except FileNotFoundError:
            raise UserError('the upload is no longer there: add it again.') from None
        except OSError:  # another file system
            shutil.copyfile(upload, source)
        pixels, frames = read(source, network.max_pixels)
        notes = [f'The first of its {frames} frames is colorized.'] if frames > 1 else []
        if toning.is_color(pixels):
            notes.append('It was in colour already: its colours are replaced.')
        _jpeg(pixels, place / 'before.jpg')
        photograph = Photograph(source, pixels.shape[1], pixels.shape[0], tuple(notes))
        return _run(photograph, pixels, network, post)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


def colorize_again(
    photograph: Photograph, hints: Sequence[Hint], network: Network, post: PostProcess
) -> Photograph:
    """Runs the network with other hints or another `post.denoise_before`.

    Raises:
        UserError: for a hint outside the photograph.
        UnreadableImage, OSError: the file is no longer there.
    """
    pixels = read(photograph.source, network.max_pixels).pixels
    return _run(photograph._replace(hints=tuple(hints)), pixels, network, post)


def _run(
    photograph: Photograph, pixels: np.ndarray, network: Network, post: PostProcess
) -> Photograph:
    view = layout.prepare(pixels, network.size, post, photograph.hints)
    colors = predict_views(network.predict, [(view, network.sample)], 1)[0]
    small = _reduced(view)
    data = io.BytesIO()
    np.savez(data, pixels=small.pixels, box=small.box, small=small.small, colors=np.stack(colors))
    output.write(photograph.folder / 'colors.npz', [data.getvalue()])
    if not photograph.thumbnail.exists():
        result = layout.recolor(small, colors, post)
        _jpeg(result, photograph.thumbnail, _THUMBNAIL_SIDE)
    return photograph._replace(denoised=post.denoise_before)


def preview(photograph: Photograph, post: PostProcess) -> Path:
    """Writes a preview of the result, without running the network; returns its path.

    The path is new each time, so that no browser shows an older one.
    """
    with np.load(photograph.folder / 'colors.npz') as stored:
        view = View(stored['pixels'], Box(*stored['box'].tolist()), stored['small'], [], [])
        result = layout.recolor(view, stored['colors'], post)
    return _replaced(photograph, 'after', lambda path: _jpeg(result, path))


def _replaced(photograph: Photograph, name: str, save: Callable[[Path], None]) -> Path:
    """Saves a JPEG under a new name, and removes the earlier ones that no page is still loading."""
    # The photograph itself may be called after.scan.jpg.
    earlier = [p for p in photograph.folder.glob(f'{name}.*.jpg') if p != photograph.source]
    old = [p for p in earlier if time.time() - p.stat().st_mtime > _LOADING]
    path = photograph.folder / f'{name}.{time.monotonic_ns()}.jpg'
    save(path)
    for other in old:
        other.unlink(missing_ok=True)
    return path


def write(
    photograph: Photograph,
    target: Path,
    network: Network,
    post: PostProcess,
    encoding: Encoding = encode.DEFAULT,
) -> None:
    """Writes the result at full resolution, as the colorize command does.

    Args:
        photograph: of the session.
        target: path of the result, whose suffix chooses the kind of file.
        network: that gave the colours; it does not run.
        post: processing.
        encoding: whether metadata are kept, and the bit depth.

    Raises:
        UnreadableImage: the kind of file cannot have that size.
        UserError, OSError: the file cannot be written.
    """
    headers.check_side(max(photograph.width, photograph.height), target.suffix)
    pixels = read(photograph.source, network.max_pixels, deep=encoding.depth == 16).pixels
    deep = encode.is_deep(target, pixels, encoding)
    source = photograph.source
    kept = metadata.read(source) if encoding.metadata else metadata.NONE
    post_of_colors = _with_denoising(post, photograph.denoised)
    view = layout.prepare(pixels, network.size, post_of_colors, photograph.hints)
    with np.load(photograph.folder / 'colors.npz') as stored:
        result = layout.recolor(view, stored['colors'], post, deep)
    output.write(target, [encode.encode(result, target, source, kept, encoding)])


def hint_at(photograph: Photograph, x: float, y: float, color: str) -> Hint:
    """A hint at a point of a preview, px.

    Args:
        photograph: that is shown.
        x: px from the left of its preview.
        y: px from the top.
        color: as '#7a2e2e' or 'rgb(122, 46, 46)'.

    Raises:
        UserError: for what is no colour, or no number.
    """
    scale = _scale(photograph.width, photograph.height)
    (hint,) = parse([(x, y, color)])
    return hint._replace(x=(hint.x + 0.5) / scale, y=(hint.y + 0.5) / scale)


def draw_points(photograph: Photograph) -> Path:
    """Writes a preview of the photograph with its hints as coloured discs; returns its path."""
    image = Image.open(photograph.before).convert('RGB')
    drawing, scale = ImageDraw.Draw(image), _scale(photograph.width, photograph.height)
    for hint in photograph.hints:
        center = (hint.x * scale, hint.y * scale)
        drawing.circle(center, 9, fill=hint.color, outline='white', width=2)
    return _replaced(photograph, 'points', lambda path: image.save(path, quality=_QUALITY))


def _with_denoising(post: PostProcess, strength: float) -> PostProcess:
    return replace(post, denoise_before=strength)


def plain_name(name: str) -> str:
    """A file name without folders and control characters, of a moderate length."""
    name = name.replace('\\', '/').rsplit('/', 1)[-1]
    name = ''.join(character for character in name if character.isprintable()).lstrip('.')
    stem, dot, suffix = name.rpartition('.')
    name = f'{stem[:_MAX_NAME]}{dot}{suffix[:10]}' if stem else suffix[:_MAX_NAME]
    # No name of a session's own files.
    return (
        name
        if name and name not in ('colors.npz', 'before.jpg', 'small.jpg')
        else f'photograph.{name}'
    )


def _reduced(view: View) -> View:
    """A view with at most `_PREVIEW_SIDE` px a side, and without inputs."""
    height, width = view.pixels.shape[:2]
    pixels = _small(view.pixels)
    across, down = pixels.shape[1] / width, pixels.shape[0] / height
    top, bottom = round(view.box.top * down), round(view.box.bottom * down)
    left, right = round(view.box.left * across), round(view.box.right * across)
    box = Box(top, max(bottom, top + 1), left, max(right, left + 1))
    return View(pixels, box, view.small, [], [])


def _scale(width: int, height: int, side: int = _PREVIEW_SIDE) -> float:
    return min(1.0, side / max(width, height))


def _small(pixels: np.ndarray, side: int = _PREVIEW_SIDE) -> np.ndarray:
    """8-bit pixels of the same kind, at most `side` px wide and high."""
    scale = _scale(pixels.shape[1], pixels.shape[0], side)
    height, width = (max(1, round(length * scale)) for length in pixels.shape[:2])
    return to_8_bits(np.ascontiguousarray(resize(pixels, height, width)))


def _jpeg(pixels: np.ndarray, path: Path, side: int = _PREVIEW_SIDE) -> None:
    small = _small(pixels, side)
    rgb = cv2.merge([small] * 3) if small.ndim == 2 else photos.on_white(small)
    Image.fromarray(rgb).save(path, 'JPEG', quality=_QUALITY)
