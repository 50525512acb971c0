"""Progress line and messages of a job."""

import contextlib
import functools
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TextIO

import jax

_SHORT = {'generator/loss': 'G', 'discriminator/loss': 'D'}  # shown first
_SMOOTHING = 0.3  # weight of the newest window in the smoothed rate for the time left


def stream() -> TextIO:
    """Output of a run: standard error in process 0, the null device in the others."""
    return sys.stderr if jax.process_index() == 0 else open(os.devnull, 'w')


def announcer() -> Callable[[str], None]:
    """A function that prints a line, for use without a `Progress`."""
    return functools.partial(print, file=stream(), flush=True)


class Progress:
    """Progress line with throughput and the time left.

    A terminal shows one line, rewritten in place. Other outputs get one line per report:
    `step 200/600 (33%)  G 12.31  D 0.642  l1 0.081  41.2 img/s  1m 12s left`.
    """

    def __init__(
        self,
        total_steps: int,
        start_step: int,
        images_per_step: int,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        unit: str = 'step',
        rate_unit: str = 'img/s',
    ):
        """Starts the clock at `start_step`; `stream` is standard error by default."""
        self._unit, self._rate_unit = unit, rate_unit
        self._total_steps = total_steps
        self._images_per_step = images_per_step
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._clock = clock
        self._window_step, self._window_start = start_step, clock()
        self._seconds_per_step: float | None = None  # smoothed
        self._line = ''  # now on the terminal

    def images_per_second(self, step: int) -> float:
        """Images per second since the last report, without pauses; 0 if no time passed."""
        seconds = self._clock() - self._window_start
        images = (step - self._window_step) * self._images_per_step
        return images / seconds if seconds > 0 else 0.0

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes the time in the context (evaluating, saving) from the throughput."""
        worked = self._clock() - self._window_start
        try:
            yield
        finally:
            self._window_start = self._clock() - worked

    def report(self, step: int, scalars: Mapping[str, float]) -> None:
        """Shows step, metrics, throughput and time left, and starts a new throughput window.

        The time left does not include future pauses.
        """
        rate = self.images_per_second(step)
        if rate > 0:
            newest = self._images_per_step / rate
            smoothed = self._seconds_per_step or newest
            self._seconds_per_step = smoothed + _SMOOTHING * (newest - smoothed)
        self._window_step, self._window_start = step, self._clock()

        head = f'{self._unit} {step}/{self._total_steps} ({100 * step // self._total_steps}%)'
        names = sorted(scalars, key=lambda name: name not in _SHORT)
        values = [f'{_SHORT.get(n, n.split("/")[-1])} {scalars[n]:.4g}' for n in names]
        tail = [f'{rate:.1f} {self._rate_unit}']
        if self._seconds_per_step is not None:
            left = max(0, self._total_steps - step) * self._seconds_per_step
            tail.append(f'{format_duration(left)} left')
        if self._terminal:
            # If the line is too long, metrics are dropped before the time left.
            width = _columns(self._stream) - 1  # some terminals wrap at the last column
            while values and len('  '.join([head, *values, *tail])) > width:
                values.pop()
            self._line = '  '.join([head, *values, *tail])[:width]
            self._show('\r\x1b[K' + self._line)
        else:
            self._show('  '.join([head, *values, *tail]) + '\n')

    def message(self, text: str) -> None:
        """Prints `text` above the progress line."""
        self._show(f'\r\x1b[K{text}\n{self._line}' if self._line else f'{text}\n')

    def close(self) -> None:
        """Ends the progress line, so that later output starts on a new line."""
        if self._line:
            self._show('\n')
            self._line = ''

    def _show(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def format_duration(seconds: float) -> str:
    """Formats a duration, rounded, as 45s, 3m 20s, 2h 05m or 3d 07h."""
    whole = round(seconds)
    if whole < 60:
        return f'{whole}s'
    if whole < 3600:
        return f'{whole // 60}m {whole % 60:02d}s'
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f'{minutes // 60}h {minutes % 60:02d}m'
    hours = round(seconds / 3600)
    return f'{hours // 24}d {hours % 24:02d}h'


def _columns(stream: TextIO) -> int:
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except OSError:  # the stream is not a file
        columns = 0
    return columns or shutil.get_terminal_size().columns
