"""launch/tpu_vm.sh against a gcloud that plays a TPU, and workers that are this machine."""

import json
import os
import re
import shlex
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / 'launch' / 'tpu_vm.sh'
FLAGS = [
    '--config=configs/photos.py',
    '--workdir=/mnt/volume/runs/x',
    "--config.data.source=it's a",
]

# Plays the TPU: keeps a list of its calls, takes the states from a file (the last one stays), and
# runs on this machine what the worker should run. The file `cut` makes it lose the connection once,
# while the run goes on, or before it ends, which the worker's Python waits for.
GCLOUD = """
import json, os, pathlib, subprocess, sys, time
home, arguments = pathlib.Path(os.environ['HOME']), sys.argv[1:]
with (home / 'calls').open('a') as calls:
    print(json.dumps(arguments), file=calls)
verb = arguments[3]
if verb == 'describe':
    first, *others = (home / 'states').read_text().split()
    (home / 'states').write_text(' '.join(others or [first]))
    sys.exit('ERROR: NOT_FOUND: Resource was not found') if first == 'NONE' else print(first)
if verb == 'scp':
    (home / 'chromagan_jax.tgz').write_bytes(pathlib.Path(arguments[4]).read_bytes())
if verb == 'ssh':
    command = next(a for a in arguments if a.startswith('--command=')).removeprefix('--command=')
    cut = home / 'cut'
    if 'run.lock' in command and cut.exists():
        if cut.read_text() == 'early':
            (home / 'connected').unlink()
        cut.unlink()
        with (home / 'unseen').open('w') as unseen:
            shell = subprocess.Popen(['bash', '-c', command], stdout=unseen, stderr=unseen)
            while not (home / 'started').exists():
                time.sleep(0.02)
            shell.kill()
        sys.exit('ERROR: exited with return code [255].')
    (home / 'connected').touch()
    status = subprocess.run(['bash', '-c', command]).returncode
    other = home / 'other_worker_lost'
    if 'run.lock' in command and other.exists():
        other.unlink()
        status = 255
    sys.exit(status)
"""
# Brings a Python that tells its arguments, and ends with the next code of a file.
UV = """
test "$1" = venv || exit 0
mkdir -p .venv/bin
cat >.venv/bin/python <<'END'
#!/bin/bash
echo "$@" >>~/started
test -e chromagan_jax/main.py && test -e configs/photos.py || exit 1
until [ -e ~/connected ]; do sleep 0.02; done
code=$(head -n 1 ~/codes)
sed -i 1d ~/codes
exit "$code"
END
chmod +x .venv/bin/python
"""


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Home of the stubs, and of the worker."""
    program(tmp_path / 'bin' / 'gcloud', f'#!{sys.executable} -SE\n{GCLOUD}')
    program(tmp_path / 'bin' / 'mountpoint', '#!/bin/sh\nexit 1\n')
    program(tmp_path / 'bin' / 'sudo', '#!/bin/sh\necho "$@" >>~/sudo\n')
    program(tmp_path / '.local' / 'bin' / 'uv', f'#!/bin/sh\n{UV}')
    return tmp_path


def play(
    home: Path, *arguments: str, states: str = 'READY', codes: str = '0', **variables: str
) -> subprocess.CompletedProcess[str]:
    (home / 'states').write_text(states)
    (home / 'codes').write_text(codes.replace(' ', '\n') + '\n')
    return subprocess.run(
        [SCRIPT, *(arguments or FLAGS)],
        env={
            'PATH': f'{home}/bin:{os.environ["PATH"]}',
            'HOME': str(home),
            'SHARE': '10.0.0.2:/volume',
            'PAUSE': '0',
            **variables,
        },
        capture_output=True,
        text=True,
        timeout=60,
    )


def calls(home: Path) -> list[str]:
    """The verbs that gcloud was called with, but for looks at the state."""
    path = home / 'calls'
    verbs = [json.loads(line)[3] for line in path.read_text().splitlines()] if path.exists() else []
    return [verb for verb in verbs if verb != 'describe']


INSTALL, START = ['scp', 'ssh'], ['ssh']


def test_a_run_that_ends_with_75_or_is_killed_is_started_again_and_installed_once(
    home: Path,
) -> None:
    done = play(home, codes='75 134 0')
    assert done.returncode == 0, done.stderr
    assert calls(home) == [*INSTALL, *START * 3]
    words = ' '.join(['-m chromagan_jax.main', *FLAGS, '--distributed'])
    assert (home / 'started').read_text() == f'{words}\n' * 3
    assert '10.0.0.2:/volume /mnt/volume' in (home / 'sudo').read_text()


def test_a_preempted_tpu_is_deleted_created_and_installed_anew(home: Path) -> None:
    done = play(home, states='READY PREEMPTED CREATING READY', codes='137 0', SPOT='true')
    assert done.returncode == 0, done.stderr
    assert calls(home) == [*INSTALL, *START, 'delete', 'create', *INSTALL, *START]
    assert '"--spot"' in (home / 'calls').read_text()


def test_a_tpu_that_is_missing_is_created_and_deleted_at_the_end_if_asked(home: Path) -> None:
    assert play(home, states='NONE READY', DELETE='true').returncode == 0
    assert calls(home) == ['create', *INSTALL, *START, 'delete']
    assert '"--spot"' not in (home / 'calls').read_text()


@pytest.mark.parametrize('code', [1, 3])
def test_a_mistake_and_divergence_end_it_at_once(home: Path, code: int) -> None:
    assert play(home, codes=f'{code} 0').returncode == code
    assert calls(home) == [*INSTALL, *START]


@pytest.mark.parametrize(
    ('cut', 'code'),
    [
        ('early', 3),
        ('late', 0),
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in [('early', 0), ('late', 3)]),
    ],
)
def test_a_lost_connection_loses_neither_the_run_nor_its_end(
    home: Path, cut: str, code: int
) -> None:
    (home / 'cut').write_text(cut)
    done = play(home, codes=f'{code} 1')
    assert done.returncode == code, done.stderr
    assert calls(home) == [*INSTALL, *START, *START]
    assert len((home / 'started').read_text().splitlines()) == 1


def test_a_run_is_done_only_when_every_worker_says_so(home: Path) -> None:
    (home / 'other_worker_lost').touch()
    assert play(home, codes='0 0').returncode == 0
    assert calls(home) == [*INSTALL, *START, *START]


def test_it_gives_up_after_so_many_tries(home: Path) -> None:
    done = play(home, codes='75 0', TRIES='1')
    assert done.returncode == 1
    assert 'gave up after 1 tries' in done.stderr
    assert calls(home) == [*INSTALL, *START]


@pytest.mark.parametrize(
    ('variables', 'workdir', 'sentence'),
    [
        ({'SHARE': ''}, '/mnt/volume/x', 'The workdir must be in a bucket or on a share'),
        ({'SHARE': 'gs://bucket'}, '/mnt/volume/x', 'SHARE must name an NFS share'),
        ({}, 's3://bucket/x', 'or in a bucket: --workdir=/mnt/volume/'),
        ({'MOUNT': '/data'}, '/mnt/volume/x', 'or in a bucket: --workdir=/data/'),
    ],
)
def test_a_workdir_that_would_not_outlive_the_tpu_is_refused(
    home: Path, variables: dict[str, str], workdir: str, sentence: str
) -> None:
    done = play(home, f'--workdir={workdir}', **variables)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert calls(home) == []


def test_a_workdir_in_a_bucket_needs_no_share(home: Path) -> None:
    flags = ['--config=configs/photos.py', '--workdir=gs://bucket/runs/x']
    done = play(home, *flags, SHARE='')
    assert done.returncode == 0, done.stderr
    assert calls(home) == [*INSTALL, *START]
    assert not (home / 'sudo').exists()  # nothing is mounted
    assert 'gs://bucket/runs/x' in (home / 'started').read_text()


def test_the_dry_run_prints_what_is_run_and_runs_nothing(home: Path) -> None:
    dry = play(home, '--dry-run', *FLAGS, PROJECT='mine', DELETE='true')
    assert dry.returncode == 0, dry.stderr
    assert calls(home) == []
    assert play(home, states='NONE READY', PROJECT='mine', DELETE='true').returncode == 0
    ran = [json.loads(line) for line in (home / 'calls').read_text().splitlines()]
    ran = [call for i, call in enumerate(ran) if call not in ran[:i]]  # the state is asked twice
    temporary = re.compile(r'\S*/chromagan_jax\.tgz$')
    printed = [
        [temporary.sub('TREE', word) for word in shlex.split(command)[1:]]
        for command in re.split(r'^\+ ', dry.stdout, flags=re.M)
        if command.startswith('gcloud')
    ]
    assert printed == [[temporary.sub('TREE', word) for word in call] for call in ran]


def test_the_copied_tree_is_what_the_package_is_installed_from(home: Path) -> None:
    assert play(home).returncode == 0
    with tarfile.open(home / 'chromagan_jax.tgz') as tree:
        names = tree.getnames()
    assert {'setup.cfg', 'pyproject.toml', 'chromagan_jax/main.py', 'configs/base.py'} <= set(names)


def test_the_help_names_every_variable(home: Path) -> None:
    done = play(home, '--help')
    assert done.returncode == 0
    declared = set(re.findall(r'^([A-Z]+)=\$\{', SCRIPT.read_text(), re.M))
    assert declared == {'NAME', 'ZONE', 'PROJECT', 'ACCELERATOR', 'VERSION', 'SPOT', 'SHARE',
                        'MOUNT', 'DELETE', 'PAUSE', 'TRIES'}  # fmt: skip
    assert all(re.search(rf'^{name}=', done.stdout, re.M) for name in declared)
    assert done.stdout.startswith('Trains on a Cloud TPU VM')
