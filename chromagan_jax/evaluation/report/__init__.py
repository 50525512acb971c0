"""The report of a run: report.html in its workdir, one page that needs no other file.

The page shows what the other files of the workdir hold, so that any process can write it anew.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from chromagan_jax.evaluation.report import comparison, runs, sections
from chromagan_jax.evaluation.report.runs import DETAILS
from chromagan_jax.utils import files

__all__ = ['DETAILS', 'NAME', 'try_to_write', 'write', 'write_runs']

NAME = 'report.html'


def write(workdir: Path, part: str = 'tmp') -> None:
    """Writes report.html in a workdir, atomically.

    Args:
        workdir: of a run.
        part: of the name of the temporary file. A training and an evaluation job, which may write
            at the same time, use different ones.

    Raises:
        UserError: if a file of the run is damaged, or the page cannot be written.
    """
    content = sections.page_of_run(runs.read(workdir))
    files.write_atomically(workdir / NAME, content, part)


def try_to_write(
    workdir: Path,
    log: Callable[[str], None],
    complete: Callable[[], None] = lambda: None,
    part: str = 'tmp',
) -> None:
    """`write`, but an error is only logged: the job goes on, and writes the page anew next time.

    Args:
        workdir: of a run.
        log: gets one line for an error.
        complete: called first; writes what the files of the run lack in a bucket.
        part: as in `write`.
    """
    try:
        complete()
        write(workdir, part)
    except Exception as error:  # a full disk, a bucket that does not answer, a defect of the page
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip('.')
        log(f'{NAME} is not written, and the run goes on ({type(error).__name__}: {reason})')


def write_runs(output: Path, workdirs: Mapping[str, Path]) -> None:
    """Writes the page of one run, or one that compares several runs.

    Args:
        output: the page.
        workdirs: of the runs, by the name that the page shows.

    Raises:
        UserError: if a workdir is not that of a run, or the page cannot be written.
    """
    found = [runs.read(workdir)._replace(name=name) for name, workdir in workdirs.items()]
    several = len(found) > 1
    content = comparison.page_of_runs(found) if several else sections.page_of_run(found[0])
    files.write_atomically(output, content)
