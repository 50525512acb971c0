"""The shell and SLURM scripts, with a stub for the interpreter and SLURM; and one real run.

A real SLURM runs them in tests/launch/slurm_test.sh.
"""

import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / 'launch'
LOCAL, TRAIN, EVAL = LAUNCH / 'local.sh', LAUNCH / 'slurm.sbatch', LAUNCH / 'slurm_eval.sbatch'
ALLOCATOR = ('MALLOC_MMAP_MAX_=0', 'MALLOC_TRIM_THRESHOLD_=1000000000000')
SMALL = (  # as few layers as there can be, and nothing beside training
    '--config.steps=2',
    '--config.generator.depth=2',
    '--config.discriminator.layers=1',
    '--config.data.size=16',
    '--config.eval_every=0',
    '--config.sample_every=0',
)

# What stands in for a program: writes down its start, then ends with the next of CODES.
STUB = """#!/usr/bin/env bash
echo "${0##*/} $*" >>"$LOG"
if [[ ${0##*/} == scontrol ]]; then exit; fi
starts=$(grep -c "^${0##*/} " "$LOG")
codes=($CODES)
exit "${codes[starts - 1]}"
"""
# A run that ends with 75 when it is told to, unless it is STUBBORN. In Python, which hears signals
# that a shell without job control has told it to ignore, as the real one does.
PATIENT = f"""#!{sys.executable} -S
import os, signal, sys, time

def write(word):
    with open(os.environ['LOG'], 'a') as log:
        print(word, file=log)

def told(number, frame):
    write(signal.Signals(number).name)
    if 'STUBBORN' not in os.environ:
        sys.exit(75)

signal.signal(signal.SIGTERM, told)
signal.signal(signal.SIGINT, told)
write('started')
for _ in range(600):
    time.sleep(0.1)
"""

Run = Callable[..., tuple[int, list[str], str]]


@pytest.fixture
def stubs(tmp_path: Path) -> Path:
    """A folder for PATH with a stub for each program that the scripts start."""
    folder = tmp_path / 'stubs'
    folder.mkdir()
    for name in ('python', 'srun', 'scontrol'):
        write_program(folder / name, STUB)
    return folder


@pytest.fixture
def run(stubs: Path, tmp_path: Path) -> Run:
    """Runs a script on the stubs: its exit code, what was started, and what it said."""

    def run_(
        script: Path, *arguments: str, codes: str = '', **variables: str
    ) -> tuple[int, list[str], str]:
        log = tmp_path / 'log'
        log.write_text('')
        done = subprocess.run(
            ['bash', script, *arguments],
            cwd=ROOT,
            env=environment(stubs, LOG=str(log), CODES=codes, **variables),
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, log.read_text().splitlines(), done.stdout + done.stderr

    return run_


def write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def environment(stubs: Path, **variables: str) -> Mapping[str, str]:
    """This one, without what a SLURM or a user of the scripts has set in it."""
    names = 'PYTHON CONFIG WORKDIR PROCESSES DEVICES RESTARTS WAIT GPUS MAX_RESTARTS XLA_FLAGS'
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in names.split()
        and not name.startswith(('SLURM_', 'MALLOC_', 'GLIBC_', 'CUDA_'))
    }
    return kept | {'PATH': f'{stubs}:{kept["PATH"]}'} | variables


@pytest.mark.parametrize('script', [LOCAL, TRAIN, EVAL], ids=lambda script: script.name)
def test_help_prints_the_header_and_runs_nothing(script: Path, run: Run) -> None:
    code, started, said = run(script, '--help')
    assert (code, started) == (0, [])
    header = script.read_text().split('\n', 1)[1]
    assert said.splitlines()[0] == header.splitlines()[0].removeprefix('# ')
    assert '--dry-run' in said
    assert not re.search(r'^(#|set -)|SBATCH --', said, re.MULTILINE)


