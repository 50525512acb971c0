"""Preparing a data set in a hidden folder that takes its name at the end."""

import contextlib
import csv
import fcntl
import io
import json
import math
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from chromagan_jax.errors import PreemptedError, UserError
from chromagan_jax.prepare import outcomes, report
from chromagan_jax.prepare.inputs import Inputs, Listing, list_pictures
from chromagan_jax.prepare.pictures import Options
from chromagan_jax.utils import files
from chromagan_jax.utils.progress import Progress, format_duration

COLUMNS = ('file', 'name', 'fate', 'detail', 'category', 'width', 'height')  # of pictures.csv


class Settings(NamedTuple):
    """What decides the bits of the result, with the pictures themselves."""

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
    """Prepares a data set at `output`; returns its report, or None if it is there already.

    Args:
        inputs: the pictures, which are only read.
        output: a folder that does not exist, is empty, or was prepared from the same.
        settings: what is done.
        runner: the fields of `pipeline.Runner`: who does it.
        stopping: whether to end early.

    Raises:
        UserError: if something else is at `output`, or nothing is left of the pictures.
        PreemptedError: if it was asked to stop; nothing is left then.
    """
    with _hidden_folder(output) as hidden:
        listing = list_pictures(inputs, hidden / 'listing')
        asked = {'settings': _plain(settings), 'pictures': listing.fingerprint}
        if _is_there(output, asked):
            return None
        say(f'{listing.number} pictures to look at')
        begun = time.monotonic()
        _build(inputs, listing, hidden, settings, runner, stopping)
        made = hidden / 'made'
        _tell(hidden / 'staging', made, asked)
        files.write_json(made / 'prepare.json', asked)
        os.sync()  # a power cut leaves no name without its content either
        with files.writing(output):
            made.replace(output)
        seconds = time.monotonic() - begun
        say(f'{format_duration(seconds)}, {listing.number / seconds:.1f} pictures/s in all')
    return json.loads((output / 'report.json').read_text())


def say(text: str) -> None:
    """Shows a line on standard error."""
    print(text, file=sys.stderr, flush=True)


def _plain(settings: Settings) -> dict[str, Any]:
    return {**settings._asdict(), 'options': settings.options._asdict()}


def _is_there(output: Path, asked: Mapping[str, Any]) -> bool:
    """Whether `output` was prepared as `asked`; UserError if it holds anything else."""
    if not output.exists():
        return False
    if output.is_dir() and not any(output.iterdir()):
        return False
    try:
        found = json.loads((output / 'prepare.json').read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f'{output} is there and was not prepared by this command: name another --output.'
        ) from error
    if found == asked:
        return True
    what = 'pictures' if found.get('settings') == asked['settings'] else 'settings'
    raise UserError(f'{output} was prepared from other {what}: remove it or name another --output.')


@contextlib.contextmanager
def _hidden_folder(output: Path) -> Iterator[Path]:
    """A new folder beside `output`, removed afterwards; what a killed run left in it goes first.

    Raises:
        UserError: if another run is at work in it, or it cannot be made.
    """
    hidden = output.absolute().with_name(f'.{output.name}.incomplete')
    with files.writing(hidden):
        hidden.mkdir(parents=True, exist_ok=True)
        handle = os.open(hidden, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise UserError(f'{output} is being prepared by another run: wait for it.') from error
    try:
        _empty(hidden)
        yield hidden
    finally:
        _empty(hidden)
        with contextlib.suppress(OSError):  # a worker wrote once more: the next run empties it
            hidden.rmdir()
        os.close(handle)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)  # workers that are ending may still write
        else:
            path.unlink()


