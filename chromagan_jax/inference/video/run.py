"""Colorizes a film from file to file, scene by scene."""

import contextlib
import itertools
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from av.video.frame import VideoFrame

import chromagan_jax
from chromagan_jax.config.postprocess import OFF, PostProcess
from chromagan_jax.inference.layout import Predict
from chromagan_jax.inference.video import frames as frames_lib
from chromagan_jax.inference.video import mux, read
from chromagan_jax.inference.video.frames import Look
from chromagan_jax.inference.video.read import Film, Frames
from chromagan_jax.inference.video.segments import Done, Work
from chromagan_jax.inference.video.smoothing import Blend, Colored
from chromagan_jax.inference.video.write import Segment, to_frame
from chromagan_jax.utils.progress import Progress

FRAMES_AT_ONCE = 8  # of the network
MAX_SEGMENT = 120  # frames; a longer scene is kept in parts, so that a kill costs little
T = TypeVar('T')


class Options(NamedTuple):
    """How films are colorized."""

    batch_size: int = FRAMES_AT_ONCE  # frames that the network sees at once
    threads: int = 2  # that make results
    post: PostProcess = OFF
    crf: int = 17  # x264's constant rate factor
    metadata: bool = True  # whether those of the film are kept
    blend: Blend = Blend()


class Reading(NamedTuple):
    """A frame of a film before the network."""

    segment: int
    frame: VideoFrame
    look: Look


def colorize_film(
    film: Film,
    target: Path,
    copied: list[int],
    predict: Predict,
    size: int,
    network: str,
    options: Options,
    stopping: Callable[[], bool],
) -> str | None:
    """Writes the colour version of a film; goes on where an earlier run ended.

    Memory holds two batches of frames, at most `threads` results, and what x264 keeps.

    Args:
        film: from `read.probe`.
        target: the result, in a container of `mux.KEPT`.
        copied: indices of the streams that are copied.
        predict: the network.
        size: px, the side of the square that the network sees.
        network: name of the network, by which work of another one is not continued.
        options: the rest.
        stopping: once it is true, the run ends after the frames that the network has seen.

    Returns:
        A note about what could not be read, '' if all was; None if the run was stopped.

    Raises:
        OSError: the result cannot be written, or the film cannot be read any more.
    """
    work = Work(target, _settings(film, network, size, options))
    done = work.done()
    frames = Frames(film)
    readings = _readings(
        itertools.islice(frames, done.frames, None),
        film,
        size,
        options.post,
        frames_lib.common_box(pixels for _, pixels in read.samples(film)),
        done.carry,
    )
    batches = _batches(readings, options.batch_size)
    with (
        _progress(film, done.frames) as on_frames,
        ThreadPoolExecutor(1) as reader,
        ThreadPoolExecutor(options.threads) as pool,
    ):
        ahead = _ahead(batches, reader)
        for _, segment in itertools.groupby(ahead, key=lambda batch: batch[0].segment):
            after = _colorize_segment(
                segment, work, done, film, predict, options, pool, stopping, on_frames
            )
            if after is None:
                return None
            done = after
    _finish(work, film, done, target, copied, options.metadata)
    return frames.note


def _finish(
    work: Work, film: Film, done: Done, target: Path, copied: list[int], metadata: bool
) -> None:
    """Joins the parts with the other streams of the film."""
    if not done.frames:
        raise read.UnreadableFilmError('none of its frames can be read')
    unfinished = work.folder / f'result{target.suffix}'
    mux.mux(film, done.videos, copied, unfinished, metadata)
    unfinished.replace(target)
    work.remove()


@contextlib.contextmanager
def _progress(film: Film, start: int) -> Iterator[Callable[[int], None]]:
    """A function that shows the number of frames that are finished, not more often than needed."""
    progress = Progress(max(1, film.frames), start, 1, unit='frame', rate_unit='frames/s')
    interval = 1 if sys.stderr.isatty() else 30  # seconds between reports
    reported = time.monotonic()

    def show(number: int) -> None:
        nonlocal reported
        if time.monotonic() - reported >= interval:
            reported = time.monotonic()
            progress.report(min(number, max(1, film.frames)), {})

    try:
        yield show
    finally:
        progress.close()


def _settings(film: Film, network: str, size: int, options: Options) -> Any:
    """What decides how a result looks."""
    stat = film.path.stat()
    return [
        chromagan_jax.__version__,
        [film.path.name, stat.st_size, stat.st_mtime_ns],
        [network, size, options.batch_size, asdict(options.post), options.crf],
        list(options.blend),
    ]


def _readings(
    frames: Iterator[VideoFrame],
    film: Film,
    size: int,
    post: PostProcess,
    box: Any,
    carry: Colored | None,
) -> Iterator[Reading]:
    """Frames with the number of their segment, which ends at a cut or at `MAX_SEGMENT` frames."""
    before = carry.light if carry else None
    segment = length = 0
    for frame in frames:
        look = frames_lib.look(read.pixels_of(frame, film), before, size, post, box)
        before = look.light
        if length and (look.starts or length == MAX_SEGMENT):
            segment, length = segment + 1, 0
        length += 1
        yield Reading(segment, frame, look)


def _batches(readings: Iterator[Reading], size: int) -> Iterator[list[Reading]]:
    """Up to `size` frames of one segment at a time."""
    for _, segment in itertools.groupby(readings, key=lambda reading: reading.segment):
        while batch := list(itertools.islice(segment, size)):
            yield batch


def _ahead(items: Iterator[T], reader: ThreadPoolExecutor) -> Iterator[T]:
    """The items of an iterator, of which the next one is made meanwhile."""
    future = reader.submit(next, items, None)
    while (item := future.result()) is not None:
        future = reader.submit(next, items, None)
        yield item


def _colorize_segment(
    batches: Iterator[list[Reading]],
    work: Work,
    done: Done,
    film: Film,
    predict: Predict,
    options: Options,
    pool: ThreadPoolExecutor,
    stopping: Callable[[], bool],
    on_frames: Callable[[int], None],
) -> Done | None:
    """Colorizes and encodes a segment; None if the run is to stop."""
    pending: deque[Future[VideoFrame]] = deque()
    carry = done.carry
    durations: list[int] = []
    with Segment(work.video(len(done.videos)), film, options.crf) as video:

        def write(most: int) -> None:
            while len(pending) > most:
                video.add(pending.popleft().result())

        for batch in batches:
            if stopping():
                return None
            looks = [reading.look for reading in batch]
            colored = frames_lib.color(
                looks, carry, predict, options.batch_size, options.post, options.blend
            )
            for reading, one in zip(batch, colored, strict=True):
                pending.append(pool.submit(_result, reading, one, film, options.post))
                write(options.threads)
            carry = colored[-1]
            usual = read.usual_duration(film)
            durations += [reading.frame.duration or usual for reading in batch]
            on_frames(done.frames + len(durations))
        write(0)
        video.finish()
    assert carry is not None  # a segment has frames
    return work.finish(done, carry, durations)


def _result(reading: Reading, colored: Colored, film: Film, post: PostProcess) -> VideoFrame:
    rgb = frames_lib.recolor(reading.look, colored, post, film.deep)
    return to_frame(rgb, reading.frame, film)
