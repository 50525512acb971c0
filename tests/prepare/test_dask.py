"""Preparation on a Dask cluster: a scheduler and three worker processes, one of which is killed."""

import contextlib
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import skimage.data
from PIL import Image

from chromagan_jax.prepare.__main__ import main
from tests.integration.emulators import free_port

pytest.importorskip('apache_beam', reason='needs Beam: pip install -e ".[prepare]"')
pytest.importorskip('distributed', reason='needs Dask: pip install -e ".[prepare-test]"')

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope='module')
def pile(tmp_path_factory):
    """400 crops of photographs, some of which overlap."""
    folder = tmp_path_factory.mktemp('pile')
    for name in ('astronaut', 'chelsea', 'coffee', 'rocket'):
        image = Image.fromarray(getattr(skimage.data, name)()).resize((640, 480))
        for index in range(100):
            left, top = index % 10 * 40, index // 10 * 30
            image.crop((left, top, left + 240, top + 200)).save(folder / f'{name}{index:02d}.png')
    return folder


@pytest.fixture(scope='module')
def local(pile, tmp_path_factory):
    """The data set that Beam's local runner makes."""
    output = tmp_path_factory.mktemp('local') / 'pile'
    assert main(['prepare', '--workers=1', f'--input={pile}', f'--output={output}']) == 0
    return output


@pytest.fixture
def cluster(tmp_path):
    """The address of a scheduler, and its three worker processes."""
    address = f'tcp://127.0.0.1:{free_port()}'
    log = (tmp_path / 'dask.log').open('wb')

    def start(role, *arguments):
        command = [sys.executable, '-m', f'distributed.cli.dask_{role}', *arguments]
        return subprocess.Popen([*command, '--no-dashboard'], cwd=ROOT, stdout=log, stderr=log)

    with contextlib.ExitStack() as stack:
        stack.callback(log.close)
        processes = [start('scheduler', '--host=127.0.0.1', f'--port={address.rpartition(":")[2]}')]
        processes += [
            start('worker', address, '--nthreads=1', f'--local-directory={tmp_path / str(number)}')
            for number in range(3)
        ]
        for process in processes:
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield address, processes[1:]


def start_prepare(pile, output, address):
    command = [sys.executable, '-m', 'chromagan_jax.prepare', f'--input={pile}']
    runner = ['--runner=DaskRunner', f'--dask_client_address={address}', '--dask_npartitions=6']
    return subprocess.Popen([*command, f'--output={output}', '--', *runner], cwd=ROOT)


def contents(folder):
    paths = sorted(path for path in folder.rglob('*') if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.cluster
@pytest.mark.parametrize('killed', [0, 1], ids=['no worker is killed', 'one is killed'])
def test_a_dask_cluster_makes_the_same_data_set(pile, local, cluster, tmp_path, killed):
    address, workers = cluster
    output = tmp_path / 'out'
    process = start_prepare(pile, output, address)
    marks = tmp_path / '.out.incomplete' / 'staging' / 'done'
    while not any(mark.stat().st_size for mark in marks.glob('*')) and process.poll() is None:
        time.sleep(0.01)
    assert process.poll() is None
    for worker in workers[:killed]:
        worker.send_signal(signal.SIGKILL)
    assert process.wait() == 0
    assert contents(output) == contents(local)


@pytest.mark.parametrize(
    ('runner', 'sentence'),
    [
        (['--runner=NoRunner'], 'Beam refuses the arguments after --: Unexpected pipeline runner'),
        (
            [
                '--runner=DaskRunner',
                '--dask_client_address=tcp://127.0.0.1:1',
                '--dask_connection_timeout=1',
            ],
            "Beam's runner failed: Timed out trying to connect to tcp://127.0.0.1:1 after 1 s",
        ),
    ],
    ids=['unknown', 'no scheduler'],
)
def test_a_runner_that_cannot_start_ends_in_one_sentence(pile, tmp_path, capsys, runner, sentence):
    output = tmp_path / 'out'
    assert main(['prepare', f'--input={pile}', f'--output={output}', '--', *runner]) == 1
    assert f'chromagan_jax: {sentence}' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
