"""Prepares a data set in a hidden folder and moves it to its place at the end."""

import contextlib
import csv
import io
import json
import math
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from chromagan_jax.errors import PreemptedError, UserError
from chromagan_jax.prepare import outcomes, report
from chromagan_jax.prepare.hidden import FINISHED, MARK, hidden_folder, is_free, locate, place
from chromagan_jax.prepare.inputs import Inputs, Listing, list_pictures
from chromagan_jax.prepare.pictures import Options
from chromagan_jax.utils import files
from chromagan_jax.utils.progress import Progress, format_duration

COLUMNS = ('file', 'name', 'decision', 'detail', 'category', 'width', 'height')  # of pictures.csv


class Settings(NamedTuple):
    """The settings that determine the result, together with the images."""

    options: Options
    distance: int
    test: float
    seed: int


def prepare(
    inputs: Inputs,
    output: Path,
    settings: Settings,
    runner: tuple[int, tuple[str, ...]],
    stopping: Callable[[], bool],
) -> Mapping[str, Any] | None:
    """Prepares a data set at `output`; returns its report, or None if it already exists.

    Args:
        inputs: the images, which are only read.
        output: a folder that is missing, empty, or prepared with the same inputs and settings.
        settings: limits, seed and form of the result.
        runner: the fields of `pipeline.Runner`.
        stopping: returns whether to stop early.

    Raises:
        UserError: if `output` contains anything else or cannot be written, or all images are
            dropped.
        PreemptedError: if `stopping` returns true; nothing is written then.
    """
    output = locate(output)
    with hidden_folder(output) as hidden:
        listing = list_pictures(inputs, hidden / 'listing')
        request = {'settings': _plain(settings), 'pictures': listing.fingerprint}
        if _is_prepared(output, request):
            return None
        finished = hidden / FINISHED
        if not _is_prepared(finished, request):  # an earlier run may have failed to move it
            for sentence in listing.ignored:
                log(sentence)
            log(f'{listing.number} pictures to look at')
            begun = time.monotonic()
            _build(inputs, listing, hidden, settings, runner, stopping)
            made = hidden / 'made'
            _write_reports(hidden / 'staging', made, request)
            files.write_json(made / MARK, request)
            os.sync()  # after a power failure, `output` must not exist with incomplete content
            with files.writing(finished):
                made.replace(finished)
            seconds = time.monotonic() - begun
            log(f'{format_duration(seconds)}, {listing.number / seconds:.1f} pictures/s in all')
        place(finished, output)
    return json.loads((output / 'report.json').read_text())


def log(text: str) -> None:
    """Prints a line to standard error."""
    print(text, file=sys.stderr, flush=True)


def _plain(settings: Settings) -> dict[str, Any]:
    return {**settings._asdict(), 'options': settings.options._asdict()}


def _is_prepared(output: Path, request: Mapping[str, Any]) -> bool:
    """Whether `output` was prepared for `request`; UserError if it contains anything else."""
    if is_free(output):
        return False
    try:
        found = json.loads((output / MARK).read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f'{output} exists and was not prepared by this command: choose another --output.'
        ) from error
    if found == request:
        return True
    what = 'pictures' if found.get('settings') == request['settings'] else 'settings'
    raise UserError(
        f'{output} was prepared from other {what}: remove it or choose another --output.'
    )


