"""Two real processes over loopback do what one process with two devices does."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np

ROOT = pathlib.Path(__file__).parent.parent
IGNORED = ('images_per_second',)


def start(workdir, *arguments, devices=1):
    flags = [
        f'--workdir={workdir}',
        '--config=configs/base.py:tiny',
        '--config.generator.dropout=0.5',
    ]
    return subprocess.Popen(
        [sys.executable, '-m', 'chromagan_jax.main', *flags, *arguments],
        cwd=ROOT,
        env=os.environ
        | {
            'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices} '
            '--xla_backend_optimization_level=0'
        },
        stderr=subprocess.PIPE,
        text=True,
    )


def end(*processes):
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), errors
    return errors


def free_port():
    with socket.socket() as probe:
        probe.bind(('localhost', 0))
        return probe.getsockname()[1]


def pair(workdir, *arguments):
    port = free_port()
    return end(
        *(
            start(
                workdir,
                '--distributed',
                f'--coordinator=localhost:{port}',
                '--num_processes=2',
                f'--process_id={number}',
                *arguments,
            )
            for number in range(2)
        )
    )


def assert_same_metrics(ours, theirs):
    lines = [
        [json.loads(line) for line in (workdir / 'metrics.jsonl').open()]
        for workdir in (ours, theirs)
    ]
    assert len(lines[0]) == len(lines[1]) > 0
    for a, b in zip(*lines, strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - set(IGNORED):
            np.testing.assert_allclose(a[name], b[name], rtol=2e-3, atol=1e-5, err_msg=name)


def test_two_processes_follow_the_trajectory_of_one_and_hand_over_to_it(tmp_path):
    end(start(tmp_path / 'one', '--config.steps=6', devices=2))
    quiet = pair(tmp_path / 'two')[1]  # four steps
    assert 'step' not in quiet  # the second process shows nothing
    (resumed,) = end(start(tmp_path / 'two', '--config.steps=6'))
    assert 'resumed from step 4' in resumed
    # The run of four steps evaluated at its end, as the long one does at its cadence.
    assert_same_metrics(tmp_path / 'two', tmp_path / 'one')
