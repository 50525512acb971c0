"""Logging of training metrics: reads them from the devices, averages, prints and writes them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from chromagan_jax import sharding
from chromagan_jax.data.decode import KINDS
from chromagan_jax.data.transforms import report_unreadable
from chromagan_jax.errors import DivergedError, UserError
from chromagan_jax.training.setup import Run
from chromagan_jax.utils import progress, writers

PyTree = Any

SHOWN = ('generator/loss', 'discriminator/loss', 'generator/l1')  # in the progress line
MIN_RECORDS = 1000  # records before the share of unreadable ones is checked


class TrainLogger:
    """Reads the metrics of a step after the next is dispatched; logs means every `log_every` steps.

    It also counts decode errors on the host. They are summed over all processes for each line, and
    the records are named then.
    """

    def __init__(self, run: Run, start: int, metrics_file: writers.Metrics | None):
        """Starts after step `start`; without `metrics_file` it only shows the progress."""
        config = run.config
        self.progress = progress.Progress(config.steps, start, config.batch_size, progress.stream())
        self._run, self._start, self._file = run, start, metrics_file
        self._pending: tuple[int, PyTree] | None = None  # step and metrics not read yet
        self._window: list[dict[str, float]] = []  # metrics of each step since the last line
        self._seconds = run.watchdog.seconds()  # of each phase, at the last line
        self._reported: set[int] = set()  # unreadable records already reported
        self._replaced: set[int] = set()  # of this process since the last line
        # Decode errors of this process by kind, since the last line.
        self._damage = np.zeros(len(KINDS), np.int64)
        self._unreadable = 0  # records of all processes since `start`

    def push(self, step: int, metrics: PyTree, unreadable: np.ndarray, damage: np.ndarray) -> None:
        """Stores the metrics of `step`, and reads those of the previous step.

        Args:
            step: number of the step.
            metrics: scalars on the devices.
            unreadable: (R,) indices of this process's replaced records; -1 for readable ones.
            damage: (R,) decode errors, 1 + index in `decode.KINDS`; 0 for none.

        Raises:
            DivergedError: if a metric is not finite.
            UserError: if too many records cannot be read.
        """
        self.flush()
        self._pending = (step, metrics)
        self._damage += np.bincount(damage, minlength=len(KINDS) + 1)[1:]
        self._replaced.update(int(index) for index in unreadable)

    def flush(self) -> None:
        """Waits for the newest step and reads its metrics. Raises the errors of `push`."""
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self._run.watchdog.beat(step)
        check_finite(step, values)
        self._window.append(values)
        config = self._run.config
        if step % config.log_every == 0 or step == config.steps:
            self._write_line(step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Appends a line to metrics.jsonl; does nothing in processes that do not write it."""
        if self._file:
            self._file.write(step, values)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Writes an image, (H, W, 3) uint8, to TensorBoard."""
        if self._file:
            self._file.image(step, name, image)

    def complete_files(self) -> None:
        """Writes what metrics.jsonl and the TensorBoard events lack in a bucket.

        Raises:
            UserError: if another run has taken over the workdir.
        """
        if self._run.lease:
            self._run.lease.check()
        if self._file:
            self._file.flush()

    def close(self) -> None:
        """Completes the files, ends the progress line and prints the time share of each phase."""
        self.complete_files()
        self.progress.close()
        self.progress.message(self._run.watchdog.summary())

    def _write_line(self, step: int) -> None:
        means = mean_metrics(self._window)
        self._name_unreadable()
        means |= self._count_unreadable(step)
        means |= self._run.watchdog.shares()
        means['images_per_second'] = self.progress.images_per_second(step)
        means['waiting_for_data'] = self._share_of_waiting()
        self._window.clear()
        self.write(step, means)
        self.progress.report(step, {name: means[name] for name in SHOWN if name in means})

    def _share_of_waiting(self) -> float:
        """Time spent waiting for data since the last line, as a share of data and step time."""
        before, self._seconds = self._seconds, self._run.watchdog.seconds()
        data, step = (self._seconds[phase] - before[phase] for phase in ('data', 'step'))
        return data / ((data + step) or 1.0)

    def _name_unreadable(self) -> None:
        """Process 0 names the unreadable records of all processes since the last line."""
        replaced = sharding.gather_indices(self._replaced)
        self._replaced.clear()
        if jax.process_index() == 0:
            for sentence in report_unreadable(self._run.source, replaced, self._reported):
                self.progress.message(sentence)

    def _count_unreadable(self, step: int) -> dict[str, float]:
        """Mean unreadable records per step since the last line, by kind and in total.

        Raises:
            UserError: if their share since `start` is above `data.max_unreadable`.
        """
        damage = multihost_utils.process_allgather(self._damage).reshape(-1, len(KINDS)).sum(0)
        self._damage[:] = 0
        self._unreadable += int(damage.sum())
        config = self._run.config
        seen = (step - self._start) * config.batch_size
        most = config.data.max_unreadable
        if seen >= MIN_RECORDS and self._unreadable > most * seen:
            raise UserError(
                f'{self._unreadable} of the last {seen} records cannot be read, more than '
                f'data.max_unreadable ({most:g}): check {config.data.source}, or raise that field.'
            )
        counts = dict(zip(KINDS, damage / len(self._window), strict=True))
        counts['unreadable'] = damage.sum() / len(self._window)
        return {f'data/{name}': float(count) for name, count in counts.items()}


def mean_metrics(window: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each metric over the steps of a window that have it."""
    names = dict.fromkeys(name for values in window for name in values)
    return {name: float(np.mean([w[name] for w in window if name in w])) for name in names}


def check_finite(step: int, metrics: Mapping[str, float]) -> None:
    """Raises DivergedError with the metric's name if a metric of the step is not finite."""
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise DivergedError(
                f'{name} was not finite at step {step}: earlier checkpoints are good. Start a new '
                'run from one (init_from, another --workdir) with a lower learning rate or another '
                'seed.'
            )
