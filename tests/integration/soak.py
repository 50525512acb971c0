"""Runs that are killed, stopped, starved and damaged for as long as one likes; nothing may be lost.

    python -m tests.integration.soak --minutes=10

Each life is one small run, with one process, with two, or with both by turns, that meets a random
fault at a random moment, is started again, and so on to its end. Then its state and its metrics
must be those of a run that was left in peace: bit by bit if the number of processes never changed,
else within float tolerance. After damage to the newest checkpoint the next start must name it, pass
it over and go on from an older one, or else have restored it whole.

Prints each fault and, at the end, how many there were of which kind. Exit code 0 only if nothing
was lost and each kind of fault was met. The workdirs lie on a tmpfs of their own, which it takes
root to mount.
"""

import argparse
import collections
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from absl import logging

from chromagan_jax.gan import checkpoints
from tests.integration import saved
from tests.integration.faults import damage, fill, relist, small_disk, write_photographs
from tests.integration.test_resume import metrics

ROOT = Path(__file__).parents[2]
STEPS = 60
FLAGS = (
    '--config=configs/base.py:tiny',
    f'--config.steps={STEPS}',
    '--config.data.size=16',
    '--config.discriminator.layers=1',
    '--config.generator.depth=3',
    '--config.generator.dropout=0.5',
    '--config.log_every=1',
    '--config.eval_every=20',
    '--config.sample_every=0',
    '--config.checkpoint_every=4',
    '--config.checkpoint.max_to_keep=3',
    '--config.stall_timeout=120',
)
PATIENCE = 300  # s until a process that should end counts as hanging


class LostError(Exception):
    """Something was lost, or a run did not end as it should."""


class Run:
    """The processes of one start of a run, and what they say."""

    def __init__(self, workdir: Path, photographs: Path, processes: int):
        with socket.socket() as probe:
            probe.bind(('localhost', 0))
            port = probe.getsockname()[1]
        cluster = ['--distributed', f'--coordinator=localhost:{port}', '--num_processes=2']
        self.logs = [workdir.parent / f'{workdir.name}.{i}.log' for i in range(processes)]
        self.processes = []
        for i in range(processes):
            own = [*cluster, f'--process_id={i}'] if processes > 1 else []
            command = [sys.executable, '-m', 'chromagan_jax.main', *FLAGS, *own]
            command += [f'--workdir={workdir}', f'--config.data.source={photographs}']
            with self.logs[i].open('wb') as log:
                self.processes.append(
                    subprocess.Popen(
                        command,
                        cwd=ROOT,
                        env=os.environ | {'XLA_FLAGS': ''},
                        stdout=subprocess.DEVNULL,
                        stderr=log,
                    )
                )

    def said(self) -> str:
        return ''.join(log.read_text(errors='replace') for log in self.logs)

    def running(self) -> bool:
        return all(process.poll() is None for process in self.processes)

    def wait_until(self, happened: Callable[[], bool]) -> bool:
        """Waits for something; False if a process ended before."""
        end = time.monotonic() + PATIENCE
        while not happened():
            if not self.running():
                return False
            if time.monotonic() > end:
                raise LostError(f'nothing happened for {PATIENCE} s:\n{self.said()[-2000:]}')
            time.sleep(0.002)
        return True

    def end(self) -> list[int]:
        """The exit codes, once all processes have ended by themselves."""
        try:
            return [process.wait(PATIENCE) for process in self.processes]
        except subprocess.TimeoutExpired:
            raise LostError(f'a process hangs:\n{self.said()[-2000:]}') from None
        finally:
            for process in self.processes:
                process.kill()
                process.wait()

    def signal(self, number: int, processes: Sequence[subprocess.Popen]) -> None:
        for process in processes:
            process.send_signal(number)


