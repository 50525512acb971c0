"""From a source to batches: every batch is a function of the seed and the step alone.

Training reads one endless sequence: the records shuffled anew each epoch, every one cropped and
flipped at random with numbers drawn for its position in the sequence. Batch n of the whole run is
the positions [n B, (n + 1) B), whatever the number of processes, workers and threads, and wherever
a run was stopped: so no state of an iterator is ever saved, and a process names the rows of the
global batch that its devices hold.
"""

import atexit
import dataclasses
import hashlib
import multiprocessing
import os
import signal
import sys
import threading
import weakref
from collections.abc import Generator, Iterable, Sequence
from typing import Any

import cv2
import grain
import numpy as np

from chromagan_jax import color
from chromagan_jax.data.decode import KINDS, UnreadableImage, crop_square, decode, resize
from chromagan_jax.data.sources import Source
from chromagan_jax.errors import UserError

Batch = dict[str, np.ndarray]

ATTEMPTS = 16  # records tried in place of one that cannot be read


def train_batches(
    source: Source,
    *,
    size: int,
    load_ratio: float,
    flip: bool,
    space: str,
    seed: int,
    batch_size: int,
    rows: Sequence[int],
    start_step: int = 0,
    workers: int = 0,
    threads: int = 2,
    prefetch: int = 2,
    labels: bool = False,
) -> Generator[Batch, None, None]:
    """Yields the batches of the steps start_step, start_step + 1, ... without end.

    A photograph is resized so that its short side has round(size * load_ratio) px (enlarged if it
    is smaller), cropped to size x size at random and flipped left to right with probability 1/2.

    Args:
        source: where the records come from.
        size: the side of the crop, px.
        load_ratio: the short side before the crop over `size`, at least 1.
        flip: whether to flip.
        space: the colour space of `color.encode`.
        seed: of the order and the augmentation, in [0, 2**32).
        batch_size: records in the global batch.
        rows: which of its rows this process wants, in which order.
        start_step: the step of the first batch.
        workers: processes that prepare batches; 0 prepares them in this one.
        threads: threads that prepare batches, in each of those processes.
        prefetch: batches prepared ahead by each of those processes, at least `threads`.
        labels: whether to yield labels.

    Yields:
        'condition' (R, size, size, 1) and 'target' (R, size, size, C) float32 for R rows, 'label'
        (R,) int32 if asked for, 'unreadable' (R,) int64: the index of the record that could not be
        read and had to be replaced by another, or -1; and 'damage' (R,) int32: why it could not,
        as 1 + its place in `decode.KINDS`, or 0.

    Raises:
        UserError: a record and the 16 others that were tried in its place cannot be read.
    """
    load = _TrainLoad(source, size, round(size * load_ratio), flip, space, labels)
    records = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()
    whole = records.random_map(load)
    return _batches(whole, batch_size, rows, start_step, workers, threads, prefetch)