def test_dry_run_of_local_prints_one_command_and_runs_nothing(run: Run) -> None:
    code, started, said = run(
        LOCAL, '--dry-run', '--config.data.source=my photos', WORKDIR='a b', JAX_PLATFORMS='cpu'
    )
    assert (code, started) == (0, [])
    (command,) = [shlex.split(line) for line in said.splitlines()]
    at = command.index('python')
    assert command[:2] == ['setsid', 'env']
    assert set(ALLOCATOR) <= set(command[2:at])
    assert command[at:] == [
        *('python', '-m', 'chromagan_jax.main', '--config=configs/base.py', '--workdir=a b'),
        '--config.data.source=my photos',
    ]


def test_dry_run_of_several_processes_shares_the_gpus_out(run: Run) -> None:
    code, started, said = run(
        LOCAL, '--dry-run', PROCESSES='2', CUDA_VISIBLE_DEVICES='4,5,6,7', JAX_PLATFORMS='cuda'
    )
    assert (code, started) == (0, [])
    commands = [shlex.split(line) for line in said.splitlines()]
    assert [word for command in commands for word in command if word.startswith('CUDA')] == [
        'CUDA_VISIBLE_DEVICES=4,5',
        'CUDA_VISIBLE_DEVICES=6,7',
    ]
    for number, command in enumerate(commands):
        assert 'JAX_LOCAL_DEVICE_IDS=0,1' in command
        assert {'--distributed', '--num_processes=2', f'--process_id={number}'} <= set(command)
    (port,) = {word for command in commands for word in command if '--coordinator' in word}
    assert re.fullmatch(r'--coordinator=127.0.0.1:\d+', port)


def test_gpus_that_cannot_be_shared_out_are_refused(run: Run) -> None:
    code, started, said = run(LOCAL, PROCESSES='2', CUDA_VISIBLE_DEVICES='0', JAX_PLATFORMS='cuda')
    assert (code, started) == (1, [])
    assert said == (
        'local.sh: 1 GPUs cannot be divided evenly among 2 processes: change PROCESSES.\n'
    )


@pytest.mark.parametrize(
    ('codes', 'code', 'starts'),
    [
        ('0', 0, 1),
        ('1', 1, 1),
        ('3', 3, 1),
        ('75 0', 0, 2),
        ('75 137 0', 0, 3),
        ('75 75 1', 1, 3),
        ('75 75 75 75', 75, 3),
    ],
)
def test_local_starts_a_lost_run_again_and_no_other(
    codes: str, code: int, starts: int, run: Run
) -> None:
    ended, started, _ = run(LOCAL, '--config.steps=9', codes=codes, RESTARTS='2')
    assert ended == code
    assert started == ['python -m chromagan_jax.main --config=configs/base.py --config.steps=9'] * (
        starts
    )


