"""A run killed at any moment and started again ends in the bits of one that was never stopped."""

import json
import os
import random
import re
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.integration.saved import newest, unfinished

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
STEPS = 12
Process = subprocess.Popen[str]
Start = Callable[..., Process]
# Dropout, so that the random keys matter; an evaluation at every step, so that stops meet one.
RUN = (
    '--config=configs/base.py:tiny',
    '--config.data.size=16',
    '--config.discriminator.layers=1',
    '--config.generator.depth=3',
    '--config.generator.dropout=0.5',
    '--config.ema_decay=0.9',
    '--config.log_every=1',
    '--config.eval_every=1',
    '--config.sample_every=2',
    '--config.checkpoint_every=3',
)


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp('undisturbed')
    finish(workdir, f'--config.steps={STEPS}')
    return workdir


@pytest.fixture
def start() -> Iterator[Start]:
    """`launch`, with nothing left running when a test fails."""
    processes: list[Process] = []

    def start_(workdir: Path, *flags: str) -> Process:
        processes.append(launch(workdir, *flags))
        return processes[-1]

    yield start_
    for process in processes:
        process.kill()
        process.wait()
        said_by(process).close()


def test_a_run_killed_between_checkpoints_ends_in_the_same_bits(
    undisturbed: Path, tmp_path: Path, start: Start
) -> None:
    process = start(tmp_path, f'--config.steps={STEPS}')
    wait_for(process, 'step 5/')
    while newest(tmp_path) is None:
        assert process.poll() is None
    process.kill()
    assert process.wait() == -signal.SIGKILL
    saved = newest(tmp_path)
    assert 0 < saved < STEPS

    assert f'resumed from step {saved}\n' in finish(tmp_path, f'--config.steps={STEPS}')
    assert_same_run(undisturbed, tmp_path)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_run_asked_to_stop_saves_that_step_and_ends_in_the_same_bits(
    number: signal.Signals, undisturbed: Path, tmp_path: Path, start: Start
) -> None:
    process = start(tmp_path, f'--config.steps={STEPS}')
    wait_for(process, 'step 4/')
    process.send_signal(number)
    rest = process.communicate()[1]
    assert process.returncode == 75
    sentence = rest.splitlines()[-1]
    match = re.fullmatch(r'chromagan_jax: stopped at step (\d+), .*', sentence)
    assert match, sentence
    stopped = int(match[1])
    assert 4 <= stopped < STEPS
    assert newest(tmp_path) == stopped
    assert 'Traceback' not in rest

    assert f'resumed from step {stopped}\n' in finish(tmp_path, f'--config.steps={STEPS}')
    assert_same_run(undisturbed, tmp_path)


@pytest.mark.cluster
def test_starts_that_compile_at_once_and_one_that_loads_their_program_end_in_the_same_bits(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / 'cache'
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(cache))
    flags = (
        *('--config.steps=9', '--config.eval_every=0', '--config.sample_every=0'),
        *('--config.generator.depth=2', '--config.discriminator_steps=1'),
    )
    killed, whole = tmp_path / 'killed', tmp_path / 'whole'
    process, beside = start(killed, *flags), start(whole, *flags)
    wait_for(process, 'compiled the train step in ')
    wait_for(process, 'step 5/')
    process.kill()
    wait_for(beside, 'compiled the train step in ')
    wait_for(beside, 'step 9/')
    assert beside.wait() == 0
    assert len(list(cache.glob('step-*.program'))) == 1

    assert 'loaded the train step in ' in finish(killed, *flags)
    assert_same_states(killed, whole, 'checkpoints')
    assert metrics(killed) == metrics(whole)


def test_a_killed_run_leaves_no_worker_process_behind(tmp_path: Path, start: Start) -> None:
    process = start(tmp_path, '--config.steps=1000', '--config.data.workers=1')
    wait_for(process, 'step 2/')
    workers = descendants(process.pid)
    assert workers
    ends = [os.pidfd_open(pid) for pid in workers]  # readable once the process has ended
    process.kill()
    process.wait()
    try:
        for pid, end in zip(workers, ends, strict=True):
            assert select.select([end], [], [], 60)[0], f'{pid} outlives the run by a minute'
    finally:
        for end in ends:
            os.close(end)