def _build(
    inputs: Inputs,
    listing: Listing,
    hidden: Path,
    settings: Settings,
    runner: tuple[int, tuple[str, ...]],
    stopping: Callable[[], bool],
) -> None:
    """Writes the data set to `hidden`/made/VERSION, with staging files in `hidden`/staging."""
    # Beam is an optional dependency, and slow to import.
    from chromagan_jax.prepare import pipeline
    from chromagan_jax.prepare.photographs.photographs_dataset_builder import Photographs

    staging = hidden / 'staging'
    job = pipeline.Job(inputs, listing.path, str(staging), *settings)
    builder = Photographs(
        job=job, listing=listing, runner=pipeline.Runner(*runner), data_dir=hidden / 'tfds'
    )
    errors: list[BaseException] = []

    def build() -> None:
        # Beam's threads and workers inherit this mask, so Ctrl-C reaches only the main thread.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # TFDS's progress output
                builder.download_and_prepare(file_format='array_record')
        except BaseException as error:  # raised again in the main thread
            errors.append(error)

    def note(failed: threading.ExceptHookArgs) -> None:
        if 'Worker subprocess' in str(failed.exc_value):
            lost.append(str(failed.exc_value))
        elif not type(failed.exc_value).__module__.startswith(
            'grpc'
        ):  # a follow-up error of the same failure
            threading.__excepthook__(failed)

    lost: list[str] = []
    previous, threading.excepthook = threading.excepthook, note
    thread = threading.Thread(target=build, daemon=True)
    thread.start()
    _watch(thread, staging, stopping, lost, listing.number)
    threading.excepthook = previous
    if errors:
        raise _translated(errors[0], bool(runner[1])) from errors[0]
    builder.data_path.parent.replace(hidden / 'made')


def _watch(
    thread: threading.Thread,
    staging: Path,
    stopping: Callable[[], bool],
    lost: Sequence[str],
    number: int,
) -> None:
    """Shows the progress until the thread ends; ends the workers on a stop or a lost worker."""
    period = 1.0 if sys.stderr.isatty() else 30.0
    progress, due = None, 0.0
    while thread.is_alive():
        thread.join(0.2)
        if stopping():
            end_workers()
            raise PreemptedError('Interrupted: nothing was written; run the command again.')
        if lost:  # Beam would wait for it forever
            end_workers()
            raise UserError(
                f'A worker was lost ({lost[0]}), perhaps for lack of memory: '
                'start again with fewer --workers.'
            )
        if time.monotonic() < due:
            continue
        # A runner may process images again, such as those of a lost worker.
        # A cluster processes the images of a lost worker again.
        done = min(outcomes.count_done(str(staging)), number)
        if progress:
            progress.report(done, {})
            due = time.monotonic() + period
            if done == number:
                progress.message('removing duplicates and writing shards')
                due = math.inf
        elif done:  # the clock starts with the first result
            progress = Progress(number, done, images_per_step=1, unit='picture')
            due = time.monotonic() + period
    if progress:
        progress.close()


def end_workers() -> None:
    """Kills the processes that Beam started, which may outlive a run that ends early."""
    parents = {}
    for stat in Path('/proc').glob('[0-9]*/stat'):  # Linux only; elsewhere they end later
        with contextlib.suppress(OSError):  # the process ended meanwhile
            fields = stat.read_text().rpartition(')')[2].split()
            parents[int(stat.parent.name)] = int(fields[1])
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    for pid in ours - {os.getpid()}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _translated(error: BaseException, cluster: bool) -> BaseException:
    """The UserError in the text of an exception that Beam raised for a worker; else `error`.

    With `cluster`, a failed connection and a missing package are user errors too.
    """
    text = str(error)
    if isinstance(error, UserError):
        return UserError(text.partition(' [while running')[0])
    if cluster and isinstance(error, (OSError, ImportError)):
        return UserError(f"Beam's runner failed: {text}: check the arguments after --.")
    found = re.findall(r'UserError: (.+)', text)
    return UserError(found[-1].partition(' [while running')[0]) if found else error


def _write_reports(staging: Path, made: Path, request: Mapping[str, Any]) -> None:
    """Writes report.json, report.html and pictures.csv with the outcomes of all images."""
    summary = report.empty()
    path = made / 'pictures.csv'
    with files.writing(made), path.open('w', encoding='utf-8', errors='surrogateescape') as file:
        table = csv.writer(file, lineterminator='\n')
        table.writerow(COLUMNS)
        for plan in (*outcomes.SPLITS, 'dropped'):
            for one in outcomes.read_plan(str(staging), plan):
                split = one.decision if plan != 'dropped' else ''
                image = outcomes.read_picture(str(staging), one)
                summary = report.add(summary, one.result(image), one.name, one.category, split)
                size = one.kept[:2] if split else ('', '')
                table.writerow(
                    (one.name, one.digest, one.decision, one.detail, one.category, *size)
                )
    report.write_report(made, summary, request['settings'])
