"""What a task of launch/slurm.sbatch ends with, and the cores that it uses."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from configs import photos
from tests.launch.test_shell import LAUNCH, STUB, TRAIN, environment, write_program

# As srun: a task for each word of ENDS, and the highest code of all.
SRUN = """#!/usr/bin/env bash
ulimit -c 0
while [[ $1 == --* ]]; do shift; done
pids=() highest=0 number=0
for end in $ENDS; do
    SLURM_PROCID=$number "$@" &
    pids+=($!)
    number=$((number + 1))
done
for pid in "${pids[@]}"; do
    code=0
    wait "$pid" || code=$?
    ((code <= highest)) || highest=$code
done
exit "$highest"
"""
# The run of a task: ends with its word of ENDS.
RUN = """
import multiprocessing, os, sys

def work():
    pass

if __name__ == '__main__':
    end = os.environ['ENDS'].split()[int(os.environ['SLURM_PROCID'])]
    if end == 'error':
        raise ValueError(end)
    if end == 'sentence':
        sys.exit('a sentence')
    if end == 'pid':
        worker = multiprocessing.get_context('spawn').Process(target=work)
        worker.start()
        worker.join()
        print(os.getpid(), worker.exitcode, *sys.argv[1:])
        sys.exit()
    if int(end) > 128:
        os.kill(os.getpid(), int(end) - 128)
    sys.exit(int(end))
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository whose command is RUN."""
    package = tmp_path / 'root' / 'chromagan_jax'
    package.mkdir(parents=True)
    (package / '__init__.py').touch()
    (package / 'main.py').write_text(RUN)
    (package.parent / 'launch').symlink_to(LAUNCH)
    return package.parent


@pytest.mark.parametrize('old', [(), ('.slurm-17-0.1', '.slurm-17-0.3')], ids=['', 'old'])
@pytest.mark.parametrize(
    ('ends', 'code', 'requeued'),
    [
        ('1 75', 1, False),
        ('134 1 75', 1, False),
        ('137 3', 3, False),
        ('1 3 75', 3, False),
        ('75 error', 1, False),
        ('75 sentence', 1, False),
        ('75 134', 134, True),
        ('75 75', 75, True),
        ('0 137', 137, True),
        ('0 0', 0, False),
    ],
)
def test_an_error_of_one_task_is_not_hidden_by_those_that_lost_it(
    ends: str, code: int, requeued: bool, old: tuple[str, ...], root: Path, tmp_path: Path
) -> None:
    stubs, log = tmp_path / 'stubs', tmp_path / 'log'
    stubs.mkdir()
    write_program(stubs / 'srun', SRUN)
    write_program(stubs / 'scontrol', STUB)
    for name in old:  # of an earlier start that was killed
        (root / name).touch()
    variables = {'LOG': str(log), 'ENDS': ends, 'PYTHON': sys.executable, 'SLURM_JOB_ID': '17'}
    done = subprocess.run(
        ['bash', TRAIN], cwd=root, env=environment(stubs, **variables), timeout=60
    )
    assert done.returncode == code
    started = log.read_text() if log.exists() else ''
    assert started == ('scontrol requeue 17\n' if requeued else '')
    assert not list(root.glob('.slurm*'))


def test_the_process_that_slurm_starts_and_signals_is_the_run(root: Path, tmp_path: Path) -> None:
    """SLURM's proctrack/cgroup sends SIGTERM to no other. Its data workers can be spawned."""
    process = subprocess.Popen(
        [*task(tmp_path / 'note'), '--config=a b'],
        cwd=root,
        env={**os.environ, 'ENDS': 'pid', 'SLURM_PROCID': '0'},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.communicate(timeout=60)[0] == f'{process.pid} 0 --config=a b\n'
    assert process.returncode == 0


@pytest.mark.parametrize('end', [1, 75, 128 + signal.SIGTERM])
def test_a_note_that_cannot_be_left_changes_no_exit_code(end: int, root: Path) -> None:
    done = subprocess.run(
        task(root / 'missing' / 'note'),
        cwd=root,
        env={**os.environ, 'ENDS': str(end), 'SLURM_PROCID': '0'},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == (end if end < 128 else -(end - 128))
    assert ('note.1 cannot be created (No such file' in done.stderr) == (end == 1)


def task(note: Path) -> list[str]:
    return [sys.executable, 'launch/slurm_task.py', str(note), 'chromagan_jax.main']


@pytest.mark.parametrize(('cores', 'workers'), [(1, 0), (4, 2), (8, 4), (64, 8)])
def test_photos_has_workers_for_the_cores_that_the_process_may_use(
    cores: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, 'cpu_count', lambda: 32)  # of the node
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: range(cores), raising=False)
    assert photos.get_config().data.workers == workers
    monkeypatch.delattr(os, 'sched_getaffinity')
    assert photos.get_config().data.workers == 8
