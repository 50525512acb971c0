"""Films as their frames, in the order in which they are shown, through FFmpeg (PyAV)."""

import functools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, ColorTrc, Interpolation

from chromagan_jax.utils.progress import format_duration

_HD_HEIGHT = 720  # px, from which a film without a matrix is taken for BT.709, as players do
_BT709, _SMPTE170M, _UNSPECIFIED = 1, 6, 2  # matrices, as FFmpeg numbers them
# Those of FFmpeg's scaler for a matrix; another one is that of BT.601.
_SCALER = {_BT709: 1, 4: 4, 7: 7, 9: 9}
_BT601 = 5
_HDR = {ColorTrc.SMPTE2084: 'PQ', ColorTrc.ARIB_STD_B67: 'HLG'}
_WIDE = {ColorPrimaries.BT2020, ColorPrimaries.SMPTE431, ColorPrimaries.SMPTE432}
_SAMPLES = 16  # frames by which borders are found
_NEUTRAL = 3  # steps of 8 bits from gray that compression makes
# Without the last one, results are too dark by a level.
_QUALITY = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


class UnreadableFilmError(Exception):
    """A file that is no film, or one that cannot be colorized; the text says why."""


class Film(NamedTuple):
    """What a film is; numbers of tags are FFmpeg's."""

    path: Path
    stream: int  # index of the video stream
    width: int
    height: int
    time_base: Fraction  # s, of timestamps
    rate: Fraction  # frames a second, the mean
    frames: int  # the number, mostly exact; 0: unknown
    seconds: float  # 0: unknown
    aspect: Fraction  # of a pixel
    rotation: int  # degrees counterclockwise, a multiple of 90, by which players turn the frames
    display: tuple[int, ...]  # the display matrix, () without one
    deep: bool  # more than 8 bits
    interlaced: bool
    range: int
    matrix: int
    primaries: int
    transfer: int
    notes: tuple[str, ...]


def open_input(path: Path) -> av.container.InputContainer:
    """Opens a file, and nothing else that it may name.

    Raises:
        UnreadableFilmError: FFmpeg cannot read it.
        OSError: it cannot be opened.
    """
    with path.open('rb') as file:  # the error of a missing file in the words of the system
        if not file.read(1):
            raise UnreadableFilmError('the file is empty')
    try:
        return av.open(
            f'file:{path}',
            'r',
            options={'protocol_whitelist': 'file'},
            metadata_errors='replace',
        )
    except (av.error.FFmpegError, ValueError) as error:
        raise UnreadableFilmError(
            f'it is not a film that FFmpeg can read ({_words(error)}); it may be incomplete'
        ) from error


def _words(error: Exception) -> str:
    return getattr(error, 'strerror', None) or str(error)


def probe(path: Path) -> Film:
    """Reads what a film is from its container and its first frame.

    Raises:
        UnreadableFilmError: it has no frames that can be colorized.
        OSError: it cannot be opened.
    """
    with open_input(path) as container:
        stream = container.streams.best('video')
        if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
            raise UnreadableFilmError('it holds no video')
        first = next(_decoded(container, stream), None)
        if first is None:
            raise UnreadableFilmError('none of its frames can be read: it is damaged, or encrypted')
        if first.color_trc in _HDR:
            raise UnreadableFilmError(
                f'it is HDR ({_HDR[ColorTrc(first.color_trc)]}): convert it to SDR first'
            )
        return _film(path, container, stream, first)


def _film(
    path: Path,
    container: av.container.InputContainer,
    stream: av.VideoStream,
    first: VideoFrame,
) -> Film:
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    seconds = 0.0
    if stream.duration:
        seconds = float(stream.duration * stream.time_base)
    elif container.duration:
        seconds = container.duration / av.time_base
    matrix = first.colorspace
    if matrix in (0, _UNSPECIFIED, 3):  # RGB has none
        matrix = _BT709 if first.height >= _HD_HEIGHT else _SMPTE170M
    rgb = first.format.is_rgb
    full = rgb or first.format.name.startswith('yuvj') or first.color_range == ColorRange.JPEG
    display = first.side_data.get(SideData.DISPLAYMATRIX)
    wide = first.color_primaries in _WIDE
    notes = []
    if wide:
        notes.append('its wide gamut becomes that of BT.709')
    if len(first.format.components) == 4:
        notes.append('its transparency is not kept')
    return Film(
        path,
        stream.index,
        first.width,
        first.height,
        stream.time_base,
        rate,
        stream.frames or round(seconds * rate),
        seconds,
        stream.sample_aspect_ratio or Fraction(1),
        round(first.rotation / 90) % 4 * 90,
        tuple(np.frombuffer(display, np.int32).tolist()) if display is not None else (),
        max(component.bits for component in first.format.components) > 8,
        first.interlaced_frame,
        ColorRange.JPEG if full else ColorRange.MPEG,
        matrix,
        ColorPrimaries.BT709 if wide else first.color_primaries,
        first.color_trc,
        tuple(notes),
    )


