"""Frames in colour as H.264, in a file of one segment of a film."""

from pathlib import Path
from typing import Self

import av
import numpy as np
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import ColorRange, Interpolation

from chromagan_jax.inference.video.read import Film, scaler_matrix

_LOOKAHEAD = 20  # frames that x264 keeps
_QUALITY = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP


def pixel_format(film: Film) -> str:
    """8 or 10 bits, 4:2:0; 4:4:4 where a side is odd, since 4:2:0 has pairs of pixels.

    The height that counts is that of a field, if the film is interlaced.
    """
    odd = film.width % 2 or film.height % (4 if film.interlaced else 2)
    sampling = 'yuv444p' if odd else 'yuv420p'
    return f'{sampling}10le' if film.deep else sampling


def to_frame(rgb: np.ndarray, source: VideoFrame, film: Film) -> VideoFrame:
    """A result as a frame with the timestamp, the tags and the captions of its source.

    Args:
        rgb: (H, W, 3), uint8, or uint16 if the film is deep, upright.
        source: the frame of the film.
        film: matrix, range and rotation.
    """
    rgb = np.ascontiguousarray(np.rot90(rgb, -(film.rotation // 90)))
    layout = pixel_format(film)
    result = source.reformat(format=layout, interpolation=Interpolation.POINT)
    result.make_writable()  # the decoder may still read its planes
    fields = [rgb[0::2], rgb[1::2]] if film.interlaced else [rgb]
    parts = [_converted(field, layout, film) for field in fields]
    for index, plane in enumerate(result.planes):
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        for offset, part in enumerate(parts):
            values = part.planes[index]
            taken = np.frombuffer(values, np.uint8).reshape(values.height, values.line_size)
            used = min(plane.line_size, values.line_size)
            rows[offset :: len(parts), :used] = taken[:, :used]
    result.colorspace, result.color_range = film.matrix, film.range
    result.color_primaries, result.color_trc = film.primaries, film.transfer
    result.pict_type = PictureType.NONE
    return result


def _converted(rgb: np.ndarray, layout: str, film: Film) -> VideoFrame:
    name = 'rgb48le' if film.deep else 'rgb24'
    return VideoFrame.from_ndarray(np.ascontiguousarray(rgb), name).reformat(
        format=layout,
        dst_colorspace=scaler_matrix(film),
        src_color_range=ColorRange.JPEG,
        dst_color_range=film.range,
        interpolation=_QUALITY,
    )


class Segment:
    """A file of H.264 without B-frames, so that segments can follow each other."""

    def __init__(self, path: Path, film: Film, crf: int):
        self._container = av.open(f'file:{path}', 'w', format='nut')
        options = {
            'crf': str(crf),
            'preset': 'fast',
            'rc-lookahead': str(_LOOKAHEAD),
        }
        if film.interlaced:
            options['flags'] = '+ildct+ilme'
        self._stream = self._container.add_stream(
            'libx264', rate=film.rate, time_base=film.time_base, options=options
        )
        context = self._stream.codec_context
        context.width, context.height = film.width, film.height
        context.pix_fmt = pixel_format(film)
        context.time_base = film.time_base
        context.max_b_frames = 0
        context.sample_aspect_ratio = film.aspect
        context.colorspace, context.color_range = film.matrix, film.range
        context.color_primaries, context.color_trc = film.primaries, film.transfer

    def add(self, frame: VideoFrame) -> None:
        """Appends a frame."""
        self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Writes the frames that the encoder still has."""
        self._container.mux(self._stream.encode(None))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()
