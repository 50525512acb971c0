"""The start of several processes: who is missing, and where nobody can come."""

import contextlib
import os
import resource
import socket
import subprocess
import sys
import threading
import time

import pytest

from chromagan_jax.errors import PreemptedError, UserError
from chromagan_jax.utils import cluster


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(('localhost', 0))
        return probe.getsockname()[1]


@pytest.fixture
def call(port, monkeypatch):
    """Calls the roll as several processes; returns the sentence of each, '' if all are there."""
    monkeypatch.setattr(cluster, '_PAUSE', 0.01)

    def call_(processes, number, timeout=60.0):
        sentences = {}

        def run(process):
            try:
                cluster.call_roll(cluster.Place(f'localhost:{port}', number, process), timeout)
                sentences[process] = ''
            except PreemptedError as error:
                sentences[process] = str(error)

        threads = [threading.Thread(target=run, args=(process,)) for process in processes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sentences

    return call_


def test_all_processes_go_on_once_all_have_started(call):
    assert call([3, 1, 2, 0], 4) == dict.fromkeys(range(4), '')


def test_every_process_says_which_are_missing(call):
    sentences = call([0, 2], 4, timeout=2.0)
    assert sentences[0] == sentences[2]
    assert sentences[0].startswith('processes 1, 3 of 4 have not started within 2 s ')
    many = call([0], 20, timeout=0.2)[0]
    assert many.startswith('processes 1, 2, 3, 4, 5, 6, 7, 8 and 11 others of 20 have not')


def test_a_missing_process_0_is_named_with_its_address(call, port):
    (sentence,) = call([1], 2, timeout=0.2).values()
    assert sentence.startswith(f'process 0 (localhost:{port}) of 2 has not started within 0.2 s')


def test_strangers_at_the_port_are_not_processes(port):
    place = cluster.Place(f'localhost:{port}', 2, 0)
    threads = [threading.Thread(target=cluster.call_roll, args=(place, 60.0))]
    threads[0].start()
    for greeting in (b'', b'GET / HTTP/1.1\r\n\r\n', b'chromagan_jax process 9\n', b'\xff\n'):
        for _ in range(600):
            try:
                with socket.create_connection(('localhost', port)) as stranger:
                    stranger.sendall(greeting)
                break
            except ConnectionRefusedError:  # it does not listen yet
                threading.Event().wait(0.05)
    cluster.call_roll(place._replace(process=1), 60.0)
    threads[0].join(60)
    assert not threads[0].is_alive()  # it has counted process 1, and only that


def test_a_port_of_another_program_is_a_sentence():
    with socket.create_server(('', 0)) as server:
        number = server.getsockname()[1]
        place = cluster.Place(f'localhost:{number}', 2, 0)
        with pytest.raises(UserError, match=f'port {number} of process 0 cannot be used'):
            cluster.call_roll(place, 0)


# Calls the roll as process 0 with these limits of open files.
LIMITED = """
import resource, sys
from chromagan_jax.utils import cluster
port, number, soft, hard = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
cluster.call_roll(cluster.Place(f'localhost:{port}', number, 0), 60.0)
"""


def call_limited(port, soft, hard):
    """Joins process 0, which has these limits, as 60 others: its exit, and the last answer."""
    process = subprocess.Popen(
        [sys.executable, '-c', LIMITED, *map(str, (port, 61, soft, hard))],
        stderr=subprocess.PIPE,
        text=True,
    )
    connections = []
    try:
        with contextlib.suppress(ConnectionError):  # the process may end before all have joined
            for number in range(1, 61):
                connections.append(connect(port, process))
                connections[-1].sendall(f'chromagan_jax process {number}\n'.encode())
        errors = process.communicate(timeout=30)[1]
        answer = b''
        if not process.returncode:
            connections[-1].settimeout(30)
            answer = connections[-1].recv(100)
    finally:
        process.kill()
        process.wait()
        for connection in connections:
            connection.close()
    return process.returncode, errors, answer


def connect(port, process):
    """A connection to a process that may not listen yet."""
    end = time.monotonic() + 60
    while True:
        try:
            return socket.create_connection(('localhost', port))
        except ConnectionRefusedError:
            if process.poll() is not None or time.monotonic() >= end:
                raise
            time.sleep(0.05)


def test_more_processes_than_the_soft_limit_of_open_files_are_counted(port):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    code, errors, answer = call_limited(port, 45, hard)
    assert (code, answer) == (0, b'[]\n'), errors


def test_more_processes_than_the_hard_limit_of_open_files_are_a_sentence_at_once(port):
    code, errors, _ = call_limited(port, 45, 45)
    assert code == 1
    assert errors.splitlines()[-1] == (
        'chromagan_jax.errors.UserError: Process 0 may open only 45 files, too few for connections '
        'to 61 processes: raise the limit on its machine, as root, with `ulimit -n 1061`.'
    )


@pytest.mark.parametrize(
    ('variables', 'is_refused'),
    [
        ({}, False),
        ({'SLURM_JOB_ID': '12', 'SLURM_NTASKS': '4'}, True),  # salloc, or a batch script
        # A shell that salloc or srun --pty started.
        (
            {
                'SLURM_JOB_ID': '12',
                'SLURM_NTASKS': '4',
                'SLURM_STEP_NODELIST': 'n1',
                'SLURM_STEP_NUM_TASKS': '1',
            },
            True,
        ),
        (
            {
                'SLURM_JOB_ID': '12',
                'SLURM_NTASKS': '4',
                'SLURM_STEP_NODELIST': 'n[1-4]',
                'SLURM_STEP_NUM_TASKS': '4',
            },
            False,
        ),
        ({'SLURM_JOB_ID': '12', 'SLURM_NTASKS': '4', 'OMPI_COMM_WORLD_RANK': '0'}, False),
    ],
)
def test_a_shell_in_a_slurm_job_is_told_to_use_srun(variables, is_refused, monkeypatch):
    for name in [name for name in os.environ if name.startswith(('SLURM_', 'OMPI_'))]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if is_refused:
        with pytest.raises(UserError, match='inside the SLURM job 12, without srun'):
            cluster._check_started_by_srun()
    else:
        cluster._check_started_by_srun()


def test_proxies_come_back(monkeypatch):
    monkeypatch.setenv('http_proxy', 'http://proxy:3128')
    monkeypatch.setenv('NO_PROXY', 'here')
    with cluster._without_proxies():
        assert not [name for name in os.environ if name.lower().endswith('_proxy')]
    assert os.environ['http_proxy'] == 'http://proxy:3128'
    assert os.environ['NO_PROXY'] == 'here'


@pytest.mark.parametrize(
    ('flags', 'sentence'),
    [
        (('here:1', 2, 2), r'^--process_id=2 is not between 0 and --num_processes=2'),
        (('here', 2, 0), r'^--coordinator=here has no port'),
    ],
)
def test_flags_that_cannot_be_right_are_sentences(flags, sentence):
    with pytest.raises(UserError, match=sentence):
        cluster.join(*flags, 1.0)


def test_numbers_of_devices_that_are_none_are_named(monkeypatch):
    monkeypatch.setenv('JAX_LOCAL_DEVICE_IDS', 'all')
    with pytest.raises(UserError, match='JAX_LOCAL_DEVICE_IDS=all must be numbers'):
        cluster._device_ids()
