"""The progress line of a job, and the lines beside it.

It prints one plain line a report where there is no terminal, and leaves pauses out of the rate.
"""

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
_SMOOTHING = 0.3  # share of the newest window in the rate that the time left is computed from


def stream() -> TextIO:
    """Where process 0 shows what a run does; the other processes show nothing."""
    return sys.stderr if jax.process_index() == 0 else open(os.devnull, 'w')


def announcer() -> Callable[[str], None]:
    """A function that shows a line, for before and after there is a `Progress`."""
    return functools.partial(print, file=stream(), flush=True)


class Progress:
    """The progress line, and the throughput that it shows.

    On a terminal one line is rewritten in place; elsewhere every report is a line of its own:
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
    ):
        """Starts the clock at `start_step`; `stream` is standard error unless given."""
        self._unit = unit
        self._total_steps = total_steps
        self._images_per_step = images_per_step
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._clock = clock
        self._window_step, self._window_start = start_step, clock()
        self._seconds_per_step: float | None = None  # smoothed
        self._line = ''  # on the terminal now

    def images_per_second(self, step: int) -> float:
        """Images a second from the last report to `step`, pauses left out; 0 if no time passed."""
        seconds = self._clock() - self._window_start
        images = (step - self._window_step) * self._images_per_step
        return images / seconds if seconds > 0 else 0.0

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent inside (compiling, evaluating, saving) does not count as training."""
        worked = self._clock() - self._window_start
        try:
            yield
        finally:
            self._window_start = self._clock() - worked

    def report(self, step: int, scalars: Mapping[str, float]) -> None:
        """Shows where the run stands, and begins a new window of throughput.

        The time left is that of the remaining steps alone; pauses to come are not foreseen.
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
        tail = [f'{rate:.1f} img/s']
        if self._seconds_per_step is not None:
            left = max(0, self._total_steps - step) * self._seconds_per_step
            tail.append(f'{format_duration(left)} left')
        if self._terminal:
            # Losses that do not fit are left out sooner than the time left.
            width = _columns(self._stream) - 1  # the last column would make some terminals wrap
            while values and len('  '.join([head, *values, *tail])) > width:
                values.pop()
            self._line = '  '.join([head, *values, *tail])[:width]
            self._show('\r\x1b[K' + self._line)
        else:
            self._show('  '.join([head, *values, *tail]) + '\n')

    def message(self, text: str) -> None:
        """Prints `text` on lines of its own, above the progress line."""
        self._show(f'\r\x1b[K{text}\n{self._line}' if self._line else f'{text}\n')

    def close(self) -> None:
        """Leaves the progress line standing, so that what is printed next starts a new one."""
        if self._line:
            self._show('\n')
            self._line = ''

    def _show(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def format_duration(seconds: float) -> str:
    """45s, 3m 20s, 2h 05m or 3d 07h, rounded to what is shown."""
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
    except OSError:  # no file behind the stream to ask
        columns = 0
    return columns or shutil.get_terminal_size().columns
