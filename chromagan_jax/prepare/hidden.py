"""The hidden folder in which a data set is made, and the move of the finished one to its place."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from chromagan_jax.errors import UserError
from chromagan_jax.utils import lock

NAME = '.incomplete'
FINISHED = 'finished'  # folder below the hidden one, which stays if it cannot be moved
MARK = 'prepare.json'  # in a data set: the settings and the images that it was made from


def locate(folder: Path) -> Path:
    """The absolute path of a folder; for a link to a missing folder, the path of that one.

    Other links stay: another machine may know the folder only by them.
    """
    folder = folder.absolute()
    if folder.is_symlink() and not folder.is_dir():
        return Path(os.path.realpath(folder))
    return folder


def is_free(folder: Path) -> bool:
    """Whether a folder is missing, or empty except for the hidden folder of a run."""
    if not folder.exists():
        return True
    return folder.is_dir() and all(path.name == NAME for path in folder.iterdir())


@contextlib.contextmanager
def hidden_folder(output: Path) -> Iterator[Path]:
    """A folder for the work on `output`, emptied on entry and removed on exit.

    It is beside `output`, but in an `output` that exists already: that may be the current folder, a
    link or a mount point, to which no other folder can be renamed. `FINISHED` below it stays.

    Raises:
        UserError: if another run uses the folder, or it cannot be created.
    """
    hidden = output / NAME if output.is_dir() else output.with_name(f'.{output.name}{NAME}')
    try:
        with lock.acquire(hidden, name=output):
            _empty(hidden)
            try:
                yield hidden
            finally:
                _empty(hidden)
    finally:
        with contextlib.suppress(OSError):  # a late worker has written: the next run empties it
            hidden.rmdir()


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name in (lock.NAME, FINISHED):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)  # ending workers may still write
        else:
            path.unlink()


def place(finished: Path, output: Path) -> None:
    """Moves a finished data set to `output`, which is missing or empty.

    Raises:
        UserError: if that fails; nothing is deleted.
    """
    try:
        if not output.is_dir():
            finished.replace(output)
        elif is_free(output):
            # After an interruption a data set without its mark is not taken for a complete one.
            for path in sorted(finished.iterdir(), key=lambda path: path.name == MARK):
                path.replace(output / path.name)
            finished.rmdir()
        else:
            raise FileExistsError('it is no longer empty')
    except OSError as error:
        raise UserError(
            f'{output} cannot be written ({error.strerror or error}): correct that and start the '
            f'same command again, which moves the finished data set there from {finished}.'
        ) from error