def eval_batches(
    source: Source,
    *,
    size: int,
    space: str,
    batch_size: int,
    rows: Sequence[int],
    workers: int = 0,
    threads: int = 2,
    prefetch: int = 2,
) -> Generator[Batch, None, None]:
    """Yields every record once, in order: the short side resized to `size`, then a centre crop.

    There are ceil(len(source) / batch_size) batches on every process. What is not asked of a
    record (past the end, or unreadable) has zeros in its place and is masked out.

    Args: as those of `train_batches`.

    Yields:
        'condition' and 'target' as in training, 'mask' (R,) float32: 1 for a photograph,
        0 for padding; 'index' (R,) int64: the record's index in the source, -1 past the end;
        'unreadable' (R,) int64: the index again where the record could not be read, else -1.
    """
    load = _EvalLoad(source, size, space)
    steps = -(-len(source) // batch_size)
    whole = grain.MapDataset.range(steps * batch_size).map(load)
    return _batches(whole, batch_size, rows, 0, workers, threads, prefetch)


def report_unreadable(
    source: Source, indices: Iterable[int], seen: set[int], fate: str = 'is replaced'
) -> list[str]:
    """One sentence for each unreadable record that was not seen before.

    Args:
        source: the source of the batches.
        indices: their 'unreadable'; -1 is passed over.
        seen: what was reported before; the new ones are added.
        fate: what happens to such a record; an evaluation says 'is left out'.
    """
    sentences = []
    for index in sorted({int(index) for index in indices} - seen - {-1}):
        seen.add(index)
        try:
            read_image(source, index)
            reason = 'it could be read later'
        except UnreadableImage as error:
            reason = str(error)
        sentences.append(f'{source.name(index)} cannot be read ({reason}) and {fate}')
    return sentences


def read_image(source: Source, index: int, min_side: int = 0) -> tuple[np.ndarray, int]:
    """Reads and decodes record `index`: ((H, W, 3) uint8 sRGB, label).

    Raises:
        UnreadableImage: the file cannot be read or is not a whole image.
    """
    try:
        record = source[index]
    except OSError as error:
        raise UnreadableImage(error.strerror or str(error), 'no_file') from error
    return decode(record['image'], min_side), record['label']


def substitute(index: int, attempt: int, count: int) -> int:
    """The record to try as number `attempt` in place of record `index` of `count`.

    A hash of both numbers: the same in every process and run, and damaged neighbours do not all
    fall on one record.
    """
    digest = hashlib.blake2b(f'{index} {attempt}'.encode(), digest_size=8).digest()
    return int.from_bytes(digest, 'little') % count


@dataclasses.dataclass(frozen=True)
class _TrainLoad:
    """A record's index and the random numbers of its position to an augmented example."""

    source: Source
    size: int
    load: int
    flip: bool
    space: str
    labels: bool

    def __call__(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        y, x, mirror = rng.random(3)  # before anything that depends on the photograph
        image, label, unreadable, damage = self._read(int(index))
        # Cropping and then resizing once is resizing and then cropping, without the pixels that
        # the crop would throw away.
        side = min(image.shape[:2])
        crop = crop_square(image, max(1, round(side * self.size / self.load)), y, x)
        crop = resize(crop, self.size, self.size)
        if self.flip and mirror < 0.5:
            crop = crop[:, ::-1]
        example = _example(crop, self.space, unreadable) | {'damage': np.int32(damage)}
        return example | {'label': np.int32(label)} if self.labels else example

    def _read(self, index: int) -> tuple[np.ndarray, int, int, int]:
        """Pixels and label, the index if another record took its place, and why."""
        try:
            return *read_image(self.source, index, self.load), -1, 0
        except UnreadableImage as error:  # travels with the batch, for the main process to report
            damage = 1 + KINDS.index(error.kind)
        for attempt in range(ATTEMPTS):
            other = substitute(index, attempt, len(self.source))
            try:
                return *read_image(self.source, other, self.load), index, damage
            except UnreadableImage as error:
                reason = error
        raise UserError(
            f'{self.source.name(index)} in {self.source.location} cannot be read, nor can '
            f'{ATTEMPTS} others ({reason}): check that the source holds images and is still there.'
        ) from reason


@dataclasses.dataclass(frozen=True)
class _EvalLoad:
    """A position to the centre of its record, or to zeros past the end and for damaged ones."""

    source: Source
    size: int
    space: str

    def __call__(self, position: int) -> dict[str, Any]:
        index, unreadable = int(position), -1
        crop = np.zeros((self.size, self.size, 3), np.uint8)
        if index >= len(self.source):
            index = -1
        else:
            try:
                image, _ = read_image(self.source, index, self.size)
                crop = resize(crop_square(image, min(image.shape[:2])), self.size, self.size)
            except UnreadableImage:  # reported by the main process, as in training
                unreadable = index
        mask = float(index >= 0 and unreadable < 0)
        example = _example(crop, self.space, unreadable)
        if not mask:
            example |= {name: np.zeros_like(example[name]) for name in ('condition', 'target')}
        return example | {'mask': np.float32(mask), 'index': np.int64(index)}


def _example(crop: np.ndarray, space: str, unreadable: int) -> dict[str, Any]:
    condition, target = color.encode(crop, space)
    return {'condition': condition, 'target': target, 'unreadable': np.int64(unreadable)}


@dataclasses.dataclass(frozen=True)
class _Rows:
    """The rows that a process wants of each global batch, from `start_step` on, as one sequence."""

    whole: grain.MapDataset
    batch_size: int
    rows: tuple[int, ...]
    start_step: int

    def __len__(self) -> int:
        return (len(self.whole) // self.batch_size - self.start_step) * len(self.rows)

    def __getitem__(self, index: int) -> Any:
        step, row = divmod(int(index), len(self.rows))
        return self.whole[(self.start_step + step) * self.batch_size + self.rows[row]]


def _batches(
    whole: grain.MapDataset,
    batch_size: int,
    rows: Sequence[int],
    start_step: int,
    workers: int,
    threads: int,
    prefetch: int,
) -> Generator[Batch, None, None]:
    view = _Rows(whole, batch_size, tuple(rows), start_step)
    # A thread or a worker prepares whole batches: workers then take turns at batches, and their
    # number changes nothing but speed.
    # There is no remainder to drop: grain would count the batches of an endless view in floats.
    dataset = grain.MapDataset.source(view).batch(len(rows), drop_remainder=True)
    batches = dataset.to_iter_dataset(grain.ReadOptions(threads, max(prefetch, threads)))
    if workers:
        options = grain.MultiprocessingOptions(workers, per_worker_buffer_size=prefetch)
        batches = batches.mp_prefetch(options, worker_init_fn=_start_worker)
    generator = _iterate(batches)
    _open.add(generator)
    return generator


# A run that ends on an error closes nothing, and left to itself grain prints tracebacks of its own
# when the interpreter is half gone.
_open: weakref.WeakSet[Generator[Batch, None, None]] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for batches in list(_open):
        batches.close()


def _iterate(batches: grain.IterDataset) -> Generator[Batch, None, None]:
    # OpenCV would start a pool of its own threads for every resize, on top of ours.
    cv2.setNumThreads(1)
    iterator = iter(batches)
    try:
        yield from iterator
    finally:
        iterator.close()  # ends the worker processes and threads


def _start_worker(index: int, count: int) -> None:
    """Makes a worker live exactly as long as the process that started it."""
    cv2.setNumThreads(1)  # as in _iterate
    # A scheduler signals every process of a job, and a terminal those in the foreground: the main
    # process decides what is to be done, and still needs batches until it has saved.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        sys.exit('A worker of the input pipeline was not started by a main process.')

    def follow() -> None:
        parent.join()  # returns when the main process is gone, even if it was killed
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
