"""Real processes over loopback: they do what one process does, and end when one of them does."""

import itertools
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import skimage.data

from chromagan_jax.utils import files, lock

ROOT = pathlib.Path(__file__).parents[2]
CLOCK = ('images_per_second', 'waiting_for_data', 'goodput/')  # metrics that the clock has a say in


@pytest.fixture
def start():
    """Starts a process of the main command; none is left behind when a test fails."""
    processes = []

    def start_(workdir, *arguments, devices=1):
        flags = f'--xla_force_host_platform_device_count={devices}'
        command = [sys.executable, '-m', 'chromagan_jax.main', '--config=configs/base.py:tiny']
        command += [f'--workdir={workdir}', '--config.generator.dropout=0.5', *arguments]
        processes.append(
            subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | {'XLA_FLAGS': f'{flags} --xla_backend_optimization_level=0'},
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return processes[-1]

    yield start_
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def start_pair(start):
    """Starts two processes of one run."""

    def start_pair_(workdir, *arguments, devices=1):
        with socket.socket() as probe:
            probe.bind(('localhost', 0))
            port = probe.getsockname()[1]
        cluster = ['--distributed', f'--coordinator=localhost:{port}', '--num_processes=2']
        return [
            start(workdir, *cluster, f'--process_id={number}', *arguments, devices=devices)
            for number in range(2)
        ]

    return start_pair_


def end(*processes, code=0):
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [code] * len(processes), errors
    return errors


def wait_for(process, words):
    """Reads what a process says until a line starts with `words`."""
    log = []
    for line in process.stderr:
        if line.startswith(words):
            return
        log.append(line)
    raise AssertionError(f'It ended without {words!r}:\n{"".join(log)}')


def lines_of(path):
    return [json.loads(line) for line in path.open()]


def assert_same_lines(ours, theirs):
    ours, theirs = lines_of(ours), lines_of(theirs)
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for name in (name for name in a if not name.startswith(CLOCK)):
            np.testing.assert_allclose(a[name], b[name], rtol=1e-2, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_two_processes_follow_the_trajectory_of_one_and_hand_over_to_it(
    start, start_pair, tmp_path
):
    (said,) = end(start(tmp_path / 'one', '--config.steps=6', devices=4))
    assert 'goodput' in said
    quiet = end(*start_pair(tmp_path / 'two', devices=2))[1]  # four steps
    assert 'step' not in quiet  # the second process shows nothing
    (resumed,) = end(start(tmp_path / 'two', '--config.steps=6'))
    assert 'resumed from step 4' in resumed
    # The run of four steps evaluated at its end, as the long one does at its cadence.
    assert_same_lines(tmp_path / 'two/metrics.jsonl', tmp_path / 'one/metrics.jsonl')
    heartbeat = json.loads((tmp_path / 'two/heartbeat.json').read_text())
    assert (heartbeat['step'], heartbeat['phase']) == (6, 'end')


@pytest.mark.cluster
def test_a_run_goes_on_whatever_the_processes_and_devices(start, start_pair, tmp_path):
    sharded, steps = '--config.mesh.fsdp=2', '--config.steps={}'.format
    end(start(tmp_path / 'whole', steps(6)))
    end(start(tmp_path / 'parts', steps(2), sharded, devices=8))
    end(*start_pair(tmp_path / 'parts', steps(4), devices=2))
    end(start(tmp_path / 'parts', steps(6)))
    assert_same_lines(tmp_path / 'parts/metrics.jsonl', tmp_path / 'whole/metrics.jsonl')


@pytest.mark.cluster
def test_two_processes_score_what_one_scores_and_follow_a_run_to_its_end(
    start, start_pair, tmp_path, features
):
    end(start(tmp_path))
    alone = tmp_path / 'metrics_eval.jsonl'
    flags = ('--mode=eval', f'--config.eval.features={features}')
    end(start(tmp_path, *flags))
    by_one = lines_of(alone)[-1]
    assert by_one['eval/frechet_of_gray'] > 0
    alone.unlink()
    end(*start_pair(tmp_path, *flags, '--config.eval.follow=True'))
    assert [line['step'] for line in lines_of(alone)] == [2, 4]
    assert lines_of(alone)[-1] == pytest.approx(by_one, rel=1e-4)


@pytest.mark.cluster
def test_ctrl_c_in_one_process_stops_all_at_the_same_step(start_pair, tmp_path):
    first, second = start_pair(tmp_path, '--config.steps=10000')
    wait_for(first, 'step 3/')
    second.send_signal(signal.SIGINT)  # which becomes a SIGTERM
    sentences = [said.strip().splitlines()[-1] for said in end(first, second, code=75)]
    assert sentences[0] == sentences[1]
    assert sentences[0].startswith('chromagan_jax: stopped at step ')


@pytest.mark.cluster
@pytest.mark.parametrize('killed', [0, 1])
def test_where_one_process_dies_the_other_ends_soon_and_says_so(killed, start_pair, tmp_path):
    pair = start_pair(tmp_path, '--config.steps=10000')
    wait_for(pair[0], 'step 3/')
    pair[killed].kill()
    said = pair[1 - killed].communicate(timeout=60)[1]
    assert pair[1 - killed].returncode in (75, -signal.SIGABRT), said
    assert 'another process ended' in said or 'another task died' in said


@pytest.mark.cluster
def test_a_mistake_of_one_process_alone_is_shown_and_ends_both(start, tmp_path):
    with socket.socket() as probe:
        probe.bind(('localhost', 0))
        cluster = f'--coordinator=localhost:{probe.getsockname()[1]}'
    flags = ['--distributed', cluster, '--num_processes=2', '--config.stall_timeout=600']
    good = start(tmp_path, *flags, '--process_id=1')
    bad = start(tmp_path, *flags, '--process_id=0', '--config.data.source=/no/such/folder')
    said = bad.communicate(timeout=90)[1]
    assert bad.returncode == 1, said
    assert said.startswith('chromagan_jax: ')
    assert '/no/such/folder' in said
    assert 'Traceback' not in said
    said = good.communicate(timeout=60)[1]
    assert good.returncode == 1, said
    assert 'Another process cannot start' in said


@pytest.mark.cluster
def test_different_photographs_in_the_processes_are_refused(start, tmp_path):
    with socket.socket() as probe:
        probe.bind(('localhost', 0))
        cluster = f'--coordinator=localhost:{probe.getsockname()[1]}'
    photographs = skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()
    for folder, photograph in itertools.product(('a', 'b'), range(3)):
        if (folder, photograph) != ('b', 2):
            files.write_png(tmp_path / folder / f'{photograph}.png', photographs[photograph])
    flags = ['--distributed', cluster, '--num_processes=2']
    pair = [
        start(tmp_path / 'run', *flags, f'--process_id={i}', f'--config.data.source={tmp_path / s}')
        for i, s in enumerate('ab')
    ]
    said = end(*pair, code=1)
    assert all('different photographs' in one and '(2 to 3)' in one for one in said), said
    assert not (tmp_path / 'run').exists()


@pytest.mark.cluster
def test_a_checkpoint_that_one_process_cannot_read_is_skipped_by_all(start_pair, tmp_path):
    flags = ['--config.mesh.fsdp=2', '--config.checkpoint_every=1', '--config.eval_every=0']
    end(*start_pair(tmp_path, *flags, '--config.steps=2'))
    written = [path for path in (tmp_path / 'checkpoints/2').rglob('d/*') if path.is_file()]
    own = [path for path in written if 'process_1' in str(path)]
    largest = max(own, key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    said = end(*start_pair(tmp_path, *flags, '--config.steps=3'))[0]
    assert 'checkpoint 2 cannot be read and is skipped' in said
    assert 'resumed from step 1' in said
    assert (tmp_path / 'unreadable/2').is_dir()


@pytest.mark.cluster
def test_a_read_that_never_returns_ends_all_processes_in_time(start_pair, tmp_path):
    photographs = tmp_path / 'photographs'
    files.write_png(photographs / '0.png', skimage.data.coffee())
    os.mkfifo(tmp_path / 'pipe')  # which nobody will ever write to
    flags = [f'--config.data.source={photographs}', '--config.stall_timeout=60']
    flags += ['--config.eval_every=0', '--config.sample_every=0', '--config.steps=100000']
    pair, said = start_pair(tmp_path / 'run', *flags), ''
    wait_for(pair[0], 'trains on 1 photograph')  # both have listed the folder, which skips pipes
    (tmp_path / 'pipe').replace(photographs / '0.png')
    for process in pair:
        said += process.communicate(timeout=300)[1]
        assert process.returncode in (75, -signal.SIGABRT), said
    assert 'has made no progress for 60 s (stall_timeout) after step ' in said
    assert "in the phase 'data'" in said
    assert 'Traceback' not in said


@pytest.mark.cluster
def test_a_lease_of_another_machine_runs_out_and_all_processes_wait_for_it(start_pair, tmp_path):
    holder = lock.Holder('far', 7, 'far boot pid:[1]', '1')
    (tmp_path / lock.NAME).write_text(json.dumps(holder._asdict()))
    said = end(*start_pair(tmp_path, '--config.steps=2'))[0]
    assert 'lock.json is that of process 7 on far: it is taken over' in said
    assert (tmp_path / 'checkpoints/2').exists()
    assert not (tmp_path / lock.NAME).exists()
