"""Photographs to colorize, how each ended, and the counts of all."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from chromagan_jax.inference import report
from chromagan_jax.inference.files import shown
from chromagan_jax.inference.hints import Hint
from chromagan_jax.utils.progress import Progress


class Job(NamedTuple):
    """One photograph and its result."""

    source: Path
    target: Path
    sample: int | None = None  # which of several results; None: the one without noise
    page: int | None = None  # of a TIFF, from 0; None: the first
    hints: tuple[Hint, ...] = ()  # known colours


class Outcome(NamedTuple):
    """How a job ended."""

    job: Job
    status: str  # colorized, failed, skipped (a result exists) or in_color
    reason: str = ''  # of a failure
    notes: tuple[str, ...] = ()
    is_color: bool = False  # whether the photograph was in colour already
    preview: report.Preview | None = None


class Totals(NamedTuple):
    """How many jobs ended how."""

    colorized: int
    failed: int
    in_color: int
    skipped: int  # another run made the result meanwhile


class Tally:
    """Counts outcomes, reports failures and notes, and shows the progress."""

    def __init__(self, total: int, on_outcome: Callable[[Outcome], None]):
        self._counts = dict.fromkeys(Totals._fields, 0)
        self._on_outcome = on_outcome
        self._progress = Progress(total, 0, 1, unit='photograph')
        self._interval = 1 if sys.stderr.isatty() else 30  # seconds between reports
        self._reported = time.monotonic()
        self.message, self.close = self._progress.message, self._progress.close

    def collect(self, outcome: Outcome) -> None:
        """Counts an outcome."""
        self._counts[outcome.status] += 1
        if outcome.status == 'failed':
            self.message(f'{shown(outcome.job.source)} failed: {outcome.reason}')
        self._on_outcome(outcome)
        if time.monotonic() - self._reported >= self._interval:
            self._reported = time.monotonic()
            self._progress.report(sum(self._counts.values()), {})

    def totals(self) -> Totals:
        return Totals(**self._counts)
