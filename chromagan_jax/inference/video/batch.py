"""Films of a command one after the other: their results' names, progress, notes and outcomes."""

import os
import sys
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import av

from chromagan_jax.errors import UserError
from chromagan_jax.inference import metadata, output, report, toning
from chromagan_jax.inference.conditions import Conditions
from chromagan_jax.inference.files import Listed, shown
from chromagan_jax.inference.layout import Predict
from chromagan_jax.inference.outcomes import Job, Outcome, Totals
from chromagan_jax.inference.plan import of_existing
from chromagan_jax.inference.sharing import claimed
from chromagan_jax.inference.video import mux, read
from chromagan_jax.inference.video.read import Film
from chromagan_jax.inference.video.run import Options, colorize_film

_FAILURES = (OSError, read.UnreadableFilmError, av.error.FFmpegError, MemoryError)


def plan(films: Sequence[Listed], folder: Path) -> tuple[list[Job], list[str]]:
    """Which film becomes which file below a folder, and sentences about those that cannot be read.

    `a.avi` becomes `a.mkv`. If another film has that name, it becomes `a.avi.mkv`, then
    `a.avi.2.mkv`, and so on.

    Raises:
        UserError: a result would replace a film.
    """
    jobs, failures = [], []
    sources = {os.path.realpath(listed.source) for listed in films}
    taken: set[str] = set()
    for source, place, _ in dict.fromkeys(films):
        try:
            suffix = mux.choose_suffix(read.probe(source))[0]
        except _FAILURES as error:
            failures.append(f'{shown(source)} failed: {_reason(error)}')
            continue
        for named in _candidates(place, suffix):
            target = folder / named
            owner = metadata.source_of(target)
            if str(named).casefold() not in taken and owner in (None, place.name):
                taken.add(str(named).casefold())
                break
        if os.path.realpath(target) in sources:
            raise UserError(f'{target} is a film to be read: choose another --output.')
        jobs.append(Job(source, target))
    return jobs, failures


def _candidates(place: Path, suffix: str) -> Iterator[Path]:
    """Names of a result, the preferred one first."""
    yield place if place.suffix.lower() == suffix else place.with_suffix(suffix)
    yield place.with_name(place.name + suffix)
    for number in count(2):
        yield place.with_name(f'{place.name}.{number}{suffix}')


def colorize_films(
    jobs: Sequence[Job],
    predict: Predict,
    size: int,
    network: str,
    options: Options,
    keep_date: bool,
    conditions: Conditions,
) -> Totals:
    """Colorizes films one after the other; reports progress and failures on standard error.

    Args:
        jobs: from `plan`.
        predict: the network.
        size: px, the side of the square that the network sees.
        network: its name, by which work of another one is not continued.
        options: of each film.
        keep_date: whether results have the date of their films.
        conditions: of the run. After a stop the film ends and can be continued.

    Raises:
        UserError: if nothing more can be written.
    """
    counts = dict.fromkeys(Totals._fields, 0)

    def collect(outcome: Outcome) -> None:
        counts[outcome.status] += 1
        conditions.on_outcome(outcome)

    def others(job: Job) -> None:
        outcome = of_existing(job)
        if outcome.status == 'failed':
            _say(job, f' failed: {outcome.reason}')
        collect(outcome)

    for job in claimed(jobs, conditions.claims, conditions.overwrite, others):
        if conditions.stopping():
            break
        if job is None:
            continue
        with conditions.claims.releasing(job.target):
            try:
                outcome = _outcome(job, predict, size, network, options, conditions)
                if outcome and outcome.status == 'colorized':
                    if keep_date:
                        stat = job.source.stat()
                        os.utime(job.target, ns=(stat.st_atime_ns, stat.st_mtime_ns))
                    if conditions.previews:
                        outcome = outcome._replace(preview=_preview(job))
            except _FAILURES as error:
                output.check_room(job.target, error)
                outcome = Outcome(job, 'failed', _reason(error))
                _say(job, f' failed: {outcome.reason}')
        if outcome is None:
            break
        collect(outcome)
    return Totals(**counts)


def _outcome(
    job: Job,
    predict: Predict,
    size: int,
    network: str,
    options: Options,
    conditions: Conditions,
) -> Outcome | None:
    """Colorizes a film; None if it was stopped."""
    film = read.probe(job.source)
    if film.width * film.height > conditions.max_pixels:
        raise read.UnreadableFilmError(
            f'its frames have {film.width} x {film.height} px: raise --max_megapixels to '
            f'{-(-film.width * film.height // 10**6)}'
        )
    _, copied, notes = mux.choose_suffix(film)
    notes = (*film.notes, *notes)
    in_color = _is_color(film)
    if in_color and conditions.skip_color:
        _say(job, ': left out, in colour already')
        return Outcome(job, 'in_color')
    _say(job, f': {film.frames} frames of {film.width} x {film.height} px')
    for note in notes:
        _say(job, f': {note}')
    rest = network, options, conditions.stopping
    lost = colorize_film(film, job.target, copied, predict, size, *rest)
    if lost is None:
        return None
    if lost:
        _say(job, f': {lost}')
        notes = (*notes, lost)
    return Outcome(job, 'colorized', '', notes, in_color)


def _say(job: Job, text: str) -> None:
    print(f'{shown(job.source)}{text}', file=sys.stderr, flush=True)


def _is_color(film: Film) -> bool:
    """Whether most frames of a film are in colour already."""
    found = [toning.is_color(pixels) for _, pixels in read.samples(film)]
    return sum(found) * 2 > len(found)


def _preview(job: Job) -> report.Preview | None:
    """Of the middle of a film; None if a film that ends early has no frame there."""
    before, after = (
        next((pixels for _, pixels in read.samples(read.probe(path), 1)), None)
        for path in (job.source, job.target)
    )
    return None if before is None or after is None else report.make_preview(before, after)


def _reason(error: BaseException) -> str:
    return getattr(error, 'strerror', None) or str(error) or 'not enough memory'
