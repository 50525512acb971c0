"""Runs whose workdir is in a bucket: killed, in two processes, and through a server that fails."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration import emulators
from tests.integration.emulators import Store
from tests.integration.test_resume import (
    ROOT,
    RUN,
    STEPS,
    assert_same_run,
    finish,
    metrics,
    said_by,
    wait_for,
)

Process = subprocess.Popen[str]
Start = Callable[..., Process]
EXTRAS = {'gs': ('gcsfs', 'gcp_storage_emulator'), 's3': ('s3fs', 'moto')}
ALL = [f'--config.steps={STEPS}']


@pytest.fixture(params=['gs', 's3'])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty bucket."""
    for package in EXTRAS[request.param]:
        pytest.importorskip(package)
    with emulators.serve(request.param, tmp_path / 'emulator.log') as opened:
        yield opened


@pytest.fixture(scope='module')
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of an undisturbed run in a local folder."""
    workdir = tmp_path_factory.mktemp('local')
    finish(workdir, *ALL)
    return workdir


@pytest.fixture
def start(store: Store) -> Iterator[Start]:
    """Starts the main command; nothing is left running when a test fails."""
    processes: list[Process] = []

    def start_(workdir: str, *flags: str, run: tuple[str, ...] = RUN) -> Process:
        processes.append(
            subprocess.Popen(
                [sys.executable, '-m', 'chromagan_jax.main', *run, f'--workdir={workdir}', *flags],
                cwd=ROOT,
                env=os.environ | store.env | {'XLA_FLAGS': ''},  # one device
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return processes[-1]

    yield start_
    for process in processes:
        process.kill()
        process.wait()
        said_by(process).close()


def end(process: Process, code: int = 0) -> str:
    said = process.communicate(timeout=300)[1]
    assert process.returncode == code, said
    assert 'Traceback' not in said
    return said


def is_save(path: str, step: int) -> bool:
    """Whether a request is about the checkpoint of a step."""
    return f'/checkpoints/{step}/' in path.replace('%2F', '/')


@pytest.mark.slow
def test_a_run_killed_in_the_middle_of_a_save_ends_in_the_bits_of_a_local_one(
    store: Store, start: Start, local: Path, tmp_path: Path
) -> None:
    reached, killed = threading.Event(), threading.Event()

    def hold(method: str, path: str) -> None:
        if method in ('PUT', 'POST') and is_save(path, 6) and '/d/' in path.replace('%2F', '/'):
            reached.set()
            killed.wait(60)

    store.proxy.fault = hold
    workdir = f'{store.root}/run'
    process = start(workdir, *ALL)
    assert reached.wait(120), end(process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    killed.set()
    store.proxy.fault = lambda method, path: None
    said = end(start(workdir, *ALL))
    assert 'resumed from step 3\n' in said
    copy = emulators.download(store, workdir, tmp_path / 'copy')
    assert_same_run(local, copy)
    assert not (copy / 'lease.json').exists()
    assert json.loads((copy / 'heartbeat.json').read_text())['phase'] == 'end'


@pytest.mark.cluster
def test_a_server_that_fails_and_hangs_during_saves_costs_time_and_no_bit(
    store: Store, start: Start, local: Path, tmp_path: Path
) -> None:
    failed = []

    def fail(method: str, path: str) -> int | None:
        if is_save(path, 3) and len(failed) < 4:
            failed.append(path)
            return 503
        if is_save(path, 6) and method != 'GET' and len(failed) < 6:
            failed.append(path)
            time.sleep(5)
        return None

    store.proxy.fault = fail
    end(start(f'{store.root}/run', *ALL))
    assert len(failed) == 6
    assert_same_run(local, emulators.download(store, f'{store.root}/run', tmp_path / 'copy'))


@pytest.mark.cluster
def test_two_processes_train_into_a_bucket(
    store: Store, start: Start, local: Path, tmp_path: Path
) -> None:
    cluster = ['--distributed', f'--coordinator=localhost:{emulators.free_port()}']
    cluster += ['--num_processes=2', '--config.steps=6', '--config.mesh.fsdp=2']
    workdir = f'{store.root}/run'
    pair = [start(workdir, *cluster, f'--process_id={number}') for number in range(2)]
    for process in pair:
        end(process)
    assert 'resumed from step 6\n' in end(start(workdir, *ALL))
    ours = metrics(emulators.download(store, workdir, tmp_path / 'copy'))
    theirs = metrics(local)
    assert [line['step'] for line in ours] == [line['step'] for line in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other, rel=1e-2, abs=1e-5)


@pytest.mark.cluster
def test_a_second_run_is_refused_while_the_first_goes_on(store: Store, start: Start) -> None:
    first = start(f'{store.root}/run', '--config.steps=100000')
    wait_for(first, 'step 2/')
    said = end(start(f'{store.root}/run', '--config.steps=100000'), code=1)
    assert said.splitlines()[-1].startswith(
        f'chromagan_jax: {store.root}/run is in use by process {first.pid} on {os.uname().nodename}'
    )
    first.send_signal(signal.SIGTERM)
    end(first, code=75)


@pytest.mark.cluster
def test_what_is_trained_in_a_bucket_is_scored_reused_and_colorizes(
    store: Store, start: Start, tmp_path: Path
) -> None:
    workdir = f'{store.root}/run'
    end(start(workdir, '--config.steps=6'))
    scored = end(start(workdir, '--mode=eval', '--config.eval.follow=true', '--config.steps=6'))
    assert 'step 6' in scored
    copy = emulators.download(store, workdir, tmp_path / 'copy')
    lines = (copy / 'metrics_eval.jsonl').read_text().splitlines()
    assert [json.loads(line)['step'] for line in lines] == [3, 6]
    assert (copy / 'samples_eval' / 'step_00000006.png').read_bytes().startswith(b'\x89PNG')
    page = (copy / 'report.html').read_text()
    assert 'Worst photographs' in page
    assert all(f'data-label="step {step}"' in page for step in (2, 4, 6))
    next_ = f'--config.init_from={workdir}'
    assert f'starts from the weights in {workdir}' in end(
        start(f'{store.root}/next', next_, '--config.steps=1')
    )
    photograph = Path(emulators.__file__).parents[2] / 'docs' / 'base.jpg'
    command = [sys.executable, '-m', 'chromagan_jax.colorize', f'--workdir={workdir}']
    for which in ('newest', 'best'):
        done = subprocess.run(
            [*command, f'--checkpoint={which}', f'--output={tmp_path / which}', photograph],
            cwd=ROOT,
            env=os.environ | store.env,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert (tmp_path / which / 'base.png').exists()


@pytest.mark.cluster
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(
    store: Store, start: Start, local: Path, tmp_path: Path
) -> None:
    workdir = f'{store.root}/run'
    end(start(workdir, '--config.steps=6'))
    damage = (
        'import sys; from chromagan_jax.utils import paths\n'
        'store = paths.filesystem(sys.argv[1])\n'
        "found = [key for key in store.find(sys.argv[1] + '/checkpoints/6') if '/d/' in key]\n"
        'largest = max(found, key=lambda key: store.size(key))\n'
        'content = bytearray(store.cat_file(largest)); content[len(content) // 2] ^= 1\n'
        'store.pipe_file(largest, bytes(content))'
    )
    emulators.run(store, damage, workdir)
    said = end(start(workdir, *ALL))
    assert 'checkpoint 6 cannot be read and is skipped' in said
    assert 'resumed from step 3\n' in said
    copy = emulators.download(store, workdir, tmp_path / 'copy')
    assert (copy / 'unreadable' / '6' / 'commit_success.txt').exists()
    assert_same_run(local, copy)


@pytest.mark.slow
def test_photographs_in_a_bucket_are_those_of_the_local_folder(
    store: Store, start: Start, tmp_path: Path
) -> None:
    photographs = tmp_path / 'photographs'
    photographs.mkdir()
    for name in ('base.jpg', 'colorized.jpg', 'compared.jpg'):
        (photographs / name).write_bytes((ROOT / 'docs' / name).read_bytes())
    (photographs / '_SUCCESS').touch()  # as Spark leaves it: empty, without a suffix
    emulators.upload(store, photographs, f'{store.root}/photographs')
    flags = ('--config.steps=4', '--config.data.workers=1')
    finish(tmp_path / 'here', *flags, f'--config.data.source={photographs}')
    end(start(f'{tmp_path}/there', *flags, f'--config.data.source={store.root}/photographs'))
    ours, theirs = metrics(tmp_path / 'there'), metrics(tmp_path / 'here')
    assert ours == theirs
    written = [json.loads((tmp_path / n / 'config.json').read_text()) for n in ('here', 'there')]
    assert written[0]['data'] == written[1]['data']


@pytest.mark.slow
def test_shards_in_a_bucket_are_copied_once_and_hold_the_same_records(
    store: Store, tmp_path: Path
) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    shards = tmp_path / 'shards'
    shards.mkdir()
    for number in range(2):
        writer = ArrayRecordWriter(str(shards / f'x-{number}.array_record'), 'group_size:1')
        for record in range(3):
            writer.write(f'{number} {record}'.encode())
        writer.close()
    emulators.upload(store, shards, f'{store.root}/shards')
    program = (
        'import sys; from chromagan_jax.data.sources import make_source\n'
        'for at in sys.argv[1:]:\n'
        '    source = make_source(at)\n'
        "    records = [source[i]['image'].decode() for i in range(len(source))]\n"
        '    print(source.fingerprint, records)'
    )
    cached = store._replace(env=store.env | {'XDG_CACHE_HOME': str(tmp_path / 'cache')})
    there = f'{store.root}/shards'
    lines = emulators.run(cached, program, shards, there, f'{there}/x-*.array_record')
    assert len(set(lines.splitlines())) == 1
    before = len([p for m, p in store.proxy.requests if 'x-0' in p])
    emulators.run(cached, program, there)
    assert len([p for m, p in store.proxy.requests if 'x-0' in p]) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    'flags',
    [
        ('--workdir={}-missing/run',),
        ('--workdir={}/none', '--mode=eval'),
        ('--workdir=/tmp/none', '--config.data.source={}-missing/photographs'),
        ('--workdir={}/new', '--config.init_from={}/none'),
    ],
)
def test_what_is_missing_in_a_bucket_is_named_in_one_sentence(
    store: Store, start: Start, flags: tuple[str, ...]
) -> None:
    workdir, *rest = (flag.format(store.root) for flag in flags)
    said = end(start(workdir.removeprefix('--workdir='), *rest, *ALL), code=1)
    assert said.splitlines()[-1].startswith('chromagan_jax: ')
    assert store.root in said.splitlines()[-1]
