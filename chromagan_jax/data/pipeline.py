"""Batches from a source; every batch is a function of the seed and the step only.

Training reads one endless sequence. Records are shuffled in each epoch, and each is cropped and
flipped with random numbers drawn for its position in the sequence. Batch n of a run holds the
positions [n B, (n + 1) B) for any number of processes, workers, threads and restarts. So no
iterator state is saved. Each process requests the rows of the global batch that its devices hold.
"""

import atexit
import dataclasses
import functools
import math
import multiprocessing
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import cv2
import grain
import numpy as np
from grain.experimental import (
    DatasetOptions,
    ThreadPrefetchIterDataset,
    WithOptionsIterDataset,
)

from chromagan_jax import color
from chromagan_jax.data.sources import Source
from chromagan_jax.data.transforms import EvalCrop, TrainCrop, draw

Batch = dict[str, np.ndarray]


def train_batches(
    source: Source,
    *,
    size: int,
    resize_ratio: float,
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
    max_resize_ratio: float = 0.0,
) -> Generator[Batch, None, None]:
    """Yields the batches of the steps start_step, start_step + 1, ... without end.

    An image is resized to a short side of round(size * ratio) px, cropped at random to size x size,
    and flipped left to right with probability 1/2 if `flip`. The ratio is `resize_ratio`, or random
    for each image: 1 / ratio is uniform between those of `resize_ratio` and `max_resize_ratio`.

    Args:
        source: of the records.
        size: the side of the crop, px.
        resize_ratio: short side before the crop, divided by `size`; at least 1.
        flip: whether to flip.
        space: the colour space of `color.encode`.
        seed: of the order and the augmentation, in [0, 2**32).
        batch_size: records in the global batch.
        rows: rows of the global batch that this process yields, in order.
        start_step: the step of the first batch.
        workers: processes that prepare batches; 0 prepares them in this one.
        threads: threads that prepare batches in each of those processes; with workers, also threads
            that convert batches in this process.
        prefetch: batches prepared ahead by each of those processes, at least `threads`.
        labels: whether to yield labels.
        max_resize_ratio: upper limit of a random ratio; constant if not above `resize_ratio`.

    Yields:
        Arrays for R rows: 'condition' (R, size, size, 1) and 'target' (R, size, size, C) float32;
        'label' (R,) int32 if `labels`; 'unreadable' (R,) int64, the index of a record that was
        unreadable and replaced, or -1; 'damage' (R,) int32, the reason as 1 + its position in
        `decode.KINDS`, or 0.

    Raises:
        UserError: if a record and its 16 substitutes are unreadable.
    """
    crop = TrainCrop(
        source, size, (resize_ratio, max(resize_ratio, max_resize_ratio)), flip, labels
    )
    records = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()
    crops = _Crops(records.random_map(draw), crop, size, batch_size, tuple(rows), start_step)
    return _batches(crops, space, workers, threads, prefetch)


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

    Every process gets ceil(len(source) / batch_size) batches. Rows past the end and unreadable
    records are zeros with mask 0.

    Args: as in `train_batches`.

    Yields:
        'condition' and 'target' as in `train_batches`; 'mask' (R,) float32, 1 for an image and 0
        for padding; 'index' (R,) int64, the record's index in the source, or -1 past the end;
        'unreadable' (R,) int64, the index if the record is unreadable, else -1.
    """
    steps = -(-len(source) // batch_size)
    positions = grain.MapDataset.range(steps * batch_size)
    crops = _Crops(positions, EvalCrop(source, size), size, batch_size, tuple(rows))
    return _batches(crops, space, workers, threads, prefetch)


@dataclasses.dataclass(frozen=True)
class _Crops:
    """The batches from `start_step` on as a sequence, with the requested rows only.

    They hold 'crop' (R, size, size, 3) uint8 instead of condition and target; zeros for no crop.
    """

    whole: grain.MapDataset  # the argument of `crop` at each position
    crop: Callable[[Any], tuple[np.ndarray | None, dict[str, Any]]]
    size: int
    batch_size: int
    rows: tuple[int, ...]
    start_step: int = 0

    def __len__(self) -> int:
        return len(self.whole) // self.batch_size - self.start_step

    def __getitem__(self, index: int) -> Batch:
        first = (self.start_step + int(index)) * self.batch_size
        crops = np.zeros((len(self.rows), self.size, self.size, 3), np.uint8)
        metadata = []
        for i, row in enumerate(self.rows):
            crop, of_crop = self.crop(self.whole[first + row])
            if crop is not None:
                crops[i] = crop
            metadata.append(of_crop)
        columns = {name: np.stack([one[name] for one in metadata]) for name in metadata[0]}
        return {'crop': crops, **columns}


def _encode(space: str, pool: Executor | None, batch: Batch) -> Batch:
    """Replaces 'crop' by 'condition' and 'target', which are zeros where 'mask' is 0."""
    batch = dict(batch)
    crops = batch.pop('crop')
    condition = _aligned((*crops.shape[:3], 1))
    target = _aligned((*crops.shape[:3], color.TARGET_CHANNELS[space]))
    wanted = batch.get('mask', np.ones(len(crops)))

    def encode(i: int) -> None:
        if wanted[i]:
            color.encode(crops[i], space, out=(condition[i], target[i]))
        else:
            condition[i], target[i] = 0, 0

    for _ in (pool.map if pool else map)(encode, range(len(crops))):
        pass
    return {'condition': condition, 'target': target, **batch}


def _aligned(shape: tuple[int, ...]) -> np.ndarray:
    """An uninitialized float32 array, 64-byte aligned.

    JAX uses arrays with this alignment on the CPU without a copy; NumPy aligns to 16 bytes.
    """
    count = math.prod(shape)
    memory = np.empty(count + 16, np.float32)
    first = -memory.ctypes.data // memory.itemsize % 16
    return memory[first : first + count].reshape(shape)


def _batches(
    crops: _Crops, space: str, workers: int, threads: int, prefetch: int
) -> Generator[Batch, None, None]:
    # Each thread or worker prepares whole batches, so their number affects only speed.
    dataset: Any = grain.MapDataset.source(crops)
    options = grain.ReadOptions(threads, max(prefetch, threads))
    pool = None
    if workers:
        # Workers send uint8 crops, a quarter of the bytes, because copies between processes cost
        # more than the conversion in threads here. They use pipes because shared memory costs page
        # faults and is scarce in containers.
        pool = ThreadPoolExecutor(threads) if threads > 1 else None
        spread = grain.MultiprocessingOptions(workers, per_worker_buffer_size=prefetch)
        dataset = dataset.to_iter_dataset(options)
        dataset = WithOptionsIterDataset(dataset, DatasetOptions(min_shm_size=sys.maxsize))
        dataset = dataset.mp_prefetch(spread, worker_init_fn=_start_worker)
        dataset = dataset.map(functools.partial(_encode, space, pool))
        batches = ThreadPrefetchIterDataset(dataset, prefetch_buffer_size=1)
    else:
        encoded = dataset.map(functools.partial(_encode, space, None))
        batches = encoded.to_iter_dataset(options)
    generator = _iterate(batches, pool)
    _open.add(generator)
    return generator


# After an error nothing closes the generators, and grain prints tracebacks at interpreter exit.
_open: weakref.WeakSet[Generator[Batch, None, None]] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for batches in list(_open):
        batches.close()


def _iterate(
    batches: grain.IterDataset, pool: ThreadPoolExecutor | None
) -> Generator[Batch, None, None]:
    # OpenCV would start its own threads for every resize, in addition to ours.
    cv2.setNumThreads(1)
    iterator = iter(batches)
    try:
        yield from iterator
    finally:
        iterator.close()  # ends the worker processes and threads
        if pool:
            pool.shutdown()


def _start_worker(index: int, count: int) -> None:
    """Sets up a worker to end only with the process that started it."""
    cv2.setNumThreads(1)  # as in _iterate
    # Schedulers and terminals signal every process of a job. The main process handles the signal,
    # and needs batches until it has saved.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        sys.exit('A worker of the input pipeline was not started by a main process.')

    def follow() -> None:
        parent.join()  # returns when the main process ends, even if killed
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
