"""Files of results: written as a whole or not at all, without leftovers of a killed run."""

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryFile

from chromagan_jax.errors import UserError

TEMPORARY = '.chromagan_jax-tmp'  # suffix of an unfinished file
_NO_MORE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def write(path: Path, content: Iterable[bytes], times: tuple[int, int] | None = None) -> None:
    """Replaces the file at `path` atomically, and makes its folder.

    Args:
        path: of the file.
        content: all of it, in parts.
        times: of the last access and change, ns; None: now.

    Raises:
        UserError: if no other file can be written there either.
        OSError: if this file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(path.parent) as (temporary, descriptor):
            with open(descriptor, 'wb', closefd=False) as file:
                file.writelines(content)
            if times:
                os.utime(descriptor, ns=times)
            os.fsync(descriptor)  # otherwise a power cut can leave the name with an empty file
            os.replace(temporary, path)
    except OSError as error:
        check_room(path, error)
        raise


def is_there(path: Path) -> bool:
    """Whether there is anything of that name but an empty file, as a power cut leaves it."""
    return os.path.exists(path) and not (os.path.isfile(path) and not os.path.getsize(path))


def check_room(path: Path, error: BaseException) -> None:
    """Raises UserError if an error of writing a file means that no other can be written either."""
    if isinstance(error, OSError) and error.errno in _NO_MORE:
        raise UserError(
            f'{path} cannot be written ({error.strerror}): make room there, or choose another '
            'place.'
        ) from error


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[tuple[Path, int]]:
    """A new file, locked while it is open, so that `remove_leftovers` knows that it is in use."""
    while True:
        path = folder / f'.{secrets.token_hex(8)}{TEMPORARY}'
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        locked = True
        with contextlib.suppress(OSError):  # a file system without locks
            locked = lock(descriptor)
        if locked and os.fstat(descriptor).st_nlink:
            break
        os.close(descriptor)  # another run removed it before it was locked
    try:
        yield path, descriptor
    finally:
        with contextlib.suppress(OSError):  # the first error counts
            path.unlink(missing_ok=True)
        os.close(descriptor)


def remove_leftovers(output: Path) -> None:
    """Removes unfinished files of killed runs below a folder; those of running ones stay."""
    for path in output.rglob(f'.*{TEMPORARY}'):
        with contextlib.suppress(OSError):  # another run removed it, or it belongs to another user
            descriptor = os.open(path, os.O_RDWR)
            try:
                if lock(descriptor):
                    path.unlink()
            finally:
                os.close(descriptor)


def lock(descriptor: int) -> bool:
    """Locks an open file; returns whether it was free. Raises OSError without locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def check_writable(output: Path, flag: str = '--output') -> None:
    """Makes the folder that `flag` names; raises UserError if nothing can be written there."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise UserError(
            f'{output} cannot be written ({error.strerror}): make room or permission there, or '
            f'choose another {flag}.'
        ) from error