def _build(
    inputs: Inputs,
    listing: Listing,
    hidden: Path,
    settings: Settings,
    runner: tuple[int, tuple[str, ...]],
    stopping: Callable[[], bool],
) -> None:
    """Writes the data set to `hidden`/made/VERSION, staging in `hidden`/staging."""
    # Beam is an extra, and slow to import.
    from chromagan_jax.prepare import pipeline
    from chromagan_jax.prepare.photographs.photographs_dataset_builder import Photographs

    staging = hidden / 'staging'
    job = pipeline.Job(inputs, listing.path, str(staging), *settings)
    builder = Photographs(
        job=job, listing=listing, runner=pipeline.Runner(*runner), data_dir=hidden / 'tfds'
    )
    errors: list[BaseException] = []

    def build() -> None:
        # Blocked here, Ctrl-C stays blocked in Beam's threads and the workers that they start: it
        # reaches the main thread alone.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # TFDS's own progress
                builder.download_and_prepare(file_format='array_record')
        except BaseException as error:  # raised again in the main thread
            errors.append(error)

    def note(failed: threading.ExceptHookArgs) -> None:
        if 'Worker subprocess' in str(failed.exc_value):
            lost.append(str(failed.exc_value))
        elif not type(failed.exc_value).__module__.startswith('grpc'):  # an echo of the same
            threading.__excepthook__(failed)

    lost: list[str] = []
    previous, threading.excepthook = threading.excepthook, note
    thread = threading.Thread(target=build, daemon=True)
    thread.start()
    _watch(thread, staging, stopping, lost, listing.number)
    threading.excepthook = previous
    if errors:
        raise _translated(errors[0]) from errors[0]
    builder.data_path.parent.replace(hidden / 'made')


def _watch(
    thread: threading.Thread,
    staging: Path,
    stopping: Callable[[], bool],
    lost: Sequence[str],
    number: int,
) -> None:
    """Shows the progress until the thread ends, or there is a reason to wait no longer."""
    period = 1.0 if sys.stderr.isatty() else 30.0
    progress, due = None, 0.0
    while thread.is_alive():
        thread.join(0.2)
        if stopping():
            end_workers()
            raise PreemptedError('Interrupted: nothing was written; started again, it begins anew.')
        if lost:  # Beam would wait for it for ever
            end_workers()
            raise UserError(
                f'A worker was lost ({lost[0]}), perhaps for want of memory: '
                'start again with fewer --workers.'
            )
        if time.monotonic() < due:
            continue
        done = outcomes.count_done(str(staging))
        if progress:
            progress.report(done, {})
            due = time.monotonic() + period
            if done == number:
                progress.message('removing duplicates and writing shards')
                due = math.inf
        elif done:  # the clock starts once the workers have
            progress = Progress(number, done, images_per_step=1, unit='picture')
            due = time.monotonic() + period
    if progress:
        progress.close()


def end_workers() -> None:
    """Kills the processes that Beam started, which would outlive a run that ends early."""
    parents = {}
    for stat in Path('/proc').glob('[0-9]*/stat'):  # there is none outside Linux: they end late
        with contextlib.suppress(OSError):  # it ended meanwhile
            fields = stat.read_text().rpartition(')')[2].split()
            parents[int(stat.parent.name)] = int(fields[1])
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    for pid in ours - {os.getpid()}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _translated(error: BaseException) -> BaseException:
    """The mistake of the user that a worker's exception, which Beam tells as text, stands for."""
    text = str(error)
    if isinstance(error, UserError):
        return UserError(text.partition(' [while running')[0])
    found = re.findall(r'UserError: (.+)', text)
    return UserError(found[-1].partition(' [while running')[0]) if found else error


def _tell(staging: Path, made: Path, asked: Mapping[str, Any]) -> None:
    """Writes report.json, report.html and pictures.csv: what became of every picture."""
    summary = report.empty()
    with files.writing(made), (made / 'pictures.csv').open('w', errors='surrogateescape') as file:
        table = csv.writer(file, lineterminator='\n')
        table.writerow(COLUMNS)
        for plan in (*outcomes.SPLITS, 'dropped'):
            for one in outcomes.read_plan(str(staging), plan):
                split = one.fate if plan != 'dropped' else ''
                image = outcomes.read_picture(str(staging), one)
                summary = report.add(summary, one.result(image), one.name, one.category, split)
                size = one.kept[:2] if split else ('', '')
                table.writerow((one.name, one.digest, one.fate, one.detail, one.category, *size))
    report.write_report(made, summary, asked['settings'])
