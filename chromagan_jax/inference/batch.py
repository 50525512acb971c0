"""Many photographs: which file becomes which, read, colorized and written side by side."""

import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from chromagan_jax.config.postprocess import OFF, PostProcess
from chromagan_jax.data.decode import MAX_PIXELS, UnreadableImage, read
from chromagan_jax.errors import UserError
from chromagan_jax.inference import photos
from chromagan_jax.inference.files import Listed
from chromagan_jax.inference.hints import Hint, rasterize
from chromagan_jax.utils.progress import Progress

T = TypeVar('T')
# Up to a batch of (size, size, 3) uint8 photographs, the sample of each (None: without noise) and
# the hints of each (`hints.rasterize`) -> a*, b*, (n, size, size, 2) float32.
Predict = Callable[[Sequence[np.ndarray], Sequence[int | None], Sequence[np.ndarray]], np.ndarray]

# What may be wrong with one photograph and leave the others alone.
_FAILURES = (OSError, UnreadableImage, MemoryError)
_BATCH_PIXELS = 2**25  # a batch ends early when its photographs have as many pixels


class Job(NamedTuple):
    """One photograph: where it lies and where its colour version goes."""

    source: Path
    target: Path
    sample: int | None = None  # which of several results; None: the one without noise
    page: int | None = None  # of a TIFF, from 0; None: the first
    hints: tuple[Hint, ...] = ()  # known colours


def plan(found: Sequence[Listed], output: Path, suffix: str, samples: int = 0) -> list[Job]:
    """Which files become which: folders mirrored, stems kept.

    Where two photographs of a folder differ only in their suffix, both keep it: `a.jpg.png`. With
    `samples` each becomes as many: `a.1.png`, `a.2.png`, ...

    Raises:
        UserError: if a result would replace a photograph or another result.
    """
    stems = Counter(listed.place.with_suffix('') for listed in found)
    jobs: list[Job] = []
    taken: dict[Path, Path] = {}
    sources = {source.resolve() for source, *_ in found}
    for source, place, page in found:
        name = place.stem if stems[place.with_suffix('')] == 1 else place.name
        for sample in range(1, samples + 1) if samples else (None,):
            number = '' if sample is None else f'.{sample}'
            target = output / place.with_name(name + number + suffix)
            if target.resolve() in sources:
                raise UserError(f'{target} is a photograph to be read: choose another --output.')
            if target in taken:
                raise UserError(
                    f'{taken[target]} and {source} would both become {target}: colorize them into '
                    'different folders.'
                )
            taken[target] = source
            jobs.append(Job(source, target, sample, page))
    return jobs


Writing = tuple[Job, Future[None]]  # a photograph, and its writing


class Photograph(NamedTuple):
    """A photograph between reading and writing."""

    job: Job
    pixels: np.ndarray
    small: np.ndarray  # (size, size, 3) uint8, what the network sees
    hints: np.ndarray  # (size, size, 3) float32, of `hints.rasterize`


class Counts:
    """How many photographs ended how, and the lines about them."""

    def __init__(self, total: int):
        self.colorized = self.failed = 0
        self._progress = Progress(total, 0, 1, unit='photograph')
        self._interval = 1 if sys.stderr.isatty() else 30  # seconds between reports
        self._reported = time.monotonic()
        self.message, self.close = self._progress.message, self._progress.close

    def fail(self, job: Job, error: BaseException) -> None:
        """Names a photograph that is given up."""
        self.failed += 1
        reason = getattr(error, 'strerror', None) or str(error) or 'not enough memory'
        self.message(f'{job.source} failed: {reason}')

    def collect(self, job: Job, writing: Future[None]) -> None:
        """Waits for a photograph to be written; shows the progress if it was not shown just now."""
        try:
            writing.result()
            self.colorized += 1
        except _FAILURES as error:
            self.fail(job, error)
        if time.monotonic() - self._reported >= self._interval:
            self._reported = time.monotonic()
            self._progress.report(self.colorized + self.failed, {})


