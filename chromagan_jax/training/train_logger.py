"""What the steps of a run report, on its way to metrics.jsonl and to the progress line."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from chromagan_jax.data.sources import Source
from chromagan_jax.data.transforms import report_unreadable
from chromagan_jax.errors import DivergedError, UserError
from chromagan_jax.gan.state import GanState
from chromagan_jax.utils import writers
from chromagan_jax.utils.watchdog import Pulse

PyTree = Any

SHOWN = ('generator/loss', 'discriminator/loss', 'generator/l1')  # in the progress line
JUDGED = 1000  # records after which the share of unreadable ones is judged


class Journal:
    """Reads the metrics of each step: a line of means at a cadence, an end where they are bad."""

    def __init__(
        self,
        config: Any,
        source: Source,
        start: int,
        metrics_file: writers.Metrics | None,
        pulse: Pulse,
    ):
        """Starts after step `start`; without `metrics_file` only the progress is shown."""
        self.progress = writers.Progress(config.steps, start, config.batch_size, writers.stream())
        self._config, self._source, self._start = config, source, start
        self._file, self._pulse = metrics_file, pulse
        self._window: list[dict[str, float]] = []  # metrics of each step since the last line
        self._spent = pulse.seconds()  # at the last line
        self._replaced: set[int] = set()  # records that were named
        self._unreadable = 0.0  # records of all processes that could not be read

    def read(self, state: GanState, step: int, metrics: PyTree, unreadable: np.ndarray) -> None:
        """Waits for `step`, and writes a line if one is due.

        Args:
            state: the newest, which remembers the first step that went wrong.
            step: whose metrics these are.
            metrics: scalars, on the devices.
            unreadable: (R,) of this process's records, as the pipeline yields it.

        Raises:
            DivergedError: if a metric is not finite.
            UserError: if too many records cannot be read.
        """
        for sentence in report_unreadable(self._source, unreadable, self._replaced):
            self.progress.message(sentence)
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self._pulse.beat(step)
        if not all(math.isfinite(value) for value in values.values()):
            check_finite(state, values)
        self._check_unreadable(step, values['data/unreadable'])
        self._window.append(values)
        if step % self._config.log_every == 0 or step == self._config.steps:
            means = mean_metrics(self._window) | self._pulse.shares()
            means['images_per_second'] = self.progress.images_per_second(step)
            means['waiting_for_data'] = self._waited()
            self._window.clear()
            if self._file:
                self._file.write(step, means)
            shown = {name: means[name] for name in SHOWN if name in means}
            self.progress.report(step, shown)

    def _waited(self) -> float:
        """The share of waiting for data in the time in steps since the last line."""
        before, self._spent = self._spent, self._pulse.seconds()
        data, step = (self._spent[phase] - before[phase] for phase in ('data', 'step'))
        return data / ((data + step) or 1.0)

    def _check_unreadable(self, step: int, unreadable: float) -> None:
        self._unreadable += unreadable
        seen = (step - self._start) * self._config.batch_size
        most = self._config.data.max_unreadable
        if seen >= JUDGED and self._unreadable > most * seen:
            raise UserError(
                f'{self._unreadable:.0f} of the last {seen} records cannot be read, more than '
                f'data.max_unreadable ({most:g}): see to {self._config.data.source}, or raise it.'
            )

    def close(self) -> None:
        """Ends the progress line, and says where the time went."""
        self.progress.close()
        self.progress.message(self._pulse.summary())


def mean_metrics(window: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over the steps of a window, each metric over those that have it."""
    names = dict.fromkeys(name for values in window for name in values)
    return {name: float(np.mean([w[name] for w in window if name in w])) for name in names}


def check_finite(state: GanState, metrics: Mapping[str, Any]) -> None:
    """Raises DivergedError, naming step and term, if the state met a value that is not finite."""
    if (step := int(state.bad_step)) >= 0:
        terms = [name for name in metrics if not name.startswith('data/')]
        term = sorted(terms)[int(state.bad_term)]
        raise DivergedError(
            f'{term} was not finite at step {step}: checkpoints before it are good; go on from one '
            'with a lower learning rate or another seed (init_from, in another --workdir).'
        )
