"""What a call of `colorize` asks for: hints, sizes, limits."""

from collections.abc import Sequence
from pathlib import Path

from chromagan_jax.data.decode import UnreadableImage
from chromagan_jax.errors import UserError
from chromagan_jax.inference import files, headers, metadata, output
from chromagan_jax.inference.hints import Hint, read
from chromagan_jax.inference.outcomes import Job, Outcome
from chromagan_jax.inference.video.suffixes import is_film

_LARGEST = 4096  # px, of --size: a network needs some GB there


def with_hints(jobs: Sequence[Job], path: Path) -> list[Job]:
    """The jobs with the hints of a file; raises UserError if the file does not fit them."""
    hints = read(path)
    sources = {job.source for job in jobs}
    if '' in hints and len(sources) > 1:
        raise UserError(
            f'--hints={path} is a list, for one photograph: for several, write an object with a '
            'list under each file name.'
        )
    names = {name for source in sources for name in (source.name, str(source))}
    if unknown := sorted(hints.keys() - names - {''}):
        raise UserError(
            f'--hints={path} names {unknown[0]}, which is not among the photographs: correct the '
            'name.'
        )

    def hints_of(source: Path) -> tuple[Hint, ...]:
        return hints.get('') or hints.get(str(source)) or hints.get(source.name) or ()

    return [job._replace(hints=hints_of(job.source)) for job in jobs]


def conflict(job: Job, overwrite: bool = False) -> str:
    """Why a file of the result's name fails the job; '' without one, and if it is the result.

    A file without the note of results is foreign. It is not replaced either.

    Args:
        job: a photograph or a film.
        overwrite: whether any result may be replaced, also that of another photograph.
    """
    if not output.is_there(job.target):
        return ''
    flags = '--output' if is_film(job.source) else '--output or --format'
    try:
        marked = files.is_marked(job.target)
    except OSError as error:
        return f'{job.target} cannot be read ({error.strerror}): choose another {flags}'
    if not marked:
        return (
            f'{job.target} is there and is not a result of this program, so it stays: move it '
            f'away, or choose another {flags}'
        )
    try:
        if overwrite or not metadata.is_of_another(job.target, job.source):
            return ''
    except OSError as error:  # the photograph cannot be read
        return f'{error.strerror}'
    return (
        f'{job.target} was made of another file with this name, or of this one before it was '
        'changed: choose another --output, or replace it with --overwrite'
    )


def of_existing(job: Job) -> Outcome:
    """The outcome of a job whose result another run has made meanwhile."""
    reason = conflict(job)
    return Outcome(job, 'failed', reason) if reason else Outcome(job, 'skipped')


def too_large(job: Job) -> str:
    """Why a photograph is too large for the kind of its result; '' if it is not."""
    if is_film(job.source) or not headers.is_limited(job.target.suffix):
        return ''
    try:
        headers.check_side(max(headers.size(job.source) or (0,)), job.target.suffix)
    except UnreadableImage as error:
        return str(error)
    return ''


def parse_sizes(text: str) -> tuple[int, ...]:
    """The numbers of --size, px, without repeats; raises UserError for another text."""
    parts = [part.strip() for part in text.split(',')]
    if not all(part.isdecimal() and int(part) >= 1 for part in parts):
        raise UserError(f'--size must be px, as 256 or 192,256, not {text!r}.')
    if max(map(int, parts)) > _LARGEST:
        raise UserError(f'--size must be at most {_LARGEST} px, not {text!r}.')
    return tuple(dict.fromkeys(map(int, parts)))
