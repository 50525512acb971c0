"""The lock of a folder: one process writes there at a time.

The file `lock.json` names its holder. It needs exclusive creation of files, and neither locks nor
links of the file system. The lock is a lease: the holder renews the time of the file every
`RENEWAL` s. Another process

- is refused while the holder runs on the same machine, or renews the lease from another one;
- takes over at once if the holder has died on the same machine, or was an earlier start of the same
  SLURM job;
- takes over otherwise once it has seen no renewal for `LEASE` s. No clocks are compared.
"""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

from chromagan_jax.errors import UserError
from chromagan_jax.utils import cli, files

NAME = 'lock.json'
RENEWAL = 10.0  # s between renewals of a lease
LEASE = 60.0  # s without a renewal after which the lock of another machine is taken over
_POLL = 1.0  # s between looks at the lock of another machine
_SETTLE = 0.5  # s after which the last of several processes that take over holds the lock


class Holder(NamedTuple):
    """The process that holds a lock."""

    host: str = 'an unknown host'
    pid: int = 0
    machine: str = ''  # the running kernel and its namespace of processes
    started: str = ''  # when the process started, in the kernel's clock; '' if unknown
    job: str = ''  # SLURM's number of the job
    restart: str = ''  # SLURM's number of the start of this job

    def __str__(self) -> str:
        return f'process {self.pid} on {self.host}' if self.pid else 'another process'


@contextlib.contextmanager
def acquire(
    folder: Path,
    log: Callable[[str], None] = cli.print_error,
    end: Callable[[str], None] | None = None,
    name: Path | None = None,
) -> Iterator[None]:
    """Context that holds the lock of a folder, which is made if it does not exist.

    Args:
        folder: what to lock.
        log: prints a line if the lease of another machine has to run out first.
        end: called with a sentence, in another thread, if another process has taken the lock over.
            By default it ends this process with code 1.
        name: what the user calls the folder, for errors; by default its path.

    Raises:
        UserError: if another process holds the lock, or the lock cannot be written.
    """
    path, this = folder / NAME, this_process()
    with files.writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        _take(path, this, log, name or folder)
    released = threading.Event()
    renewal = threading.Thread(
        target=_renew, args=(path, this, released, end or _end), name='lock', daemon=True
    )
    renewal.start()
    try:
        yield
    finally:
        released.set()
        renewal.join(RENEWAL)  # a network file system may hang
        with contextlib.suppress(OSError):  # the next process finds that this one has ended
            if _read(path) == this:
                path.unlink()


def this_process() -> Holder:
    """The description of this process."""
    host = socket.gethostname()
    try:
        boot = Path('/proc/sys/kernel/random/boot_id').read_text().strip()
        machine = f'{host} {boot} {os.readlink("/proc/self/ns/pid")}'
    except OSError:  # not Linux
        machine = host
    started = _started(os.getpid()) or ''
    job, restart = os.environ.get('SLURM_JOB_ID', ''), os.environ.get('SLURM_RESTART_COUNT', '0')
    return Holder(host, os.getpid(), machine, started, job, restart)


def has_ended(holder: Holder) -> bool:
    """Whether a process of this machine has ended; False if that is unknown."""
    return _started(holder.pid) not in ('', holder.started)


def _take(path: Path, this: Holder, log: Callable[[str], None], name: Path) -> None:
    seen, since = '', 0.0  # the last renewal, and when it was seen
    while not _create(path, this):
        holder = _read(path)
        if holder is None:  # released meanwhile
            continue
        if holder.machine == this.machine:
            gone = has_ended(holder)
        elif holder.job and holder.job == this.job and holder.restart != this.restart:
            gone = True
        else:
            if not (stamp := _stamp(path)):
                continue
            if not seen:
                log(
                    f'{path} is that of {holder}: it is taken over if it is not renewed within '
                    f'{LEASE:g} s'
                )
                seen, since = stamp, time.monotonic()
            if stamp != seen:
                raise _refusal(name, holder)
            gone = time.monotonic() - since >= LEASE
            if not gone:
                time.sleep(_POLL)
                continue
        if not gone:
            raise _refusal(name, holder)
        if _take_over(path, holder, this):
            return


def _refusal(name: Path, holder: Holder) -> UserError:
    return UserError(
        f'{name} is in use by {holder}: wait for it, stop it, or choose another folder.'
    )


def _create(path: Path, this: Holder) -> bool:
    """Writes a lock; returns False if there is one."""
    try:
        file = path.open('x')
    except FileExistsError:
        return False
    try:
        with file:
            json.dump(this._asdict(), file)
    except OSError:
        path.unlink()  # a full disk must not leave a lock without a holder
        raise
    return True


def _take_over(path: Path, holder: Holder, this: Holder) -> bool:
    """Replaces the lock of `holder`; returns whether this process holds it then."""
    temporary = path.with_name(f'.{NAME}.{secrets.token_hex(4)}')
    try:
        temporary.write_text(json.dumps(this._asdict()))
        if _read(path) != holder:
            return False
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    time.sleep(_SETTLE)
    return _read(path) == this


def _read(path: Path) -> Holder | None:
    """The holder of a lock; None if there is no lock, `Holder()` if the file is not complete."""
    try:
        return Holder(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        return Holder()


def _stamp(path: Path) -> str:
    """Changes with each renewal; '' if there is no lock."""
    try:
        with path.open() as file:  # network file systems look at the file when it is opened
            status = os.fstat(file.fileno())
            return f'{status.st_mtime_ns} {file.read()}'
    except FileNotFoundError:
        return ''


def _started(pid: int) -> str | None:
    """When a process of this machine started; '' if that is unknown, None if it does not run."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:  # it runs, for another user
        pass
    try:
        state, *fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    except OSError:
        return ''
    return None if state in 'ZX' else fields[18]


def _renew(path: Path, this: Holder, released: threading.Event, end: Callable[[str], None]) -> None:
    while not released.wait(RENEWAL):
        try:
            holder = _read(path)
            if holder == this:
                os.utime(path)
        except OSError:  # a network file system that is away may come back
            continue
        if holder != this:
            other = holder or 'somebody who removed its lock'
            end(
                f'{path.parent} was taken over by {other}: this process ends without saving, so '
                'that only one writes there.'
            )
            return


def _end(sentence: str) -> NoReturn:
    cli.end_now(1, sentence)
