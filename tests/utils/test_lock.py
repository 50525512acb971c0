"""The lock of a folder: processes here, and those of other machines as their files look."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from chromagan_jax.errors import UserError
from chromagan_jax.utils import lock

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, pathlib
from chromagan_jax.utils import lock
with lock.acquire(pathlib.Path(sys.argv[1])):
    print('held', flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def hold(tmp_path):
    """Starts a process that holds the lock of the folder until its standard input ends."""
    processes = []

    def start():
        process = subprocess.Popen(
            [sys.executable, '-c', HOLD, str(tmp_path / 'run')],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout.readline() == 'held\n'
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def elsewhere(tmp_path):
    """Writes the lock of a process on another machine."""

    def write(**fields):
        (tmp_path / 'run').mkdir(exist_ok=True)
        holder = lock.Holder('far', 7, 'far boot pid:[1]', '1')._replace(**fields)
        (tmp_path / 'run' / lock.NAME).write_text(json.dumps(holder._asdict()))
        return holder

    return write


@pytest.fixture
def short(monkeypatch):
    """Leases that are renewed while a test waits."""
    monkeypatch.setattr(lock, 'RENEWAL', 0.05)


class Clock:
    """A clock that goes on while somebody sleeps, and only then."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    """The clock of the lock."""
    clock = Clock()
    monkeypatch.setattr(lock, 'time', clock)
    return clock


def holder_of(folder):
    return lock._read(folder / lock.NAME)


def test_the_lock_names_this_process_and_is_gone_afterwards(tmp_path):
    with lock.acquire(tmp_path / 'run'):
        assert holder_of(tmp_path / 'run') == lock.this_process()
        assert holder_of(tmp_path / 'run').pid == os.getpid()
    assert list((tmp_path / 'run').iterdir()) == []
    with lock.acquire(tmp_path / 'run'):
        pass


def test_a_running_process_keeps_others_out_and_is_named(hold, tmp_path):
    process = hold()
    sentence = f'run is in use by process {process.pid} on {lock.this_process().host}: '
    with pytest.raises(UserError, match=sentence), lock.acquire(tmp_path / 'run'):
        pass
    process.communicate('')
    with lock.acquire(tmp_path / 'run'):
        pass


@pytest.mark.parametrize('reaped', [True, False])
def test_the_lock_of_a_killed_process_is_taken_over_at_once(reaped, hold, tmp_path, capsys):
    process = hold()
    process.kill()
    if reaped:
        process.wait()
    else:  # its parent has not looked yet
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    with lock.acquire(tmp_path / 'run'):
        assert holder_of(tmp_path / 'run').pid == os.getpid()
    assert capsys.readouterr().err == ''


def test_a_process_that_has_the_number_of_a_dead_one_is_not_its_holder(tmp_path, elsewhere):
    elsewhere(**lock.this_process()._replace(started='1')._asdict())
    with lock.acquire(tmp_path / 'run'):
        assert holder_of(tmp_path / 'run') == lock.this_process()


def test_a_lock_of_another_machine_is_taken_over_when_nobody_renews_it(clock, elsewhere, tmp_path):
    elsewhere()
    said = []
    with lock.acquire(tmp_path / 'run', said.append):
        assert lock.LEASE <= clock.now <= lock.LEASE + lock._POLL + lock._SETTLE
        assert holder_of(tmp_path / 'run') == lock.this_process()
    (sentence,) = said
    assert 'lock.json is that of process 7 on far: it is taken over' in sentence
    assert list((tmp_path / 'run').iterdir()) == []


def test_a_lock_of_another_machine_that_is_renewed_keeps_others_out(clock, elsewhere, tmp_path):
    elsewhere()
    path = tmp_path / 'run' / lock.NAME
    with (
        pytest.raises(UserError, match='in use by process 7 on far'),
        lock.acquire(tmp_path / 'run', lambda sentence: os.utime(path, (1, 1))),
    ):
        pass
    assert clock.now < lock.LEASE


def test_a_requeued_job_of_slurm_does_not_wait_for_its_earlier_start(
    elsewhere, tmp_path, monkeypatch
):
    elsewhere(job='12', restart='0')
    monkeypatch.setenv('SLURM_JOB_ID', '12')
    monkeypatch.setenv('SLURM_RESTART_COUNT', '1')
    with lock.acquire(tmp_path / 'run'):
        assert holder_of(tmp_path / 'run').restart == '1'


def test_a_lock_that_is_not_complete_is_one_of_an_unknown_process(clock, tmp_path):
    (tmp_path / lock.NAME).write_text('{"host"')
    said = []
    with lock.acquire(tmp_path, said.append):
        assert holder_of(tmp_path) == lock.this_process()
    assert 'is that of another process' in said[0]


@pytest.mark.parametrize('removed', [True, False])
def test_a_process_that_has_lost_its_lock_ends(removed, short, elsewhere, tmp_path):
    ended, sentences = threading.Event(), []

    def end(sentence):
        sentences.append(sentence)
        ended.set()

    with lock.acquire(tmp_path / 'run', end=end):
        if removed:
            (tmp_path / 'run' / lock.NAME).unlink()
        else:
            other = elsewhere()
        assert ended.wait(60)
    who = 'somebody who removed its lock' if removed else 'process 7 on far'
    assert f'run was taken over by {who}: ' in sentences[0]
    if not removed:  # and leaves the lock of the other one alone
        assert holder_of(tmp_path / 'run') == other


def test_a_holder_renews_its_lock(short, tmp_path):
    path = tmp_path / lock.NAME
    with lock.acquire(tmp_path):
        first, deadline = path.stat().st_mtime_ns, time.monotonic() + 60
        while path.stat().st_mtime_ns == first:
            assert time.monotonic() < deadline


def test_of_many_processes_that_take_over_one_holds_the_lock(
    clock, elsewhere, tmp_path, monkeypatch
):
    """In the worst order: all find that the lease has run out, then all replace the lock."""
    elsewhere()
    held, refused, replace = [], [], Path.replace
    seen, ready, replaced = (threading.Barrier(6, timeout=60) for _ in range(3))

    def replace_together(path, target):
        ready.wait()
        return replace(path, target)

    def sleep(seconds):
        Clock.sleep(clock, seconds)
        if seconds == lock._SETTLE:
            replaced.wait()

    def contend(pid):
        this = lock.this_process()._replace(pid=pid, machine=f'machine {pid}')
        try:
            lock._take(tmp_path / 'run' / lock.NAME, this, lambda sentence: seen.wait(), tmp_path)
            held.append(pid)
        except UserError:
            refused.append(pid)

    monkeypatch.setattr(clock, 'sleep', sleep)
    monkeypatch.setattr(Path, 'replace', replace_together)
    threads = [threading.Thread(target=contend, args=(10**6 + i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 5)
    assert holder_of(tmp_path / 'run').pid == held[0]


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / 'file').write_text('')
    with (
        pytest.raises(UserError, match=r'lock\.json cannot be written'),
        lock.acquire(tmp_path / 'file'),
    ):
        pass