def colorize_files(
    jobs: Sequence[Job],
    predict: Predict,
    size: int,
    batch_size: int = 1,
    threads: int = 2,
    networks: int = 2,
    max_pixels: int = MAX_PIXELS,
    post: PostProcess = OFF,
    stopping: Callable[[], bool] = lambda: False,
) -> tuple[int, int]:
    """Reads, colorizes and writes; names on standard error what fails, and goes on.

    Once `stopping()` no photograph is begun, and those that the network has seen are finished.

    Threads read and write while the network runs, on up to `networks` batches at once: one uses
    what cores another leaves idle. In memory are these and one more, of at most `batch_size`
    photographs and about 33 megapixels each, and no more than `threads` photographs before them and
    as many after them.

    Returns:
        How many were colorized and how many failed.

    Raises:
        UserError: if nothing more can be written.
    """
    counts = Counts(len(jobs))
    seen: deque[Future[list[Writing]]] = deque()
    writing: deque[Writing] = deque()
    with ThreadPoolExecutor(threads) as pool, ThreadPoolExecutor(networks) as network_pool:
        try:
            readings = (pool.submit(_read, job, size, max_pixels, post) for job in jobs)
            pairs = _ahead(zip(jobs, readings, strict=True), threads)
            for batch in _batches(pairs, batch_size, counts, stopping):
                seen.append(network_pool.submit(_start_writing, batch, predict, pool, post))
                while len(seen) > networks:
                    writing += seen.popleft().result()
                while len(writing) > threads:
                    counts.collect(*writing.popleft())
            for future_batch in seen:
                writing += future_batch.result()
            for job, future in writing:
                counts.collect(job, future)
        except BaseException:
            network_pool.shutdown(cancel_futures=True)
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            counts.close()
    return counts.colorized, counts.failed


def _batches(
    readings: Iterable[tuple[Job, Future[tuple[Photograph, list[str]]]]],
    batch_size: int,
    counts: Counts,
    stopping: Callable[[], bool],
) -> Iterator[list[Photograph]]:
    """Batches of the photographs that can be read; once `stopping()`, none of what is left."""
    batch: list[Photograph] = []
    for job, reading in readings:
        if stopping():
            return
        try:
            photograph, notes = reading.result()
        except _FAILURES as error:
            counts.fail(job, error)
            continue
        for note in notes:
            counts.message(f'{job.source}: {note}')
        batch.append(photograph)
        pixels = sum(p.pixels.shape[0] * p.pixels.shape[1] for p in batch)
        if len(batch) == batch_size or pixels >= _BATCH_PIXELS:
            yield batch
            batch = []
    if batch:
        yield batch


def _ahead(items: Iterable[T], ahead: int) -> Iterator[T]:
    """The items in order; as one is handed out, `ahead` of those after it were already made."""
    pending: deque[T] = deque()
    for item in items:
        pending.append(item)
        if len(pending) > ahead:
            yield pending.popleft()
    while pending:
        yield pending.popleft()


def _read(job: Job, size: int, max_pixels: int, post: PostProcess) -> tuple[Photograph, list[str]]:
    pixels, frames = read(job.source, max_pixels, job.page or 0)
    one_of_many = frames > 1 and job.page is None
    notes = [f'the first of its {frames} frames is colorized'] if one_of_many else []
    if pixels.shape[2:] == (4,) and job.target.suffix == '.jpg':
        notes.append('JPEG has no transparency: its transparent parts become white')
    hints = rasterize(job.hints, pixels.shape[:2], size)
    return Photograph(job, *photos.prepare(pixels, size, post), hints), notes


def _start_writing(
    batch: Sequence[Photograph], predict: Predict, pool: ThreadPoolExecutor, post: PostProcess
) -> list[Writing]:
    """Runs the network, and leaves the rest to the threads."""
    inputs = [p.small for p in batch], [p.job.sample for p in batch], [p.hints for p in batch]
    colors = predict(*inputs)
    return [(p.job, pool.submit(_write, p, ab, post)) for p, ab in zip(batch, colors, strict=True)]


def _write(photograph: Photograph, ab: np.ndarray, post: PostProcess) -> None:
    result = photos.recolor(photograph.pixels, photograph.small, ab, post)
    target = photograph.job.target
    photos.write(target, photos.on_white(result) if target.suffix == '.jpg' else result)
