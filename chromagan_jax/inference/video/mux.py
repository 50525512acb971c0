"""The container of a result: its colour video, and the other streams of the film as they are."""

import heapq
import io
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from chromagan_jax.inference import metadata
from chromagan_jax.inference.files import MARK
from chromagan_jax.inference.video.read import Film, open_input
from chromagan_jax.inference.video.segments import packets

# Containers that hold H.264 with any timestamps, and FFmpeg's name of each.
KEPT = {
    **dict.fromkeys(('.mp4', '.m4v', '.f4v'), 'mp4'),
    **dict.fromkeys(('.mkv', '.mk3d'), 'matroska'),
    **dict.fromkeys(('.ts', '.m2t', '.mts', '.m2ts'), 'mpegts'),
    **{'.mov': 'mov', '.3gp': '3gp', '.3g2': '3g2', '.nut': 'nut'},
}
OTHERWISE = '.mkv'
_COPIED = ('audio', 'subtitle', 'attachment')
# What a muxer writes itself, or what was true of the old video stream.
_OWN = {'major_brand', 'minor_version', 'compatible_brands', 'encoder', 'vendor_id'}
_OF_VIDEO = ('BPS', 'DURATION', 'NUMBER_OF_', '_STATISTICS')
_MAX_TEXT = 255  # bytes of a text in MPEG-TS
_OPTIONS = {
    'mpegts': {'mpegts_copyts': '1'},
    'matroska': {'default_mode': 'passthrough'},
}


def choose_suffix(film: Film) -> tuple[str, list[int], tuple[str, ...]]:
    """The container of a result.

    It is that of the film if FFmpeg can write H.264 and all audio and subtitles of the film to it;
    otherwise Matroska, without the streams that it does not take.

    Returns:
        The suffix, the indices of the streams that are copied, and notes about the others.
    """
    with open_input(film.path) as source:
        others = [s for s in source.streams if s.index != film.stream]
        wanted = [s for s in others if s.type in _COPIED or _is_picture(s)]
        own = film.path.suffix.lower()
        if own in KEPT and _takes(KEPT[own], wanted):
            suffix, taken = own, wanted
        else:
            suffix = OTHERWISE
            taken = [s for s in wanted if _takes(KEPT[suffix], [s])]
        left = [s for s in others if s not in taken]
        notes = tuple(f'its {_described(s)} is not copied' for s in left)
        return suffix, [s.index for s in taken], notes


def _is_picture(stream: Any) -> bool:
    """Whether a video stream is a cover picture."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _described(stream: Any) -> str:
    codec = getattr(stream.codec_context, 'name', None) or stream.name or 'unknown'
    return f'{stream.type} stream {stream.index} ({codec})'


def _takes(name: str, streams: Sequence[Any]) -> bool:
    """Whether a container takes H.264 and copies of streams: its header is written for a trial."""
    try:
        with av.open(io.BytesIO(), 'w', format=name) as trial:
            trial.add_stream('libx264', rate=25, width=64, height=64, pix_fmt='yuv420p')
            for stream in streams:
                _add_copy(trial, stream)
            trial.start_encoding()
    except (av.error.FFmpegError, ValueError):
        return False
    return True


def _add_copy(output: av.container.OutputContainer, stream: Any) -> Any:
    if stream.type == 'attachment':
        name = stream.metadata.get('filename') or stream.name or 'attachment'
        return output.add_attachment(name, stream.mimetype or '', stream.data)
    added = output.add_stream_from_template(stream, opaque=True)
    added.metadata.update({k: v for k, v in stream.metadata.items() if k not in _OWN})
    added.disposition = stream.disposition
    return added


def mux(
    film: Film,
    segments: Sequence[Path],
    copied: Sequence[int],
    target: Path,
    metadata: bool,
) -> None:
    """Writes a result.

    Args:
        film: the film.
        segments: its video in parts.
        copied: indices of the streams that are copied.
        target: the file; its suffix chooses the container.
        metadata: whether those of the film are kept.

    Raises:
        OSError: it cannot be written.
    """
    name = KEPT[target.suffix.lower()]
    with (
        open_input(film.path) as source,
        av.open(f'file:{segments[0]}') as first,
        av.open(
            f'file:{target}', 'w', format=name, container_options=_OPTIONS.get(name, {})
        ) as output,
    ):
        old = source.streams[film.stream]
        outputs = {}
        for stream in source.streams:
            if stream.index == film.stream:
                video = output.add_stream_from_template(first.streams.video[0], opaque=True)
                _describe(video, old, film, metadata)
            elif stream.index in copied:
                outputs[stream.index] = _add_copy(output, stream)
        if metadata:
            kept = {k: v for k, v in source.metadata.items() if k.lower() not in _OWN}
            output.metadata.update(kept)
            output.set_chapters(source.chapters())
        output.metadata.update(_note(film.path, name, output.metadata.get('comment', '')))
        streams = [source.streams[i] for i in outputs if source.streams[i].type != 'attachment']
        for packet in _interleaved(
            _of_stream(packets(segments, film.time_base), video),
            _copies(source, streams, outputs),
        ):
            output.mux_one(packet)


def _describe(video: Any, old: Any, film: Film, metadata: bool) -> None:
    """What the container says of the video."""
    video.sample_aspect_ratio = film.aspect
    video.codec_context.framerate = film.rate
    if film.display:
        video.set_display_matrix(film.display)
    if metadata:
        kept = {
            k: v
            for k, v in old.metadata.items()
            if k not in _OWN and not k.upper().startswith(_OF_VIDEO) and k != 'ENCODER'
        }
        video.metadata.update(kept)
    video.disposition = old.disposition


def _note(source: Path, container: str, comment: str) -> dict[str, str]:
    """The comment of the film and that of results, which names the film."""
    note, old = metadata.note(source), comment.split(MARK)[0].rstrip('; ')
    if container == 'mpegts':  # it has no comment
        fits = len(note) <= _MAX_TEXT
        return {'service_provider': note if fits else note.split(' from ')[0]}
    return {'comment': f'{old}; {note}' if old else note}


def _of_stream(items: Iterable[av.Packet], stream: Any) -> Iterator[av.Packet]:
    for packet in items:
        packet.stream = stream
        yield packet


def _copies(source: Any, streams: Sequence[Any], outputs: dict[int, Any]) -> Iterator[av.Packet]:
    if not streams:
        return
    try:
        for packet in source.demux(*streams):
            if packet.dts is None and packet.pts is None:
                continue
            if packet.size and not _is_gap(packet):
                packet.stream = outputs[packet.stream.index]
                yield packet
    except av.error.FFmpegError:  # the rest is damaged, which reading the frames has said
        return


def _is_gap(packet: av.Packet) -> bool:
    """Whether it is the empty text between subtitles of MP4, which the muxer writes itself."""
    codec = packet.stream.codec_context
    return codec is not None and codec.name == 'mov_text' and bytes(packet) == b'\0\0'


def _interleaved(*sources: Iterable[av.Packet]) -> Iterator[av.Packet]:
    """Packets of several sources by their time."""

    def time(packet: av.Packet) -> Fraction:
        return (packet.pts if packet.dts is None else packet.dts) * packet.time_base

    return heapq.merge(*sources, key=time)
