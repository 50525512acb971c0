"""Reads, colorizes and writes many photographs in parallel."""

import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from chromagan_jax.config.postprocess import OFF, PostProcess
from chromagan_jax.data.decode import UnreadableImage, read
from chromagan_jax.errors import UserError
from chromagan_jax.inference import encode, headers, layout, metadata, output, plan, report, toning
from chromagan_jax.inference.conditions import Conditions
from chromagan_jax.inference.encode import Encoding
from chromagan_jax.inference.files import shown
from chromagan_jax.inference.layout import Predict, predict_views
from chromagan_jax.inference.memory import InFlight
from chromagan_jax.inference.outcomes import Job, Outcome, Tally, Totals
from chromagan_jax.inference.sharing import Claims, claimed

# Errors of one photograph, after which the others are still colorized.
_FAILURES = (OSError, UnreadableImage, MemoryError)
ALL = Conditions()
_BATCH_PIXELS = 2**25  # a batch ends early when its photographs have as many pixels


class Photograph(NamedTuple):
    """A photograph between reading and writing."""

    job: Job
    view: layout.View
    kept: metadata.Metadata
    notes: tuple[str, ...]
    size: int  # pixels that count in flight
    is_color: bool
    deep: bool  # whether its result has 16 bits


def colorize_files(
    jobs: Sequence[Job],
    predict: Predict,
    size: int,
    batch_size: int = 1,
    threads: int = 2,
    networks: int = 2,
    post: PostProcess = OFF,
    encoding: Encoding = encode.DEFAULT,
    conditions: Conditions = ALL,
) -> Totals:
    """Reads, colorizes and writes photographs; reports failures on standard error.

    Threads read and write while the network runs on up to `networks` batches at once. The
    photographs in flight have at most `conditions.max_pixels` together, at about 20 bytes a pixel
    (28 with 16 bits in the results), and there are at most `threads` before and `threads` after
    the network.

    Args:
        jobs: the photographs.
        predict: the network.
        size: px, the side of the square that the network sees.
        batch_size: images that the network sees at once.
        threads: that read, and that write.
        networks: batches at once.
        post: processing before and after the network.
        encoding: of the results.
        conditions: of the run. After a stop the photographs of the network are finished.

    Raises:
        UserError: if nothing more can be written.
    """
    max_pixels, claims = conditions.max_pixels, conditions.claims
    tally, in_flight = Tally(len(jobs), conditions.on_outcome), InFlight(max_pixels)
    network = functools.partial(_colorize, predict, batch_size, in_flight)
    write = functools.partial(_write, post, encoding, conditions.previews, in_flight, claims)
    skip = lambda job: tally.collect(plan.of_existing(job))
    wanted = claimed(jobs, claims, conditions.overwrite, skip)

    with ThreadPoolExecutor(threads) as pool, ThreadPoolExecutor(networks) as network_pool:

        def load(job: Job, pixels: int) -> Future[Photograph]:
            return pool.submit(_read, job, size, max_pixels, post, encoding, pixels)

        def start_writing(batch: Sequence[Photograph]) -> list[Future[Outcome]]:
            return [pool.submit(write, p, c) for p, c in zip(batch, network(batch), strict=True)]

        try:
            readings = _readings(wanted, load, in_flight, threads)
            batches = _batches(readings, batch_size, tally, in_flight, conditions)
            futures = (network_pool.submit(start_writing, batch) for batch in batches)
            for outcome in _outcomes(futures, networks, threads):
                tally.collect(outcome)
        except BaseException:
            network_pool.shutdown(cancel_futures=True)
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            tally.close()
    return tally.totals()


def _outcomes(
    batches: Iterator[Future[list[Future[Outcome]]]], networks: int, writers: int
) -> Iterator[Outcome]:
    """The outcomes in order, with up to `networks` batches and `writers` photographs pending."""
    seen: deque[Future[list[Future[Outcome]]]] = deque()
    writing: deque[Future[Outcome]] = deque()
    for batch in batches:
        seen.append(batch)
        while len(seen) > networks:
            writing += seen.popleft().result()
        while len(writing) > writers:
            yield writing.popleft().result()
    for batch in seen:
        writing += batch.result()
    for future in writing:
        yield future.result()


