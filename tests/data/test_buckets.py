"""Copies of shards from a bucket: by several processes, killed ones, and ones on other machines."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chromagan_jax.data import buckets
from chromagan_jax.errors import UserError
from chromagan_jax.utils import lock, paths

ROOT = Path(__file__).parents[2]
SHARDS = {f'x-{number}.array_record': bytes([number]) * 1000 for number in range(3)}
NAMES = sorted(SHARDS)
FAR = lock.Holder('far', 7, 'far boot pid:[1]', '1')
COPY = """
import sys
from pathlib import Path
from tests.data import test_buckets
print(test_buckets.copy(Path(sys.argv[1])))
"""


class Store:
    """A bucket that is a folder; the file `log` beside it gets the name of each shard it sends."""

    def __init__(self, root: Path):
        self.root, self.log = root / 'bucket', root / 'log'

    def find(self, location: str, detail: bool) -> dict[str, dict[str, Any]]:
        return {
            f'b/{file.relative_to(self.root).as_posix()}': {'size': 1000, 'ETag': str(self.root)}
            for file in self.root.rglob('*')
            if file.is_file()
        }

    def get_file(self, key: str, target: str) -> None:
        """Writes half of a shard; the rest follows once there is a file `go.NAME`."""
        with self.log.open('a') as file:
            file.write(f'{Path(key).name}\n')
        content = (self.root / key.removeprefix('b/')).read_bytes()
        with open(target, 'wb') as file:
            file.write(content[:500])
            file.flush()
            wait_until((self.root.parent / f'go.{Path(key).name}').exists)
            file.write(content[500:])


def copy(root: Path) -> Path | None:
    """`copy_records` in another process."""
    paths.filesystem = lambda location: Store(root)
    return buckets.copy_records('gs://b/shards')


def wait_until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A bucket with three shards, for this process."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    opened = Store(tmp_path)
    for name, content in SHARDS.items():
        file = opened.root / 'shards' / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    monkeypatch.setattr(paths, 'filesystem', lambda location: opened)
    buckets._objects.cache_clear()
    return opened


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What this process prints."""
    lines: list[str] = []
    monkeypatch.setattr(buckets.progress, 'announcer', lambda: lines.append)
    return lines


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little time between looks at a lock."""
    monkeypatch.setattr(lock, '_POLL', 0.05)
    monkeypatch.setattr(lock, '_SETTLE', 0.05)
    monkeypatch.setattr(buckets, '_POLL', 0.05)


@pytest.fixture
def start(store: Store, tmp_path: Path) -> Iterator[Callable[[], 'subprocess.Popen[str]']]:
    """Starts a process that copies the shards."""
    processes = []

    def start_() -> 'subprocess.Popen[str]':
        processes.append(
            subprocess.Popen(
                [sys.executable, '-c', COPY, str(tmp_path)],
                cwd=ROOT,
                env=os.environ | {'PYTHONPATH': str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return processes[-1]

    yield start_
    for process in processes:
        process.kill()
        process.communicate()


def let_go(store: Store, *names: str) -> None:
    for name in names or NAMES:
        (store.root.parent / f'go.{name}').touch()


def sent(store: Store) -> list[str]:
    return sorted(store.log.read_text().split()) if store.log.exists() else []


def folder_of_copies() -> Path:
    """The folder of the copies; there is one."""
    (folder,) = buckets.cache_folder().iterdir()
    return folder


def assert_copied(folder: Path | None) -> None:
    """Whether a folder holds the shards and nothing else."""
    assert folder is not None
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == SHARDS


def test_of_two_processes_one_copies_and_the_other_waits(store, start):
    first = start()
    wait_until(lambda: sent(store) == NAMES)
    second = start()
    line = second.stderr.readline()
    assert line.startswith('waits for the process in ')
    assert line.endswith('lock.json, which copies gs://b/shards\n')
    let_go(store)
    answers = [process.communicate(timeout=60) for process in (first, second)]
    assert answers[0][1].startswith('copies 3e-06 GB of gs://b/shards to ')
    assert answers[1][1] == ''
    assert answers[0][0] == answers[1][0]
    assert sent(store) == NAMES
    assert_copied(Path(answers[0][0].strip()))


def test_the_copy_of_a_killed_process_is_continued_and_nothing_of_it_is_left(store, start):
    let_go(store, NAMES[0])
    process = start()
    wait_until(lambda: sent(store) == NAMES and (folder_of_copies() / NAMES[0]).exists())
    process.kill()
    process.wait()
    folder = folder_of_copies()
    this = lock.this_process()
    assert (folder / f'.partial/{this.host}.{process.pid}/{NAMES[1]}').exists()
    assert (folder / lock.NAME).exists()
    (folder / f'.{NAMES[1]}.4711').touch()  # as earlier versions left it
    let_go(store)
    assert buckets.copy_records('gs://b/shards') == folder
    assert sent(store) == sorted(NAMES + NAMES[1:])
    assert_copied(folder)


def test_two_calls_in_one_process_copy_once(store, said, short):
    found = []
    calls = [
        threading.Thread(target=lambda: found.append(buckets.copy_records('gs://b/shards')))
        for _ in range(2)
    ]
    for call in calls:
        call.start()
    wait_until(lambda: sent(store) == NAMES and any('waits for' in line for line in said))
    let_go(store)
    for call in calls:
        call.join()
    assert found[0] == found[1]
    assert len(said) == 2
    assert sent(store) == NAMES
    assert_copied(found[0])


def test_a_failed_copy_keeps_the_complete_shards_and_the_next_one_gets_the_others(
    store, said, monkeypatch
):
    let_go(store)
    get = store.get_file

    def fail(key: str, target: str) -> None:
        if NAMES[1] in key:
            wait_until(lambda: (folder_of_copies() / NAMES[0]).exists())
            raise OSError(28, 'No space left on device')
        get(key, target)

    monkeypatch.setattr(store, 'get_file', fail)
    with pytest.raises(UserError, match=r'cannot be written \(No space left on device\)'):
        buckets.copy_records('gs://b/shards')
    kept = sorted(file.name for file in folder_of_copies().iterdir())
    assert kept == [NAMES[0], NAMES[2]]
    monkeypatch.setattr(store, 'get_file', get)
    assert_copied(buckets.copy_records('gs://b/shards'))
    assert sent(store) == NAMES


def test_a_copy_of_another_machine_that_goes_on_is_waited_for(store, said, short):
    let_go(store)
    folder = buckets.copy_records('gs://b/shards')
    assert folder is not None
    for name in NAMES:
        (folder / name).unlink()
    path = folder / lock.NAME
    path.write_text(json.dumps(FAR._asdict()))

    def copy_there() -> None:
        while not any('waits for' in line for line in said):
            os.utime(path)
            time.sleep(0.02)
        for name, content in SHARDS.items():
            (folder / name).write_bytes(content)
        path.unlink()

    there = threading.Thread(target=copy_there)
    there.start()
    assert buckets.copy_records('gs://b/shards') == folder
    there.join()
    assert_copied(folder)
    assert sent(store) == NAMES


def test_a_copy_of_another_machine_that_stands_still_is_taken_over(store, said, short, monkeypatch):
    monkeypatch.setattr(lock, 'LEASE', 0.2)
    let_go(store)
    folder = buckets.copy_records('gs://b/shards')
    assert folder is not None
    (folder / NAMES[0]).unlink()
    (folder / '.partial/far.7').mkdir(parents=True)
    (folder / '.partial/far.7' / NAMES[0]).write_bytes(b'half')
    (folder / lock.NAME).write_text(json.dumps(FAR._asdict()))
    assert_copied(buckets.copy_records('gs://b/shards'))
    assert any('is that of process 7 on far: it is taken over' in line for line in said)
    assert sent(store) == sorted([*NAMES, NAMES[0]])


def test_a_process_that_has_lost_its_lock_looks_again(store, said, monkeypatch):
    let_go(store)
    get, taken = store.get_file, []

    def lose(key: str, target: str) -> None:
        get(key, target)
        if NAMES[1] in key and not taken:  # another process does this when it has taken over
            taken.append(key)
            (folder_of_copies() / NAMES[1]).write_bytes(SHARDS[NAMES[1]])
            Path(target).unlink()
        elif NAMES[2] in key and len(taken) < 2:
            taken.append(key)
            Path(target).unlink()

    monkeypatch.setattr(store, 'get_file', lose)
    assert_copied(buckets.copy_records('gs://b/shards'))
    assert sent(store)[:2] == NAMES[:2]


def test_what_is_complete_needs_no_lock(store, said, monkeypatch):
    let_go(store)
    folder = buckets.copy_records('gs://b/shards')
    monkeypatch.setattr(lock, 'acquire', None)
    assert buckets.copy_records('gs://b/shards') == folder
    assert len(said) == 1


def test_a_folder_that_cannot_be_written_is_a_sentence(store, tmp_path):
    (tmp_path / 'cache').write_text('')
    with pytest.raises(UserError, match=r'lock\.json cannot be written'):
        buckets.copy_records('gs://b/shards')


def test_a_lock_in_the_bucket_is_not_copied(store, said):
    shutil.rmtree(store.root)
    (store.root / 'shards/1.0.0').mkdir(parents=True)
    wanted = ['1.0.0/dataset_info.json', '1.0.0/x.array_record-00000-of-00001']
    for name in (*wanted, lock.NAME):
        (store.root / 'shards' / name).write_text('{}')
    let_go(store, *(Path(name).name for name in wanted))
    folder = buckets.copy_records('gs://b/shards')
    files = [file.relative_to(folder).as_posix() for file in folder.rglob('*') if file.is_file()]
    assert sorted(files) == wanted


def test_after_an_error_no_further_call_starts():
    called = []

    def fail(name: str) -> None:
        called.append(name)
        raise KeyError(name)

    with pytest.raises(KeyError):
        buckets._in_threads(fail, [str(number) for number in range(100)])
    assert len(called) <= buckets._AT_ONCE