def disturb(kind: str, run: Run, workdir: Path, rng: random.Random) -> str:
    """Does to a running run what `kind` says; how it ended."""
    step = rng.randrange(2, STEPS // 3)
    lines = lambda: run.said().count('\nstep ')
    if kind == 'kill in start-up':
        deadline = time.monotonic() + rng.uniform(0, 8)
        run.wait_until(lambda: time.monotonic() > deadline)
    elif kind == 'kill in save':
        run.wait_until(lambda: lines() > 1 and bool(saved.unfinished(workdir)))
    else:
        run.wait_until(lambda: lines() >= step)
    if kind == 'SIGTERM':
        run.signal(signal.SIGTERM, [rng.choice(run.processes)])
        expect(run, {75})
    elif kind == 'full disk':
        fill(workdir.parent / 'filler')
        expect(run, {1, 75, -signal.SIGABRT, 0})
        said = run.said()
        (workdir.parent / 'filler').unlink()
        if 'Traceback' in said or not ('cannot be written' in said or 'goodput' in said):
            raise LostError(f'a full disk ended without a sentence:\n{said[-3000:]}')
    elif kind == 'kill one':
        run.signal(signal.SIGKILL, [rng.choice(run.processes)])
        expect(run, {-signal.SIGKILL, 75, -signal.SIGABRT})
    else:
        run.signal(signal.SIGKILL, run.processes)
        expect(run, {-signal.SIGKILL, -signal.SIGABRT, 75})
    return f'after {lines()} steps'


def expect(run: Run, codes: set[int]) -> None:
    """Waits for the end; raises LostError if it is another than those expected."""
    ended = run.end()
    # A run may have come to its end before the fault came to it.
    if not set(ended) <= codes | {0}:
        raise LostError(f'ended with {ended}, not {sorted(codes)}:\n{run.said()[-3000:]}')


WHILE_RUNNING = ('kill', 'kill one', 'kill in start-up', 'kill in save', 'SIGTERM', 'full disk')
BETWEEN = ('missing file', 'truncated file', 'flipped bit', 'files listed anew')


def live(
    workdir: Path, photographs: Path, mode: str, rng: random.Random, faults: collections.Counter
) -> None:
    """One run from its first start to its end, with a fault at each start but the last."""
    damaged: tuple[str, int] | None = None  # how, and which checkpoint
    said = ''  # since then
    for birth in range(1000):
        processes = rng.choice((1, 2)) if mode == 'mixed' else int(mode)
        run = Run(workdir, photographs, processes)
        kinds = [k for k in WHILE_RUNNING if processes == 2 or k != 'kill one']
        kind = min(rng.sample(kinds, len(kinds)), key=lambda k: faults[k])
        last = birth >= 5
        if last:
            expect(run, {0})
        else:
            how = disturb(kind, run, workdir, rng)
        said += run.said()
        if damaged and '\nresumed from step' in said:
            check_noticed(said, *damaged, faults)
            damaged = None
        if STEPS in saved.steps(workdir):
            if damaged:
                what = f'a {damaged[0]} in checkpoint {damaged[1]}'
                raise LostError(f'after {what} the run resumed from nothing:\n{said[-3000:]}')
            return
        faults[kind] += 1
        print(f'  {kind} {how} ({processes} process{"es" * (processes > 1)})', flush=True)
        kind = min(rng.sample(BETWEEN, len(BETWEEN)), key=lambda k: faults[k])
        if kind == 'files listed anew':
            relist(photographs, rng)
        elif damaged or not damage(kind, workdir, rng):
            continue
        else:
            damaged, said = (kind, saved.newest(workdir)), ''
        faults[kind] += 1
        print(f'  {kind}' + (f' in checkpoint {damaged[1]}' if damaged else ''), flush=True)
    raise LostError('the run never came to its end')


def check_noticed(said: str, kind: str, step: int, faults: collections.Counter) -> None:
    """Counts whether the starts after damage named the checkpoint and fell back to an older one.

    Files hold parts that no restore reads. Damage there is no loss: the state is whole, for its
    checksum holds, and the end will show it.
    """
    if f'checkpoint {step} cannot be read and is skipped' in said:
        faults['(damage noticed)'] += 1
    elif f'resumed from step {step}\n' in said:
        faults['(damage where nothing is read)'] += 1
    else:
        raise LostError(f'after a {kind} in checkpoint {step}:\n{said[:3000]}')


def compare(peaceful: Path, disturbed: Path, exact: bool) -> None:
    """Raises LostError where the state or the metrics of a run are others than those in peace.

    Numbers of processes differ by rounding, which the jumps of L1's gradient amplify: two runs in
    peace, of one process and of two, end with weights up to 2e-3 apart, Adam's first moments a
    third, while no step's loss differs by more than 0.1 %. Another batch would, by 10 %.
    """
    expected, found = leaves(peaceful), leaves(disturbed)
    if expected.keys() != found.keys():
        raise LostError('the state has other leaves')
    for name, value in expected.items():
        whole = exact or value.dtype.kind != 'f'
        if whole and value.tobytes() != found[name].tobytes():
            raise LostError(f'{name} is not the same bit by bit')
        moments = '.mu[' in name or '.nu[' in name
        if not whole and not moments and not np.allclose(value, found[name], rtol=0.02, atol=4e-3):
            raise LostError(f'{name} is off by {np.abs(value - found[name]).max()}')
    lines = [metrics(workdir) for workdir in (peaceful, disturbed)]
    trained = [[line for line in ls if 'generator/loss' in line] for ls in lines]
    if [line['step'] for line in trained[1]] != list(range(1, STEPS + 1)):
        raise LostError('metrics.jsonl lacks steps or has some twice')
    if exact and trained[0] != trained[1]:
        raise LostError('metrics.jsonl has other figures')
    for ours, theirs in zip(*trained, strict=True):
        for name in ('generator/loss', 'discriminator/loss'):
            if not np.isclose(ours[name], theirs[name], rtol=0.01):
                raise LostError(
                    f'{name} of step {ours["step"]} is {theirs[name]}, not {ours[name]}'
                )


def leaves(workdir: Path) -> dict[str, np.ndarray]:
    """Path -> value of the newest state, whatever processes saved it."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(checkpoints.load(workdir).state):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        found[jax.tree_util.keystr(path)] = np.asarray(leaf)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument('--minutes', type=float, default=10)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    rng, faults = random.Random(args.seed), collections.Counter()
    end, lives = time.monotonic() + 60 * args.minutes, 0
    with tempfile.TemporaryDirectory() as peace, small_disk() as disk:
        write_photographs(photographs := Path(peace) / 'photographs')
        for processes in (1, 2):
            run = Run(Path(peace) / str(processes), photographs, processes)
            if run.end() != [0] * processes:
                raise LostError(f'a run in peace failed:\n{run.said()}')
        while time.monotonic() < end:
            mode = ('1', '2', 'mixed')[lives % 3]
            print(f'life {lives}, processes: {mode}', flush=True)
            live(disk / 'run', photographs, mode, rng, faults)
            compare(Path(peace) / mode.replace('mixed', '1'), disk / 'run', mode != 'mixed')
            shutil.rmtree(disk / 'run')
            lives += 1
    print(json.dumps({'lives': lives, **faults, 'lost': 0}))
    if never := [kind for kind in (*WHILE_RUNNING, *BETWEEN) if not faults[kind]]:
        raise LostError(f'no run met these faults: {", ".join(never)}; more --minutes are needed')
    return 0


if __name__ == '__main__':
    logging.set_verbosity(logging.ERROR)
    try:
        sys.exit(main())
    except LostError as error:
        print(f'LOST: {error}')
        sys.exit(1)
