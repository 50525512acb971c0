"""The photographs of one visitor of the page, without anything of the page itself.

A session is a folder, with a folder for each photograph and one for the last download.
"""

import secrets
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
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
from chromagan_jax.errors import UserError
from chromagan_jax.inference import files, naming

MAX_PHOTOGRAPHS = 200  # of a session
KINDS = ('png', 'jpg', 'tif', 'webp', 'same')  # of results


class Session(NamedTuple):
    """The photographs of a visitor, and which of them is shown."""

    folder: Path
    photographs: tuple[Photograph, ...] = ()
    index: int = 0

    @property
    def shown(self) -> Photograph | None:
        return self.photographs[self.index] if self.photographs else None

    def with_shown(self, photograph: Photograph) -> 'Session':
        """This session with another version of the photograph that is shown."""
        before, after = self.photographs[: self.index], self.photographs[self.index + 1 :]
        return self._replace(photographs=(*before, photograph, *after))


Work = Callable[..., Any]  # calls a function with arguments, as the one worker allows


class Progress(NamedTuple):
    """Where `add_all` is."""

    session: Session
    done: int
    problems: tuple[str, ...]  # sentences


def add_all(
    session: Session, uploads: Sequence[Path], network: Network, post: PostProcess, work: Work
) -> Iterator[Progress]:
    """Adds uploads one after the other, and shows the first of them; files that fail are named."""
    problems: tuple[str, ...] = ()
    first = len(session.photographs)
    for done, upload in enumerate(uploads, 1):
        try:
            if len(session.photographs) >= MAX_PHOTOGRAPHS:
                raise UserError(
                    f'a page takes {MAX_PHOTOGRAPHS} photographs: download them, then reload it.'
                )
            photograph = work(add, upload, session.folder, network, post)
            session = session._replace(photographs=(*session.photographs, photograph), index=first)
        except FAILURES as error:
            problems += (f'{plain_name(upload.name)}: {reason(error)}',)
        yield Progress(session, done, problems)


class Saved(NamedTuple):
    """A file to download."""

    path: Path
    problems: tuple[str, ...] = ()  # sentences about photographs that it lacks


def save(
    session: Session, kind: str, network: Network, post: PostProcess, keep: bool, work: Work
) -> Saved:
    """Writes the result of the photograph that is shown; arguments as of `write`.

    Raises:
        UnreadableImage, UserError, OSError: as `write`.
    """
    target = _targets(session, kind)[session.index]
    work(write, session.photographs[session.index], target, network, post, keep)
    return Saved(target)


def save_all(
    session: Session, kind: str, network: Network, post: PostProcess, keep: bool, work: Work
) -> Saved:
    """Writes a zip of all results; those that fail are named.

    Raises:
        OSError: the zip cannot be written.
    """
    targets, problems = _targets(session, kind), []
    path = targets[0].parent / 'colorized.zip'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_STORED) as archive:  # they are compressed already
        for photograph, target in zip(session.photographs, targets, strict=True):
            try:
                work(write, photograph, target, network, post, keep)
            except FAILURES as error:
                problems.append(f'{photograph.source.name}: {reason(error)}')
                continue
            archive.write(target, target.name)
            target.unlink()
    return Saved(path, tuple(problems))


def _targets(session: Session, kind: str) -> list[Path]:
    """Where the results go: a new folder in place of the last one, names as the command's."""
    if kind not in KINDS:
        raise UserError(f'There is no file format {kind!r}.')
    for old in session.folder.glob('results.*'):
        shutil.rmtree(old, ignore_errors=True)
    folder = session.folder / f'results.{secrets.token_hex(8)}'
    folder.mkdir()
    listed = [files.Listed(p.source, Path(p.source.name)) for p in session.photographs]
    return [job.target for job in naming.plan(listed, folder, kind)]


def remove(folder: Path) -> None:
    """Removes the folder of a session."""
    shutil.rmtree(folder, ignore_errors=True)
