"""Runs into one folder share the photographs: each result is made by one of them.

A run claims a result before it reads the photograph. A claim is an empty, locked file in the output
folder; the lock ends with the run, even if it is killed. On a file system without locks all claims
succeed, and runs do the same work twice.
"""

import contextlib
import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from chromagan_jax.inference import output

_POLL = 0.2  # s between looks at the results that other runs are making


class _Job(Protocol):
    @property
    def target(self) -> Path: ...


JobT = TypeVar('JobT', bound=_Job)


class Claims:
    """The results that this run is making."""

    def __init__(self, folder: Path | None = None):
        """`folder` is that of the results; None: there are no other runs."""
        self._folder = folder
        self._claimed: dict[Path, tuple[Path, int]] = {}

    def take(self, target: Path) -> bool:
        """Claims a result; returns False if another run has claimed it."""
        if self._folder is None:
            return True
        name = hashlib.blake2b(os.fsencode(target.absolute()), digest_size=8).hexdigest()
        path = self._folder / f'.{name}{output.TEMPORARY}'
        with contextlib.suppress(OSError):  # no locks; or no room, and then the write fails too
            return self._lock(target, path)
        return True

    def _lock(self, target: Path, path: Path) -> bool:
        while True:
            descriptor = os.open(path, os.O_CREAT | os.O_WRONLY, 0o666)
            try:
                if not output.lock(descriptor):
                    os.close(descriptor)
                    return False
            except OSError:
                path.unlink()
                os.close(descriptor)
                raise
            if os.fstat(descriptor).st_nlink:
                self._claimed[target] = path, descriptor
                return True
            os.close(descriptor)  # another run removed it before it was locked

    def release(self, target: Path) -> None:
        """Ends a claim, after the result is written or has failed."""
        if target in self._claimed:
            path, descriptor = self._claimed.pop(target)
            with contextlib.suppress(OSError):  # its lock counts, not its name
                path.unlink()
            os.close(descriptor)

    @contextlib.contextmanager
    def releasing(self, target: Path) -> Iterator[None]:
        """Ends a claim at the end of the block."""
        try:
            yield
        finally:
            self.release(target)

    def close(self) -> None:
        """Ends all claims."""
        for target in list(self._claimed):
            self.release(target)


def claimed(
    jobs: Iterable[JobT], claims: Claims, overwrite: bool, on_done: Callable[[JobT], None]
) -> Iterator[JobT | None]:
    """The jobs that this run has claimed, those that other runs had claimed first at the end.

    None stands for a wait for other runs.

    Args:
        jobs: what is to do.
        claims: of this run.
        overwrite: whether a result is made that exists, unless another run is making it.
        on_done: called with each job that another run has done.
    """
    waiting = deque(jobs)
    elsewhere: set[Path] = set()
    refused = 0  # in a row
    while waiting:
        job = waiting.popleft()
        if not claims.take(job.target):
            elsewhere.add(job.target)
            waiting.append(job)
            refused += 1
            if refused == len(waiting):
                yield None
                time.sleep(_POLL)
                refused = 0
            continue
        refused = 0
        if output.is_there(job.target) and (job.target in elsewhere or not overwrite):
            claims.release(job.target)
            on_done(job)
        else:
            yield job
