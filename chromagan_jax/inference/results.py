"""Passes the outcomes of a batch to the JSON lines and the report."""

import json
import sys
from pathlib import Path
from typing import Any

from chromagan_jax.inference.outcomes import Outcome
from chromagan_jax.inference.report import Report


class Results:
    """Counts outcomes, and passes them to standard output and to the report.

    Args:
        json_lines: whether each outcome becomes a JSON line on standard output.
        report_path: of the HTML report; '' for none.
    """

    def __init__(self, json_lines: bool, report_path: str):
        self._json = json_lines
        self._report = Report(Path(report_path)) if report_path else None
        self.skipped = self.failed = self.recolored = 0

    def add(self, outcome: Outcome) -> None:
        """An outcome of a photograph."""
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
            print(json.dumps(line), flush=True)
        if self._report:
            if outcome.preview:
                self._report.add(job.source, job.target, outcome.preview, outcome.notes)
            elif status == 'failed':
                self._report.fail(f'{job.source}: {outcome.reason}')
            else:
                reason = 'a result exists' if status == 'skipped' else 'it is in colour already'
                self._report.leave_out(f'{job.source}: {reason}')

    def fail(self, sentence: str) -> None:
        """A path that could not be read."""
        print(sentence, file=sys.stderr)
        self.failed += 1
        source, _, reason = sentence.rpartition(' failed: ')
        if self._json:
            print(json.dumps({'source': source, 'status': 'failed', 'reason': reason}), flush=True)
        if self._report:
            self._report.fail(f'{source}: {reason}')

    def leave_out(self, sentence: str) -> None:
        """A note about files that are not read."""
        print(sentence, file=sys.stderr)
        if self._report:
            self._report.leave_out(sentence)

    def write(self) -> None:
        """Writes the report."""
        if self._report:
            self._report.write()
