"""The photographs of one visitor of the page, without anything of the page itself.

A session is a folder, with a folder for each photograph and for each of the last two downloads.
"""

import contextlib
import secrets
import shutil
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from chromagan_jax.app.photograph import (
    FAILURES,
    Network,
    Photograph,
    add,
    plain_name,
    reason,
    write,
)
from chromagan_jax.config.postprocess import PostProcess
from chromagan_jax.data.decode import UnreadableImage
from chromagan_jax.errors import UserError
from chromagan_jax.inference import files, naming
from chromagan_jax.inference.encode import Encoding

MAX_PHOTOGRAPHS = 200  # of a session
_MAX_IDLE = 6 * 3600.0  # s
KINDS = ('png', 'jpg', 'tif', 'webp', 'same')  # of results


@dataclass
class Session:
    """The photographs of a visitor, and which of them is shown."""

    folder: Path
    photographs: list[Photograph] = field(default_factory=list)
    index: int = 0
    used: float = field(default_factory=time.monotonic)  # s, when last
    lock: threading.RLock = field(default_factory=threading.RLock)  # one request at a time

    @property
    def shown(self) -> Photograph | None:
        """The photograph that is shown; None before the first one is added."""
        return self.photographs[self.index] if self.photographs else None

    def replace(self, old: Photograph, new: Photograph) -> None:
        """Puts another version of a photograph in its place."""
        self.photographs[self.photographs.index(old)] = new


Work = Callable[..., Any]  # calls a function with arguments, as the one worker allows


def add_all(
    session: Session, uploads: Sequence[Path], network: Network, post: PostProcess, work: Work
) -> Iterator[tuple[str, ...]]:
    """Adds uploads one after the other, and shows the first of them.

    Yields:
        After each upload, sentences about those that failed.
    """
    problems: tuple[str, ...] = ()
    first = len(session.photographs)
    for upload in uploads:
        try:
            if len(session.photographs) >= MAX_PHOTOGRAPHS:
                raise UserError(
                    f'a page takes {MAX_PHOTOGRAPHS} photographs: download them, then reload it.'
                )
            session.photographs.append(work(add, upload, session.folder, network, post))
            session.index = first
        except FAILURES as error:
            if isinstance(error, UnreadableImage):
                upload.unlink(missing_ok=True)
            problems += (f'{plain_name(upload.name)}: {reason(error)}',)
        yield problems


class Saved(NamedTuple):
    """A file to download."""

    path: Path
    problems: tuple[str, ...] = ()  # sentences about photographs that it lacks


def save(
    session: Session, kind: str, network: Network, post: PostProcess, encoding: Encoding, work: Work
) -> Saved:
    """Writes the result of the photograph that is shown; arguments as of `write`.

    Raises:
        UnreadableImage, UserError, OSError: as `write`.
    """
    target = _targets(session, kind)[session.index]
    work(write, session.photographs[session.index], target, network, post, encoding)
    return Saved(target)


def save_all(
    session: Session, kind: str, network: Network, post: PostProcess, encoding: Encoding, work: Work
) -> Saved:
    """Writes a zip of all results; those that fail are named.

    Raises:
        OSError: the zip cannot be written.
    """
    photographs, problems = tuple(session.photographs), []
    targets = _targets(session, kind)
    path = targets[0].parent / 'colorized.zip'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_STORED) as archive:  # they are compressed already
        for photograph, target in zip(photographs, targets, strict=True):
            try:
                work(write, photograph, target, network, post, encoding)
            except FAILURES as error:
                problems.append(f'{photograph.source.name}: {reason(error)}')
                continue
            archive.write(target, target.name)
            target.unlink()
    return Saved(path, tuple(problems))


def _targets(session: Session, kind: str) -> list[Path]:
    """Where the results go: a new folder, names as the command's.

    The folder of the download before stays, since the browser may still read from it.
    """
    if kind not in KINDS:
        raise UserError(f'There is no file format {kind!r}.')
    folders = sorted(session.folder.glob('results.*'), key=lambda path: path.stat().st_mtime_ns)
    for old in folders[:-1]:
        shutil.rmtree(old, ignore_errors=True)
    folder = session.folder / f'results.{secrets.token_hex(8)}'
    folder.mkdir()
    listed = [files.Listed(p.source, Path(p.source.name)) for p in session.photographs]
    return [job.target for job in naming.plan(listed, folder, kind)]


def remove(folder: Path, uploads: Path) -> None:
    """Removes the folder of a session, and the uploads that it took.

    Args:
        folder: of the session.
        uploads: folder with a folder of each upload. A file that another session has uploaded
            again meanwhile is another one, and stays.
    """
    # The folder goes last: as long as it holds its files, their inode numbers are not given to
    # uploads of other sessions.
    taken = {path.stat().st_ino for path in folder.glob('*/*')}
    for path in uploads.glob('*/*'):
        with contextlib.suppress(FileNotFoundError):  # Gradio removes old ones
            if path.is_file() and path.stat().st_ino in taken:
                path.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def remove_idle(sessions: dict[str, Session], uploads: Path) -> None:
    """Removes sessions that were not used for hours, such as those whose connection was lost."""
    for name, one in list(sessions.items()):
        if time.monotonic() - one.used > _MAX_IDLE:
            sessions.pop(name, None)
            remove(one.folder, uploads)
