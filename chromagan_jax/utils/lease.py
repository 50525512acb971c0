"""A lease on a workdir in a bucket, so that two runs never write into the same one.

A bucket has no locks. The run that holds a workdir writes lease.json into it and renews it every
`RENEW` seconds from a thread. A second run that sees it change gives up. A lease that has not
changed for `STALE` seconds is taken over: its run was killed, or its machine is gone. Only changes
are looked at, so the clocks of the machines need not agree.
"""

import json
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chromagan_jax.errors import UserError, is_outage
from chromagan_jax.utils import files, lock, paths

NAME = 'lease.json'
RENEW = 10.0  # s between renewals
STALE = 120.0  # s without a renewal until a lease is taken over
_POLL = 1.0  # s between looks at a lease that may be stale
_SETTLE = 2.0  # s until two runs that start at once see which of them wrote last


class Lease:
    """A lease that this process holds, from `acquire` to `release`."""

    def __init__(self, path: Path):
        self._path, self._token = path, secrets.token_hex(8)
        self._renewals = 0
        self._lost = ''  # the sentence for `check`
        self._ended = threading.Event()

    def write(self) -> None:
        """Writes lease.json; each time with another content."""
        self._renewals += 1
        held = {'token': self._token, 'renewals': self._renewals}
        files.write_json(self._path, lock.this_process()._asdict() | held)

    def renew(self) -> None:
        """Writes the lease again, unless another run has taken it; `check` then raises."""
        held = _read(self._path)
        if held and held['token'] != self._token:
            self._lost = (
                f'{_holder(held)} has taken over {self._path.parent}, because this run did not '
                f'renew its lease for {STALE:g} s: choose another --workdir, or end that run.'
            )
        else:
            self.write()

    def keep(self) -> None:
        """Renews the lease every `RENEW` seconds until `release`, in a thread."""

        def run() -> None:
            while not self._lost and not self._ended.wait(RENEW):
                try:
                    self.renew()
                except Exception as error:
                    if not is_outage(error):  # else the next renewal may succeed
                        self._lost = str(error)

        self._thread = threading.Thread(target=run, name='lease', daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises UserError if another run has taken the lease, or it cannot be renewed."""
        if self._lost:
            raise UserError(self._lost)

    def release(self) -> None:
        """Ends the renewals and removes lease.json."""
        self._ended.set()
        self._thread.join()
        held = _read(self._path)
        if held and held['token'] == self._token:
            self._path.unlink()


def acquire(workdir: Path, log: Callable[[str], None]) -> Lease:
    """Takes the lease of a workdir in a bucket, and keeps it in a thread.

    It waits up to `STALE` seconds for a lease that is left from a run on another machine.

    Args:
        workdir: in a bucket.
        log: prints a line if it has to wait.

    Raises:
        UserError: if another run uses the workdir, or the bucket cannot be written.
    """
    path = workdir / NAME
    held = _read(path)
    if held and not _is_dead(held):
        _wait_until_stale(path, held, log)
    lease = Lease(path)
    lease.write()
    time.sleep(_SETTLE)
    held = _read(path)
    if held and held['token'] != lease._token:
        raise _in_use(workdir, held)
    lease.keep()
    return lease


def _wait_until_stale(path: Path, held: dict[str, Any], log: Callable[[str], None]) -> None:
    """Returns once the lease is stale or released; raises UserError if it is renewed."""
    end = time.monotonic() + STALE
    log(f'waits up to {STALE:.0f} s: {_holder(held)} may still use {path.parent}')
    while time.monotonic() < end:
        time.sleep(_POLL)
        now = _read(path)
        if now is None:
            return
        if now['token'] != held['token'] or now['renewals'] != held['renewals']:
            raise _in_use(path.parent, now)


def _in_use(workdir: Path, held: dict[str, Any]) -> UserError:
    return UserError(
        f'{workdir} is in use by {_holder(held)}: end that run, or choose another --workdir.'
    )


def _holder(held: dict[str, Any]) -> str:
    return f'process {held["pid"]} on {held["host"]}'


def _read(path: Path) -> dict[str, Any] | None:
    content = paths.read(path)
    return json.loads(content) if content else None


def _is_dead(held: dict[str, Any]) -> bool:
    """Whether the process of a lease ran on this machine and has ended."""
    holder = lock.Holder(**{field: held[field] for field in lock.Holder._fields})
    return holder.machine == lock.this_process().machine and lock.has_ended(holder)
