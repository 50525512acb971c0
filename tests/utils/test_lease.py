"""A lease keeps a second run out, and outlives neither its process nor its machine for long."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from chromagan_jax.errors import UserError
from chromagan_jax.utils import lease


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, 'RENEW', 0.05)
    monkeypatch.setattr(lease, '_SETTLE', 0.0)
    monkeypatch.setattr(lease, '_POLL', 0.01)


def elsewhere(workdir: Path) -> dict[str, object]:
    """Makes the lease one of another machine; what it holds."""
    path = workdir / lease.NAME
    held = json.loads(path.read_text()) | {'host': 'far', 'pid': 7, 'machine': 'other'}
    path.write_text(json.dumps(held))
    return held


def test_a_second_run_is_refused_with_the_host_and_process_of_the_first(tmp_path: Path) -> None:
    first = lease.acquire(tmp_path, print)
    with pytest.raises(UserError, match=f'is in use by process {os.getpid()} on ') as refused:
        lease.acquire(tmp_path, print)
    assert os.uname().nodename in str(refused.value)
    first.check()
    first.release()
    assert not (tmp_path / lease.NAME).exists()
    lease.acquire(tmp_path, print).release()


def test_the_lease_of_a_dead_process_is_taken_over_at_once(tmp_path: Path) -> None:
    program = 'import sys, os, pathlib; from chromagan_jax.utils import lease\n'
    program += 'lease.Lease(pathlib.Path(sys.argv[1]) / lease.NAME).write(); os._exit(9)'
    subprocess.run([sys.executable, '-c', program, tmp_path], cwd=Path(__file__).parents[2])
    said: list[str] = []
    lease.acquire(tmp_path, said.append).release()
    assert said == []


def test_a_lease_of_another_machine_is_taken_over_once_it_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease.Lease(tmp_path / lease.NAME).write()
    elsewhere(tmp_path)
    monkeypatch.setattr(lease, 'STALE', 0.3)
    said: list[str] = []
    held = lease.acquire(tmp_path, said.append)
    assert 'process 7 on far may still use' in said[0]
    held.check()
    held.release()


def test_a_lease_that_is_renewed_is_not_taken_over_whatever_the_clocks_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, path = lease.Lease(tmp_path / lease.NAME), tmp_path / lease.NAME

    def renew(_seconds: float = 0) -> None:
        first.write()
        path.write_text(json.dumps(elsewhere(tmp_path) | {'time': 0.0}))  # as older versions wrote
        os.utime(path, (0, 0))

    renew()
    monkeypatch.setattr(lease.time, 'sleep', renew)
    with pytest.raises(UserError, match='is in use by process 7 on far'):
        lease.acquire(tmp_path, print)


def test_a_run_whose_lease_was_taken_over_stops_writing(tmp_path: Path) -> None:
    held = lease.acquire(tmp_path, print)
    held._ended.set()  # the thread would race with the next lines
    held._thread.join()
    (tmp_path / lease.NAME).write_text(json.dumps(elsewhere(tmp_path) | {'token': 'theirs'}))
    held.renew()
    with pytest.raises(UserError, match='process 7 on far has taken over'):
        held.check()
    held.release()
    assert (tmp_path / lease.NAME).exists()  # it is theirs


def test_of_two_runs_that_start_at_once_the_last_writer_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = lease.Lease(tmp_path / lease.NAME)
    monkeypatch.setattr(lease.time, 'sleep', lambda seconds: other.write())
    with pytest.raises(UserError, match='is in use by process'):
        lease.acquire(tmp_path, print)