@pytest.mark.cluster
def test_a_dozen_kills_at_random_moments_change_no_bit(tmp_path: Path, start: Start) -> None:
    flags = ('--config.steps=100', '--config.checkpoint_every=1', '--config.eval_every=2')
    moments = random.Random(0)
    fell: Counter[str] = Counter()
    for kill in range(12):
        before = unfinished(tmp_path / 'killed')
        process = start(tmp_path / 'killed', *flags)
        lines, place = moments.randrange(20), 'start-up'
        for _ in range(lines):
            line = said_by(process).readline()
            assert line, f'the run ended, {process.wait()}, before kill {kill}: more steps'
            if step := re.match(r'step \d+', line):
                place = f'after {step[0]}'
        # Any fraction of what is under way; when nothing is said yet that is seconds of imports.
        end = time.monotonic() + moments.uniform(0, 0.5 if lines else 8)
        while time.monotonic() < end:
            pass
        process.kill()
        assert process.wait() == -signal.SIGKILL
        saving = unfinished(tmp_path / 'killed') - before
        fell[place.split()[0]] += 1
        fell['during a save'] += bool(saving)
        saved = newest(tmp_path / 'killed')
        print(f'kill {kill}: {place}, newest checkpoint {saved}, cut short {sorted(saving)}')
    print(dict(fell))

    finish(tmp_path / 'killed', *flags)
    finish(tmp_path / 'undisturbed', *flags)
    assert_same_run(tmp_path / 'undisturbed', tmp_path / 'killed')
    assert not unfinished(tmp_path / 'killed')
    assert fell['after'] >= 4
    assert fell['during a save'] >= 1


def launch(workdir: Path, *flags: str) -> Process:
    return subprocess.Popen(
        [sys.executable, '-m', 'chromagan_jax.main', *RUN, f'--workdir={workdir}', *flags],
        cwd=ROOT,
        env=os.environ | {'XLA_FLAGS': ''},  # one device
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(workdir: Path, *flags: str) -> str:
    """Runs to the end; what the run said."""
    process = launch(workdir, *flags)
    log = process.communicate()[1]
    assert process.returncode == 0, log
    return log


def wait_for(process: Process, words: str) -> None:
    """Reads what the run says until a line starts with `words`."""
    log = []
    for line in said_by(process):
        if line.startswith(words):
            return
        log.append(line)
    raise AssertionError(f'The run ended without {words!r}:\n{"".join(log)}')


def said_by(process: Process) -> IO[str]:
    assert process.stderr
    return process.stderr


def leaves(workdir: Path, folder: str) -> dict[str, np.ndarray]:
    """Path -> value of the newest state, read without its config."""
    options = ocp.CheckpointManagerOptions(read_only=True)
    with ocp.CheckpointManager(workdir / folder, options=options) as manager:
        state = manager.restore(newest(workdir, folder), args=ocp.args.StandardRestore())
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        found[jax.tree_util.keystr(path)] = np.asarray(leaf)
    return found


def assert_same_run(one: Path, other: Path) -> None:
    """The same newest and best states, bit by bit, and the same metrics and samples."""
    for folder in ('checkpoints', 'best'):
        assert_same_states(one, other, folder)
    assert metrics(one) == metrics(other)
    samples = [{p.name: p.read_bytes() for p in (w / 'samples').iterdir()} for w in (one, other)]
    assert samples[0]
    assert samples[0] == samples[1]


def assert_same_states(one: Path, other: Path, folder: str) -> None:
    assert newest(one, folder) == newest(other, folder)
    expected, found = leaves(one, folder), leaves(other, folder)
    names = ' '.join(expected)
    for part in ('step', 'key', 'ema', 'opt_state', 'params', 'batch_stats', 'discriminator'):
        assert f"['{part}']" in names
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert (value.dtype, value.shape) == (found[name].dtype, found[name].shape), name
        assert value.tobytes() == found[name].tobytes(), f'{folder} {name}'


def metrics(workdir: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl, but for what the clock says."""
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    clock = ('images_per_second', 'waiting_for_data', 'goodput/')
    return [{k: v for k, v in line.items() if not k.startswith(clock)} for line in lines]


def descendants(pid: int) -> list[int]:
    children = [
        int(child)
        for task in Path(f'/proc/{pid}/task').iterdir()
        for child in (task / 'children').read_text().split()
    ]
    return children + [pid for child in children for pid in descendants(child)]
