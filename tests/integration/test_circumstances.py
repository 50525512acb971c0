"""Ordinary circumstances of machines, through the commands: what works, and what is a sentence."""

import ipaddress
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image
from skimage import data

from tests.utils import shim

ROOT = Path(__file__).parents[2]
NAMELESS = ('unshare', '--user', '--map-user=12345', '--map-group=12345')  # a user without rights
CACHE = 'JAX_COMPILATION_CACHE_DIR'  # takes the place of --compilation_cache
SMALL = (
    f'--config={ROOT}/configs/base.py:tiny',
    '--config.data.size=16',
    '--config.generator.depth=3',
    '--config.discriminator.layers=1',
    '--config.discriminator_steps=1',
    '--config.eval_every=0',
    '--config.sample_every=0',
    '--config.steps=2',
)

pytestmark = pytest.mark.slow


def environment(home, **more):
    """Of a command: a home folder of its own, no proxies and no cluster."""
    foreign = ('SLURM_', 'OMPI_')
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(foreign) and not name.lower().endswith('_proxy')
    }
    variables = {'XLA_FLAGS': '--xla_backend_optimization_level=0', 'PYTHONPATH': str(ROOT)}
    return kept | variables | {'HOME': str(home)} | more


@pytest.fixture
def start(tmp_path):
    """Starts a command in the folder of the test; ends what is left of it."""
    processes = []
    (tmp_path / 'home').mkdir()

    def start_(module, *arguments, prefix=(), unset=(), **more):
        variables = environment(tmp_path / 'home', **more)
        for name in unset:
            variables.pop(name, None)
        process = subprocess.Popen(
            [*prefix, sys.executable, '-m', f'chromagan_jax.{module}', *map(str, arguments)],
            cwd=tmp_path,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start_
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def run(start):
    """Runs a command to its end; returns what it says on standard error."""

    def run_(module, *arguments, code=0, **options):
        process = start(module, *arguments, **options)
        said = process.communicate(timeout=300)[1]
        assert process.returncode == code, said
        assert 'Traceback' not in said
        return said

    return run_


@pytest.fixture
def nameless():
    """The prefix of a command that runs as a user id without a name and without rights."""
    if shutil.which('unshare') is None or subprocess.run([*NAMELESS, 'true']).returncode:
        pytest.skip('user namespaces are needed')
    return NAMELESS


@pytest.fixture
def photographs(tmp_path):
    """A folder of three photographs in colour."""
    folder = tmp_path / 'photographs'
    folder.mkdir()
    for name in ('astronaut', 'coffee', 'chelsea'):
        Image.fromarray(getattr(data, name)()[::4, ::4].copy()).save(folder / f'{name}.jpg')
    return folder


def sentences(said):
    return [line for line in said.splitlines() if line.startswith('chromagan_jax: ')]


# Paths and users


def test_a_tilde_is_the_home_folder(run, photographs, tmp_path):
    home = tmp_path / 'home'
    photographs.rename(home / 'photographs')
    shutil.copy(ROOT / 'configs/base.py', home / 'mine.py')
    run(
        'main',
        *SMALL,
        '--config=~/mine.py:tiny',
        '--workdir=~/run',
        '--compilation_cache=~/xla',
        '--config.data.source=~/photographs',
        unset=[CACHE],
    )
    assert json.loads((home / 'run/config.json').read_text())['data']['records'] == 3
    assert list((home / 'xla').iterdir())
    run('main', *SMALL, '--config=~/mine.py:tiny', '--workdir=~/next', '--config.init_from=~/run')
    run(
        *('colorize', '--workdir=~/run', '--output=~/out', '--report=~/report.html'),
        home / 'photographs',
    )
    assert len(list((home / 'out').iterdir())) == 3
    assert (home / 'report.html').exists()
    assert {path.name for path in tmp_path.iterdir()} == {'home'}


def test_a_tilde_without_a_home_folder_is_a_sentence(run, nameless):
    said = run(
        *('main', *SMALL, '--workdir=~/run'), code=1, prefix=nameless, unset=['HOME', 'USER']
    )
    assert said.startswith('chromagan_jax: ~/run cannot be found (')
    assert 'write the whole path, without ~' in said


def test_a_user_without_a_name_and_a_home_trains_and_colorizes(
    run, photographs, tmp_path, nameless
):
    unset = ['HOME', 'USER', 'LOGNAME', CACHE]
    said = run('main', *SMALL, '--workdir=run', prefix=nameless, unset=unset)
    assert said.startswith('no cache of compiled functions, ~/.cache/chromagan_jax/xla cannot')
    run('colorize', '--output=out', photographs, prefix=nameless, unset=unset)
    assert len(list((tmp_path / 'out').iterdir())) == 3


def test_a_home_and_data_that_cannot_be_written_are_enough(run, photographs, tmp_path, nameless):
    for folder in (tmp_path / 'home', photographs):
        folder.chmod(0o555)
    said = run(
        *('main', *SMALL, '--workdir=run', f'--config.data.source={photographs}'),
        prefix=nameless,
        unset=[CACHE],
    )
    (line,) = (line for line in said.splitlines() if 'no cache' in line)
    assert 'cannot be written (Permission denied): --compilation_cache names another' in line
    assert 'Warning' not in said
    assert len(list(photographs.iterdir())) == 3


# Data


def test_gray_photographs_are_told_and_lead_to_prepare(run, photographs):
    for path in photographs.iterdir():
        Image.open(path).convert('L').save(path)
    said = run('main', *SMALL, '--workdir=run', f'--config.data.source={photographs}')
    (line,) = (line for line in said.splitlines() if ' are gray' in line)
    assert f'photographs of {photographs} are gray, and teach no colours' in line
    assert 'chromagan_jax.prepare' in line


@pytest.mark.parametrize('location', ['data', 'data/train.tfrecord-00000-of-00001'])
def test_tfrecord_is_a_sentence_that_names_the_right_format(location, run, tmp_path):
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/train.tfrecord-00000-of-00001').write_bytes(b'')
    said = run('main', *SMALL, '--workdir=run', f'--config.data.source={location}', code=1)
    (sentence,) = said.splitlines()
    assert f'{location} is stored as tfrecord, which has no random access' in sentence
    assert '--file_format=array_record' in sentence


# File systems


def test_a_full_inode_table_is_a_sentence_and_loses_nothing(run, tmp_path):
    mount = (
        *('unshare', '--user', '--map-root-user', '--mount', 'sh', '-c'),
        'mount -t tmpfs -o nr_inodes=$INODES none run && cp -r saved/. run && "$@"; code=$?; '
        'rm -rf saved; cp -r run saved; exit $code',
        'sh',
    )
    for name in ('run', 'saved'):
        (tmp_path / name).mkdir()
    if subprocess.run([*mount, 'true'], cwd=tmp_path, env=os.environ | {'INODES': '50'}).returncode:
        pytest.skip('user namespaces are needed')
    arguments = (*SMALL, '--workdir=run', '--config.checkpoint_every=1')
    run('main', *arguments, prefix=mount, INODES='1000')
    saved = sorted(path.name for path in (tmp_path / 'saved/checkpoints').iterdir())
    used = len(list((tmp_path / 'saved').rglob('*')))
    said = run('main', *arguments, '--config.steps=6', code=1, prefix=mount, INODES=str(used + 8))
    (sentence,) = sentences(said)
    assert 'cannot be written (No space left on device): free disk space' in sentence
    assert {path.name for path in (tmp_path / 'saved/checkpoints').iterdir()} >= {saved[-1]}
    said = run('main', *arguments, '--config.steps=6', prefix=mount, INODES='1000')
    assert 'resumed from step ' in said


def test_a_file_system_without_locks_and_links_is_enough(run, photographs, tmp_path):
    library = shim.without_locks(tmp_path)
    arguments = (*SMALL, '--workdir=run', f'--config.data.source={photographs}')
    run('main', *arguments, LD_PRELOAD=library)
    said = run('main', *arguments, '--config.steps=3', LD_PRELOAD=library)
    assert 'resumed from step 2' in said
    run('colorize', '--workdir=run', '--output=out', photographs, LD_PRELOAD=library)
    assert len(list((tmp_path / 'out').iterdir())) == 3


# Two at once


def test_a_second_training_is_refused_and_the_first_goes_on(start, run, tmp_path):
    arguments = (*SMALL, '--workdir=run', '--config.steps=100000', '--config.log_every=1')
    arguments += ('--config.checkpoint_every=2',)
    first = start('main', *arguments)
    for line in first.stderr:
        if line.startswith('step 5/'):
            break
    said = run('main', *arguments, code=1)
    (sentence,) = said.splitlines()
    assert f'run is in use by process {first.pid} on {socket.gethostname()}: ' in sentence
    run('main', *arguments, '--mode=eval')
    assert (tmp_path / 'run/metrics_eval.jsonl').exists()
    first.send_signal(signal.SIGTERM)
    said = first.communicate(timeout=120)[1]
    assert first.returncode == 75, said
    assert not (tmp_path / 'run/lock.json').exists()


def test_a_killed_run_is_started_again_at_once(start, run, tmp_path):
    arguments = (*SMALL, '--workdir=run', '--config.checkpoint_every=1', '--config.log_every=1')
    first = start('main', *arguments, '--config.steps=100000')
    for line in first.stderr:
        if line.startswith('step 3/'):
            break
    first.kill()
    first.communicate()
    assert (tmp_path / 'run/lock.json').exists()
    steps = json.loads((tmp_path / 'run/metrics.jsonl').read_text().splitlines()[-1])['step'] + 2
    said = run('main', *arguments, f'--config.steps={steps}')
    assert 'resumed from step' in said
    assert 'lock.json' not in said


def test_two_colorize_runs_share_the_work(start, tmp_path):
    folder, names = tmp_path / 'photographs', [f'{number}.jpg' for number in range(16)]
    folder.mkdir()
    for name in names:
        Image.fromarray(data.coffee()).save(folder / name)
    command = ('colorize', '--output=out', '--json', '--threads=2', folder)
    first = start(*command)
    line = first.stdout.readline()
    first.send_signal(signal.SIGSTOP)  # so that the second run finds work, however late it starts
    last = tmp_path / 'out' / sorted(names)[-1].replace('jpg', 'png')
    assert not last.exists()
    second = start(*command)
    while not last.exists():
        assert second.poll() is None, second.communicate()[1]
        threading.Event().wait(0.05)
    first.send_signal(signal.SIGCONT)
    made = []
    for process, before in ((first, line), (second, '')):
        out, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
        told = [json.loads(line) for line in (before + out).splitlines()]
        assert len(told) == len(names)
        made.append({line['result'] for line in told if line['status'] == 'colorized'})
    assert all(made)
    assert not made[0] & made[1], 'a photograph was colorized twice'
    assert len(made[0] | made[1]) == len(names)
    assert {path.name for path in (tmp_path / 'out').iterdir()} == {
        name.replace('jpg', 'png') for name in names
    }
    for path in (tmp_path / 'out').iterdir():
        Image.open(path).load()


def test_the_photographs_of_a_killed_colorize_run_are_made_by_the_other(start, tmp_path):
    folder = tmp_path / 'photographs'
    folder.mkdir()
    for number in range(12):
        Image.fromarray(data.coffee()).save(folder / f'{number}.jpg')
    first = start('colorize', '--output=out', '--json', '--threads=2', folder)
    second = start('colorize', '--output=out', '--json', '--threads=2', folder)
    first.stdout.readline()
    first.kill()
    said = second.communicate(timeout=300)[1]
    assert second.returncode == 0, said
    assert len(list((tmp_path / 'out').glob('[!.]*'))) == 12
    assert not list((tmp_path / 'out').glob('.*'))


# Clusters


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(('', 0))
        return probe.getsockname()[1]


def test_missing_processes_are_named(start, port):
    flags = (*SMALL, '--workdir=run', '--distributed', '--num_processes=3', '--startup_timeout=8')
    flags += (f'--coordinator=localhost:{port}',)
    both = [start('main', *flags, f'--process_id={number}') for number in (0, 2)]
    for process in both:
        said = process.communicate(timeout=60)[1]
        assert process.returncode == 75, said
        assert said.startswith('chromagan_jax: process 1 of 3 has not started within 8 s ')


@pytest.fixture
def host():
    """An address of this machine in a network: those of loopback need no proxy."""
    with socket.socket(type=socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(('192.0.2.1', 9))  # chooses an address and sends nothing
        except OSError:
            pytest.skip('a network address is needed')
        address = probe.getsockname()[0]
    if ipaddress.ip_address(address).is_loopback:
        pytest.skip('a network address is needed')
    return address


def test_a_late_process_joins_and_proxies_are_not_asked(start, host, port, tmp_path):
    """Every proxy variable names a listener: nothing connects to it."""
    calls, stop = [], threading.Event()
    with socket.create_server(('127.0.0.1', 0)) as server:
        server.settimeout(0.2)

        def listen():
            while not stop.is_set():
                try:
                    server.accept()[0].close()
                    calls.append(1)
                except TimeoutError:
                    pass

        thread = threading.Thread(target=listen)
        thread.start()
        url = f'http://127.0.0.1:{server.getsockname()[1]}'
        names = ('http_proxy', 'https_proxy', 'all_proxy', 'grpc_proxy')
        proxies = {each: url for name in names for each in (name, name.upper())}
        flags = (*SMALL, '--workdir=run', '--distributed', '--num_processes=2')
        flags += (f'--coordinator={host}:{port}', '--startup_timeout=120')
        try:
            with socket.create_server((host, port)) as early:  # is not process 0, and ends
                early.settimeout(300)
                first = start('main', *flags, '--process_id=1', **proxies)
                with early.accept()[0] as connection:
                    assert connection.makefile().readline() == 'chromagan_jax process 1\n'
            assert first.poll() is None
            second = start('main', *flags, '--process_id=0', **proxies)
            for process in (first, second):
                said = process.communicate(timeout=300)[1]
                assert process.returncode == 0, said
        finally:
            stop.set()
            thread.join()
    assert not calls
    assert (tmp_path / 'run/checkpoints/2').exists()


def test_a_second_run_of_several_processes_is_refused_in_all_of_them(start, port, tmp_path):
    first = start('main', *SMALL, '--workdir=run', '--config.steps=100000')
    for line in first.stderr:
        if line.startswith('compiled'):
            break
    flags = (*SMALL, '--workdir=run', '--distributed', '--num_processes=2')
    flags += (f'--coordinator=localhost:{port}',)
    pair = [start('main', *flags, f'--process_id={number}') for number in range(2)]
    said = []
    for process in pair:
        said.append(process.communicate(timeout=120)[1])
        assert process.returncode == 1, said
    assert f'run is in use by process {first.pid} on ' in said[0]
    assert 'Another process cannot start: its message says why' in said[1]
    assert first.poll() is None


def test_a_shell_in_a_slurm_job_trains_in_one_process_and_is_told_about_srun(run):
    shell = {'SLURM_JOB_ID': '12', 'SLURM_NTASKS': '4', 'SLURM_JOB_NODELIST': 'n[1-4]'}
    run('main', *SMALL, '--workdir=run', **shell)
    said = run('main', *SMALL, '--workdir=run', '--distributed', code=1, **shell)
    assert sentences(said) == said.splitlines()
    assert 'put srun before the command' in said


@pytest.mark.parametrize('platform', ['nonsense', 'tpu'])
def test_a_kind_of_device_that_is_missing_is_a_sentence(platform, run, photographs):
    for module, arguments in (('main', SMALL), ('colorize', ['--output=out', photographs])):
        said = run(module, *arguments, code=1, JAX_PLATFORMS=platform)
        assert f'JAX finds no device for JAX_PLATFORMS={platform}: unset it, or' in said


def test_help_shows_the_flags_of_the_command_first(start):
    for module, flag in (('main', '--config=FILE'), ('colorize', '--output')):
        process = start(module, '--help')
        out, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
        first = next(line for line in out.splitlines() if line.startswith('  --'))
        assert first.split()[0] == flag
        assert '--logtostderr' not in out