@pytest.mark.parametrize('code', [1, 3])
def test_local_ends_the_others_of_a_process_that_failed_and_does_not_start_them_again(
    code: int, stubs: Path, tmp_path: Path
) -> None:
    write_program(
        stubs / 'python',
        '#!/usr/bin/env bash\necho $$ >>"$LOG"\n'
        f'[[ $* == *--process_id=2* ]] && exit {code}\n'
        '[[ $* == *--process_id=1* ]] && sleep 1 && exit 75\n'
        'trap "" TERM\nwhile :; do sleep 0.1; done\n',
    )
    log = tmp_path / 'log'
    done = subprocess.run(
        ['bash', LOCAL],
        env=environment(stubs, LOG=str(log), PROCESSES='3', WAIT='2', JAX_PLATFORMS='cpu'),
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == code
    numbers = log.read_text().split()
    assert len(numbers) == 3
    assert not any(Path(f'/proc/{number}').exists() for number in numbers)


@pytest.mark.parametrize('processes', ['1', '2'])
def test_ctrl_c_on_a_terminal_is_one_sigterm_for_each_process_and_no_restart(
    processes: str, stubs: Path, tmp_path: Path
) -> None:
    write_program(stubs / 'python', PATIENT)
    log = tmp_path / 'log'
    child, terminal = pty.fork()
    if child == 0:
        os.execvpe(
            'bash',
            ['bash', str(LOCAL)],
            environment(stubs, LOG=str(log), PROCESSES=processes, JAX_PLATFORMS='cpu'),
        )
    try:
        wait_for(log, 'started', int(processes))
        os.write(terminal, b'\x03')
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 75
    finally:
        os.close(terminal)
    assert sorted(log.read_text().split()) == sorted(['started', 'SIGTERM'] * int(processes))


def test_a_second_signal_ends_local_and_its_run_at_once(stubs: Path, tmp_path: Path) -> None:
    write_program(stubs / 'python', PATIENT)
    log = tmp_path / 'log'
    process = subprocess.Popen(['bash', LOCAL], env=environment(stubs, LOG=str(log), STUBBORN='1'))
    wait_for(log, 'started', 1)
    process.send_signal(signal.SIGTERM)
    wait_for(log, 'SIGTERM', 1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 128 + signal.SIGKILL


def wait_for(log: Path, word: str, times: int) -> None:
    """Returns once a stub has written `word` so often."""
    end = time.monotonic() + 30
    while not (log.exists() and log.read_text().count(word) >= times):
        assert time.monotonic() < end, f'{word!r} is missing in {log}'
        time.sleep(0.02)


@pytest.mark.cluster
def test_two_local_processes_train_the_tiny_config(tmp_path: Path) -> None:
    done = subprocess.run(
        ['bash', LOCAL, *SMALL],
        cwd=ROOT,
        env=environment(
            tmp_path,
            PYTHON=sys.executable,
            CONFIG='configs/base.py:tiny',
            WORKDIR=str(tmp_path / 'run'),
            PROCESSES='2',
            DEVICES='1',
            RESTARTS='0',
            XLA_FLAGS='--xla_backend_optimization_level=0',
        ),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'run' / 'checkpoints' / '2').is_dir()
    assert done.stderr.count('step 2/2') == 1  # of process 0 alone


@pytest.mark.parametrize(
    ('code', 'restarts', 'requeued'),
    [
        (0, '', False),
        (1, '', False),
        (3, '', False),
        (75, '', True),
        (75, '4', True),
        (75, '5', False),
        (137, '1', True),
        (143, '5', False),
    ],
)
def test_slurm_requeues_a_lost_run_within_bounds_and_no_other(
    code: int, restarts: str, requeued: bool, run: Run
) -> None:
    ended, started, _ = run(
        TRAIN,
        codes=str(code),
        SLURM_JOB_ID='17',
        SLURM_RESTART_COUNT=restarts,
        MAX_RESTARTS='5',
    )
    assert ended == code
    assert started[0].startswith('srun ')
    assert started[1:] == ['scontrol requeue 17'] * requeued


def test_dry_run_of_slurm_prints_the_step_and_runs_nothing(run: Run) -> None:
    code, started, said = run(
        TRAIN, '--dry-run', '--config.steps=9', SLURM_JOB_NUM_NODES='2', SLURM_CPUS_PER_TASK='3'
    )
    assert (code, started) == (0, [])
    command = shlex.split(said.splitlines()[0])
    at = command.index('python')
    assert command[0] == 'srun'
    assert {'--kill-on-bad-exit=0', '--wait=60', '--cpus-per-task=3', *ALLOCATOR} <= set(
        command[1:at]
    )
    assert command[at:] == [
        *('python', 'launch/slurm_task.py', f'{ROOT}/.slurm-JOB-0', 'chromagan_jax.main'),
        *('--config=configs/base.py', '--distributed', '--config.steps=9'),
    ]
    assert 'scontrol requeue' in said


@pytest.mark.parametrize(
    ('nodes', 'tasks', 'ids', 'distributed'),
    [
        ('1', '1', ['JAX_LOCAL_DEVICE_IDS=0,1,2,3'], False),
        ('2', '1', ['JAX_LOCAL_DEVICE_IDS=0,1,2,3'], True),
        ('1', '4', [], True),
    ],
)
def test_slurm_gives_a_task_the_gpus_of_its_node_or_one(
    nodes: str, tasks: str, ids: list[str], distributed: bool, run: Run
) -> None:
    said = run(
        TRAIN,
        '--dry-run',
        SLURM_JOB_NUM_NODES=nodes,
        SLURM_NTASKS_PER_NODE=tasks,
        SLURM_GPUS_ON_NODE='4',
    )[2]
    command = shlex.split(said.splitlines()[0])
    assert [word for word in command if word.startswith('JAX_')] == ids
    assert ('--distributed' in command) == distributed
    assert '--gpu-bind=none' in command
    assert 'XLA_FLAGS=--xla_gpu_enable_latency_hiding_scheduler=true' in command
    assert not set(ALLOCATOR) & set(command)


def test_slurm_refuses_tasks_that_are_neither_one_a_node_nor_one_a_gpu(run: Run) -> None:
    code, started, said = run(TRAIN, SLURM_NTASKS_PER_NODE='3', SLURM_GPUS_ON_NODE='4')
    assert (code, started) == (1, [])
    assert said.count('\n') == 1
    assert '--ntasks-per-node=3' in said


def test_slurm_eval_follows_the_training_on_the_same_conventions(run: Run) -> None:
    code, started, said = run(EVAL, '--dry-run', '--config.eval.timeout=9', WORKDIR='runs/a')
    assert (code, started) == (0, [])
    command = shlex.split(said.splitlines()[0])
    assert command[0] == 'srun'
    assert command[command.index('--workdir=runs/a') + 1 :] == [
        *('--mode=eval', '--config.eval.follow=true', '--config.eval.timeout=9')
    ]
    code, started, _ = run(EVAL, codes='75', SLURM_JOB_ID='17')
    assert (code, started[1:]) == (75, ['scontrol requeue 17'])


def test_the_released_weights_are_trained_in_stages_each_from_the_one_before(run: Run) -> None:
    stages = {'SIZES': '32 64 128', 'STEPS': '5 6 7', 'TRAIN': 'my photos', 'VAL': 'b'}
    stages |= {'ENCODER': 'e.safetensors', 'FEATURES': 'c.npz'}
    code, started, said = run(ROOT / 'tools/train_released.sh', '--dry-run', RUNS='r', **stages)
    assert (code, started) == (0, [])
    *trainings, release = [shlex.split(line) for line in said.splitlines()]
    starts = ('', 'init_from=r/0-32', 'init_from=r/1-64')
    rows = zip(trainings, (0, 1, 2), (32, 64, 128), (5, 6, 7), starts, strict=True)
    for line, stage, size, steps, start in rows:
        assert f'WORKDIR=r/{stage}-{size}' in line
        config = 'configs/best.py:keep_hints' if stage else 'configs/best.py:continue'
        assert f'CONFIG={config}' in line
        wanted = {
            'data.size': size,
            'steps': steps,
            'data.source': 'my photos',
            'pretrained.efficientnet_lite': 'e.safetensors',
        }
        flags = {f'--config.{name}={value}' for name, value in wanted.items()}
        assert flags <= set(line)
        assert [f for f in line if 'init_from' in f] == ([f'--config.{start}'] if start else [])
    assert '--workdir=r/2-128' in release


@pytest.mark.parametrize(
    ('settings', 'sentence'),
    [
        ({'TRAIN': 'a'}, 'TRAIN or VAL is not set: set both to photographs, see --help'),
        (
            {'TRAIN': 'a', 'VAL': 'b'},
            'ENCODER or FEATURES is not set: set both to files of weights, see --help',
        ),
        (
            {
                **{'TRAIN': 'a', 'VAL': 'b', 'ENCODER': 'c', 'FEATURES': 'd'},
                **{'SIZES': '64', 'STEPS': '1 2'},
            },
            'SIZES has 1 stages and STEPS 2',
        ),
    ],
)
def test_weights_are_not_trained_on_half_a_description(
    run: Run, settings: Mapping[str, str], sentence: str
) -> None:
    code, started, said = run(ROOT / 'tools/train_released.sh', **settings)
    assert (code, started) == (1, [])
    assert sentence in said
