"""Watchdog of a long job: time per phase, a heartbeat file, and an exit if the job hangs."""

import contextlib
import faulthandler
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import jax

from chromagan_jax.errors import EXIT_RESTART, is_outage
from chromagan_jax.utils import cli, files

# Phases of a job. Goodput is the share of the phase 'step' in the total time.
PHASES = ('start', 'compile', 'restore', 'data', 'step', 'evaluate', 'sample', 'report', 'save')
HEARTBEAT = 10  # minimum s between writes of the heartbeat file


class Watchdog:
    """Measures the time in each phase and the time since the last progress.

    Progress is a finished step or evaluation batch (`beat`), or a phase change.
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
            timeout: s without progress until `watch` ends the process; 0: never.
            heartbeat: file that `beat` updates; None for no file. Only one process may write it.
            clock: returns seconds; tests replace it.
            end: called with a sentence if the process hangs; tests replace it.
        """
        self._timeout, self._heartbeat, self._clock = timeout, heartbeat, clock
        self._end = end or _end
        self._spent = dict.fromkeys(PHASES, 0.0)
        self._phase, self._step = 'start', 0
        self._since = self._last_beat = clock()
        self._written = -float('inf')

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the time in the context as phase `name`, one of `PHASES`."""
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
        """Reports progress; `step` is the number of steps done, if it changed.

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
        try:
            files.write_atomically(self._heartbeat, json.dumps(values).encode() + b'\n')
        except Exception as error:
            if not is_outage(error):  # the next heartbeat follows soon, and training may go on
                raise

    def seconds(self) -> dict[str, float]:
        """Seconds in each phase since the clock started."""
        now = self._spent[self._phase] + self._clock() - self._since
        return self._spent | {self._phase: now}

    def shares(self) -> dict[str, float]:
        """'goodput/step', 'goodput/data', ...: shares of the time since the clock started."""
        seconds = self.seconds()
        total = sum(seconds.values()) or 1.0
        return {f'goodput/{name}': spent / total for name, spent in seconds.items()}

    def summary(self) -> str:
        """One line with the goodput and the shares of the other phases."""
        shares = {name.partition('/')[2]: share for name, share in self.shares().items()}
        good = shares.pop('step')
        rest = [f'{name} {share:.1%}' for name, share in shares.items() if share >= 0.0005]
        return f'goodput {good:.1%}' + (f' (the rest: {", ".join(rest)})' if rest else '')

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Context in which the process exits with code 75 after `timeout` s without progress.

        Time in which the process is stopped (SIGSTOP, Ctrl-Z) does not count. At the end of the
        context a last heartbeat is written, with the phase 'end'.
        """
        stopped = threading.Event()

        def look() -> None:
            interval, began = min(1.0, self._timeout / 10), time.monotonic()
            while not stopped.wait(interval):
                now = time.monotonic()
                self._last_beat += max(0.0, now - began - interval)  # late: it was stopped
                began = now
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
            'waits for a process that hangs. Start the run again: it resumes from the newest '
            'checkpoint.'
        )


def _end(sentence: str) -> NoReturn:
    """Prints the stack of each thread and ends the process at once."""
    # A regular exit could hang too.
    faulthandler.dump_traceback(sys.stderr)
    cli.end_now(EXIT_RESTART, sentence)
