"""Passes the outcomes of a batch to the JSON lines and the report."""

import contextlib
import functools
import json
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from chromagan_jax.data.decode import MAX_PIXELS
from chromagan_jax.errors import UserError
from chromagan_jax.inference import headers
from chromagan_jax.inference.memory import InFlight
from chromagan_jax.inference.outcomes import Job, Outcome
from chromagan_jax.inference.report import Preview, Report, read_preview
from chromagan_jax.inference.video.suffixes import is_film


class Results:
    """Counts outcomes, and passes them to standard output and to the report.

    Args:
        json_lines: whether each outcome becomes a JSON line on standard output.
        report_path: of the HTML report; '' for none.
    """

    def __init__(self, json_lines: bool, report_path: str):
        self._json = json_lines
        self._report = Report(Path(report_path)) if report_path else None
        self._earlier: list[Job] = []  # photographs whose results were there already
        self.skipped = self.failed = self.recolored = 0

    def add(self, outcome: Outcome) -> None:
        """An outcome of a photograph; raises UserError if its line cannot be printed."""
        job, status = outcome.job, outcome.status
        self.skipped += status == 'skipped'
        self.failed += status == 'failed'
        self.recolored += outcome.is_color
        if self._json:
            line: dict[str, Any] = {
                'source': str(job.source),
                'result': str(job.target),
                'status': status,
            }
            if job.page is not None:
                line['page'] = job.page + 1
            if outcome.reason:
                line['reason'] = outcome.reason
            line |= {'in_color': outcome.is_color or status == 'in_color', 'notes': outcome.notes}
            _print_json(line)
        if self._report:
            if outcome.preview:
                self._report.add(job.source, job.target, outcome.preview, outcome.notes)
            elif status == 'failed':
                self._report.fail(f'{job.source}: {outcome.reason}')
            elif status == 'skipped' and not is_film(job.source):
                self._earlier.append(job)
            else:
                reason = 'a result exists' if status == 'skipped' else 'it is in colour already'
                self._report.leave_out(f'{job.source}: {reason}')

    def fail(self, sentence: str) -> None:
        """A path that could not be read; raises UserError if its line cannot be printed."""
        print(sentence, file=sys.stderr)
        self.failed += 1
        source, _, reason = sentence.rpartition(' failed: ')
        if self._json:
            _print_json({'source': source, 'status': 'failed', 'reason': reason})
        if self._report:
            self._report.fail(f'{source}: {reason}')

    def leave_out(self, sentence: str) -> None:
        """A note about files that are not read."""
        print(sentence, file=sys.stderr)
        if self._report:
            self._report.leave_out(sentence)

    def write(
        self,
        threads: int = 1,
        max_pixels: int = MAX_PIXELS,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """Writes the report, with the pairs of results that were there already.

        Args:
            threads: that read photographs and results again.
            max_pixels: of the images in memory together; larger ones are not shown.
            stopping: once it is true, no further pair is read.
        """
        if not self._report:
            return
        if self._earlier:
            print(f'{len(self._earlier)} pairs are read again for the report', file=sys.stderr)
        show = functools.partial(_preview, InFlight(max_pixels), threading.Lock(), stopping)
        with ThreadPoolExecutor(threads) as pool:
            for job, preview in zip(self._earlier, pool.map(show, self._earlier), strict=True):
                if preview:
                    self._report.add(job.source, job.target, preview, ['there already'], True)
                else:
                    self._report.leave_out(f'{job.source}: a result exists')
        self._report.write()


def _preview(
    in_flight: InFlight, entering: threading.Lock, stopping: Callable[[], bool], job: Job
) -> Preview | None:
    """The preview of a job whose result exists; None if the run stops or a file is unreadable."""
    if stopping():
        return None
    pixels = max(headers.pixels(path, in_flight.most) for path in (job.source, job.target))
    with entering:
        in_flight.wait(pixels)
        in_flight.enter(pixels)
    with in_flight.leaving(pixels):
        return read_preview(job.source, job.target, job.page or 0, in_flight.most)


def _print_json(line: dict[str, Any]) -> None:
    try:
        print(json.dumps(line), flush=True)
    except OSError as error:
        with contextlib.suppress(OSError):  # what is buffered would fail again at the exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise UserError(
            f'Standard output cannot be written ({error.strerror}), so the run ends: read all of '
            'its lines, or leave out --json; finished results are kept.'
        ) from error