def _decoded(
    container: av.container.InputContainer, stream: av.VideoStream, damaged: list[int] | None = None
) -> Iterator[VideoFrame]:
    """The frames of a stream; packets that cannot be decoded are left out and counted."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.error.FFmpegError:  # the rest of the file
            packet = None
        try:
            yield from stream.decode(packet)
        except av.error.EOFError:
            return
        except av.error.FFmpegError:
            if damaged is not None:
                damaged.append(1)
        if packet is None:
            return


class Frames:
    """The frames of a film, each with a timestamp that is greater than the one before.

    Attributes:
        note: after the last frame: what of the film could not be read; '' if nothing.
    """

    def __init__(self, film: Film):
        self._film = film
        self.note = ''

    def __iter__(self) -> Iterator[VideoFrame]:
        film = self._film
        usual = usual_duration(film)
        damaged: list[int] = []
        start: int | None = None
        last = end = 0
        with open_input(film.path) as container:
            stream = container.streams[film.stream]
            stream.thread_type = 'AUTO'
            for frame in _decoded(container, stream, damaged):
                time = frame.dts if frame.pts is None else frame.pts
                if start is None:
                    start = last = time or 0
                else:
                    last = max(last + 1, last + usual if time is None else time)
                end = last + (frame.duration or usual)
                resized = frame.reformat(film.width, film.height)  # itself, if it has that size
                resized.pts, resized.time_base = last, film.time_base
                yield resized
        self.note = self._losses(len(damaged), end - (start or 0))

    def _losses(self, damaged: int, ticks: int) -> str:
        film = self._film
        seconds = float(ticks * film.time_base)
        if film.seconds - seconds > max(1, 0.02 * film.seconds):
            return (
                f'only the first {format_duration(seconds)} of {format_duration(film.seconds)} '
                'could be read: the file is damaged or incomplete'
            )
        if damaged:
            return f'{damaged} damaged parts were passed over'
        return ''


def usual_duration(film: Film) -> int:
    """How long a frame lasts, in units of the time base."""
    return max(1, round(1 / (film.rate * film.time_base)))


def samples(film: Film, number: int = _SAMPLES) -> Iterator[tuple[float, np.ndarray]]:
    """Up to `number` frames from all over a film, as pixels; the first alone if it cannot seek."""
    with open_input(film.path) as container:
        stream = container.streams[film.stream]
        start = stream.start_time or 0
        for index in range(number if film.seconds else 1):
            share = (index + 0.5) / number
            try:
                if film.seconds:
                    place = start + round(share * film.seconds / film.time_base)
                    container.seek(place, stream=stream)
                frame = next(_decoded(container, stream), None)
            except av.error.FFmpegError:
                return
            if frame is not None and (frame.width, frame.height) == (film.width, film.height):
                yield share, pixels_of(frame, film)


def pixels_of(frame: VideoFrame, film: Film) -> np.ndarray:
    """A frame as pixels of a photograph, upright, full range.

    Returns:
        (H, W) uint16 if it is gray, otherwise (H, W, 3) RGB, uint8, or uint16 if the film is deep.
    """
    gray = _gray(frame, film)
    if gray is None:
        rgb = frame.reformat(
            format='rgb48le' if film.deep else 'rgb24',
            src_colorspace=scaler_matrix(film),
            src_color_range=film.range,
            dst_color_range=ColorRange.JPEG,
            interpolation=_QUALITY,
        )
        gray = rgb.to_ndarray()
    return np.ascontiguousarray(np.rot90(gray, film.rotation // 90))


def scaler_matrix(film: Film) -> int:
    """The matrix of a film, as FFmpeg's scaler numbers it."""
    return _SCALER.get(film.matrix, _BT601)


def _gray(frame: VideoFrame, film: Film) -> np.ndarray | None:
    """(H, W) uint16 of a gray frame; None for one in colour, and for packed and other formats."""
    name = frame.format.name
    planar = name.startswith('gray') or (name.startswith('yuv') and len(frame.planes) >= 3)
    bits = frame.format.components[0].bits
    if not planar or bits > 16 or name.endswith('be'):
        return None
    if len(frame.planes) >= 3:
        middle = 1 << (bits - 1)
        most = _NEUTRAL << (bits - 8)
        for index in (1, 2):
            chroma = _plane(frame, index, bits)
            if int(chroma.max()) - middle > most or middle - int(chroma.min()) > most:
                return None
    return _full_range(bits, film.range == ColorRange.JPEG)[_plane(frame, 0, bits)]


def _plane(frame: VideoFrame, index: int, bits: int) -> np.ndarray:
    """The samples of a plane."""
    plane = frame.planes[index]
    dtype = np.dtype(np.uint8 if bits == 8 else '<u2')
    rows = np.frombuffer(plane, dtype).reshape(plane.height, plane.line_size // dtype.itemsize)
    return rows[:, : plane.width]


@functools.cache
def _full_range(bits: int, full: bool) -> np.ndarray:
    """Codes of Y to gray of 16 bits, clipped to black and white."""
    codes = np.arange(1 << bits if bits == 8 else 1 << 16, dtype=np.float64)
    scale = 1 << (bits - 8)
    share = codes / ((1 << bits) - 1) if full else (codes / scale - 16) / 219
    return np.rint(np.clip(share, 0, 1) * 65535).astype(np.uint16)