def _readings(
    jobs: Iterator[Job | None],
    load: Callable[[Job, int], Future[Photograph]],
    in_flight: InFlight,
    ahead: int,
) -> Iterator[tuple[Job, int, Future[Photograph]] | None]:
    """Jobs, their pixels and their reading, of which up to `ahead` later ones have begun.

    None stands for a wait until photographs are written: those in flight, or those of other runs
    (None in `jobs`). The caller first has to pass on all that it has.
    """
    pending: deque[tuple[Job, int, Future[Photograph]]] = deque()
    for job in jobs:
        if job is None:
            yield from pending
            pending.clear()
            yield None
            continue
        pixels = headers.pixels(job.source, in_flight.most)
        while not in_flight.admits(pixels):
            if pending:
                yield pending.popleft()
            else:
                yield None
                in_flight.wait(pixels)
        in_flight.enter(pixels)
        pending.append((job, pixels, load(job, pixels)))
        if len(pending) > ahead:
            yield pending.popleft()
    yield from pending


def _batches(
    readings: Iterator[tuple[Job, int, Future[Photograph]] | None],
    batch_size: int,
    tally: Tally,
    in_flight: InFlight,
    conditions: Conditions,
) -> Iterator[list[Photograph]]:
    """Batches of the photographs that can be read; once the run is stopping, no more."""
    stopping, claims = conditions.stopping, conditions.claims
    batch: list[Photograph] = []
    for reading in readings:
        if reading is None:
            if batch:
                yield batch
                batch = []
            elif stopping():
                return
            continue
        if stopping():
            return
        job, size, future = reading
        try:
            photograph = future.result()
        except (*_FAILURES, UserError) as error:  # a hint that lies outside is the user's
            in_flight.leave(size)
            claims.release(job.target)
            tally.collect(_failure(job, error))
            continue
        if photograph.is_color and conditions.skip_color:
            in_flight.leave(size)
            claims.release(job.target)
            tally.message(f'{shown(job.source)}: left out, in colour already')
            tally.collect(Outcome(job, 'in_color'))
            continue
        for note in photograph.notes:
            tally.message(f'{shown(job.source)}: {note}')
        batch.append(photograph)
        pixels = sum(p.view.pixels.shape[0] * p.view.pixels.shape[1] for p in batch)
        if len(batch) == batch_size or pixels >= _BATCH_PIXELS:
            yield batch
            batch = []
    if batch:
        yield batch


def _read(
    job: Job, size: int, max_pixels: int, post: PostProcess, encoding: Encoding, in_flight: int
) -> Photograph:
    pixels, frames = read(job.source, max_pixels, job.page or 0, deep=encoding.depth == 16)
    headers.check_side(max(pixels.shape[:2]), job.target.suffix)
    notes = []
    if frames > 1 and job.page is None:
        notes.append(f'the first of its {frames} frames is colorized')
    if pixels.shape[2:] == (4,) and encode.kind(job.target) == 'JPEG':
        notes.append('JPEG has no transparency: its transparent parts become white')
    is_color = toning.is_color(pixels)
    kept = metadata.read(job.source, job.page or 0) if encoding.metadata else metadata.NONE
    notes += metadata.losses(kept, encode.kind(job.target))
    deep = encode.is_deep(job.target, pixels, encoding)  # the noise reduction changes the bits
    view = layout.prepare(pixels, size, post, job.hints)
    return Photograph(job, view, kept, tuple(notes), in_flight, is_color, deep)


def _colorize(
    predict: Predict, batch_size: int, in_flight: InFlight, batch: Sequence[Photograph]
) -> list[list[np.ndarray]]:
    """The colours of each photograph's parts."""
    try:
        return predict_views(predict, [(p.view, p.job.sample) for p in batch], batch_size)
    except BaseException:
        for photograph in batch:
            in_flight.leave(photograph.size)
        raise


def _write(
    post: PostProcess,
    encoding: Encoding,
    previews: bool,
    in_flight: InFlight,
    claims: Claims,
    photograph: Photograph,
    colors: Sequence[np.ndarray],
) -> Outcome:
    job, view, kept = photograph.job, photograph.view, photograph.kept
    with in_flight.leaving(photograph.size), claims.releasing(job.target):
        try:
            result = layout.recolor(view, colors, post, photograph.deep)
            content = encode.encode(result, job.target, job.source, kept, encoding)
            stat = job.source.stat()
            times = (stat.st_atime_ns, stat.st_mtime_ns) if encoding.keep_date else None
            output.write(job.target, [content], times)
        except _FAILURES as error:
            return _failure(job, error)
        preview = report.make_preview(view.pixels, result) if previews else None
        return Outcome(job, 'colorized', '', photograph.notes, photograph.is_color, preview)


def _failure(job: Job, error: BaseException) -> Outcome:
    reason = getattr(error, 'strerror', None) or str(error) or 'not enough memory'
    return Outcome(job, 'failed', reason)
