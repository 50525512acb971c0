"""Watchdog of a long job: time spent in each phase, a heartbeat file, and an end if it hangs."""

import contextlib
import faulthandler
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import jax

from chromagan_jax.utils import files

# What a job does at any moment. The time in steps over all of it is its goodput.
PHASES = ('start', 'compile', 'restore', 'data', 'step', 'evaluate', 'sample', 'save')
HEARTBEAT = 10  # s between writes of the heartbeat file, at least


class Watchdog:
    """Measures the time of each phase and the time since the last progress.

    Progress is a finished step or evaluation batch (`beat`), or a change of phase.
    """

    def __init__(
        self,
        timeout: float = 0,
        heartbeat: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        end: Callable[[str], None] | None = None,
    ):
        """Starts the clock in the phase 'start'.

        Args:
            timeout: s without progress after which `watch` ends the process; 0: never.
            heartbeat: the file that `beat` keeps up to date; None for no file. Only one process
                may write it.
            clock: seconds, for tests.
            end: called with the sentence by a process that hangs, for tests.
        """
        self._timeout, self._heartbeat, self._clock = timeout, heartbeat, clock
        self._end = end or _end
        self._spent = dict.fromkeys(PHASES, 0.0)
        self._phase, self._step = 'start', 0
        self._since = self._last_beat = clock()
        self._written = -float('inf')

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Within the context the time is that of `name`, one of `PHASES`."""
        outer = self._phase
        self._enter(name)
        try:
            yield
        finally:
            self._enter(outer)

    def _enter(self, name: str) -> None:
        now = self._clock()
        self._spent[self._phase] += now - self._since
        self._phase, self._since, self._last_beat = name, now, now

    def beat(self, step: int | None = None) -> None:
        """Reports progress; with `step`, that many steps are done.

        Raises:
            UserError: if the heartbeat file cannot be written.
        """
        self._last_beat = self._clock()
        self._step = self._step if step is None else step
        if self._heartbeat and self._last_beat - self._written >= HEARTBEAT:
            self._written = self._last_beat
            self._write()

    def _write(self) -> None:
        assert self._heartbeat
        values = {'step': self._step, 'time': time.time(), 'phase': self._phase}
        files.write_atomically(self._heartbeat, json.dumps(values).encode() + b'\n')

    def seconds(self) -> dict[str, float]:
        """Of each phase, since the clock started."""
        now = self._spent[self._phase] + self._clock() - self._since
        return self._spent | {self._phase: now}

    def shares(self) -> dict[str, float]:
        """'goodput/step', 'goodput/data', ...: shares of the time since the clock started."""
        seconds = self.seconds()
        total = sum(seconds.values()) or 1.0
        return {f'goodput/{name}': spent / total for name, spent in seconds.items()}

    def summary(self) -> str:
        """One line for people: the goodput, and where the rest went."""
        shares = {name.partition('/')[2]: share for name, share in self.shares().items()}
        good = shares.pop('step')
        rest = [f'{name} {share:.1%}' for name, share in shares.items() if share >= 0.0005]
        return f'goodput {good:.1%}' + (f' (the rest: {", ".join(rest)})' if rest else '')

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Within the context the process ends with 75 if it makes no progress for the timeout.

        The last heartbeat, at the end of the context, has the phase 'end'.
        """
        stopped = threading.Event()

        def look() -> None:
            while not stopped.wait(min(1.0, self._timeout / 10)):
                if self._clock() - self._last_beat > self._timeout:
                    self._end(self._stalled())
                    return

        self._last_beat = self._clock()
        if self._timeout:
            threading.Thread(target=look, name='watch', daemon=True).start()
        try:
            yield
        finally:
            stopped.set()
        if self._heartbeat:
            self._phase = 'end'
            self._write()

    def _stalled(self) -> str:
        of = f' of {jax.process_count()}' if jax.process_count() > 1 else ''
        return (
            f'process {jax.process_index()}{of} has made no progress for {self._timeout:g} s '
            f'(stall_timeout) after step {self._step}, in the phase {self._phase!r}: it hangs, or '
            'waits for a process that hangs. Start it again: it resumes from the newest checkpoint.'
        )


def _end(sentence: str) -> NoReturn:
    """Shows where each thread hangs and ends the process at once: an orderly end would hang too."""
    faulthandler.dump_traceback(sys.stderr)
    print(f'chromagan_jax: {sentence}', file=sys.stderr, flush=True)
    os._exit(75)
