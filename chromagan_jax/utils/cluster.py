"""The start of a run of several processes: waits for all, and names those that are missing.

JAX ends a process that waited too long with SIGABRT and does not say for whom. So process 0 calls
the roll first, on the port at which JAX's coordinator listens afterwards.
"""

import contextlib
import errno
import json
import os
import resource
import socket
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
from jax._src import clusters  # JAX has no public function that only detects a cluster

from chromagan_jax.errors import PreemptedError, UserError

_GREETING = 'chromagan_jax process '
_PAUSE = 0.5  # s between attempts to reach process 0
_ANSWER = 5.0  # s for a connection and its greeting
_NAMED = 8  # missing processes that a message names
_OTHER_FILES = 1_000  # that process 0 opens besides a connection to each process, at most


class Place(NamedTuple):
    """Where a process is in a run."""

    coordinator: str  # HOST:PORT of process 0
    number: int  # of processes
    process: int  # from 0
    devices: Sequence[int] | None = None  # of this machine that the process uses; None: all


def join(coordinator: str | None, number: int | None, process: int | None, timeout: float) -> None:
    """Joins a run of several processes; what is None is detected.

    Args:
        coordinator: HOST:PORT of process 0.
        number: of processes.
        process: number of this process.
        timeout: s to wait for the other processes.

    Raises:
        UserError: no cluster is detected, the port is in use, or process 0 may not open a
            connection to each process.
        PreemptedError: processes are missing.
        RuntimeError: the API of the cluster cannot be used.
    """
    if None in (coordinator, number, process):
        _check_started_by_srun()
    with _without_proxies():
        place = _detect(coordinator, number, process, timeout)
        call_roll(place, timeout)
        jax.distributed.initialize(*place, initialization_timeout=int(timeout))


def _detect(
    coordinator: str | None, number: int | None, process: int | None, timeout: float
) -> Place:
    coordinator, number, process, devices = (
        clusters.ClusterEnv.auto_detect_unset_distributed_params(
            coordinator or os.environ.get('JAX_COORDINATOR_ADDRESS'),
            number,
            process,
            _device_ids(),
            None,
            int(timeout),
        )
    )
    if coordinator is None or number is None or process is None:
        raise UserError(
            '--distributed did not detect a cluster: add --coordinator=HOST:PORT, '
            '--num_processes and --process_id.'
        )
    place = Place(coordinator, number, process, devices)
    if not 0 <= place.process < place.number:
        raise UserError(
            f'--process_id={place.process} is not between 0 and --num_processes={place.number}, '
            'exclusive: correct one of them.'
        )
    if not place.coordinator.rpartition(':')[2].isdecimal():
        raise UserError(f'--coordinator={place.coordinator} has no port: write HOST:PORT.')
    return place


def _device_ids() -> list[int] | None:
    text = os.environ.get('JAX_LOCAL_DEVICE_IDS')
    try:
        return [int(number) for number in text.split(',')] if text else None
    except ValueError as error:
        raise UserError(
            f'JAX_LOCAL_DEVICE_IDS={text} must be numbers, as 0 or 0,1: correct or unset it.'
        ) from error


def _check_started_by_srun() -> None:
    """Raises UserError in a shell inside a SLURM job, where JAX would wait for tasks forever."""
    job = os.environ.get('SLURM_JOB_ID')
    if not job or 'OMPI_COMM_WORLD_RANK' in os.environ:
        return
    tasks = int(os.environ.get('SLURM_NTASKS', '1'))
    started = int(os.environ.get('SLURM_STEP_NUM_TASKS', tasks))
    if 'SLURM_STEP_NODELIST' not in os.environ or started < tasks:
        raise UserError(
            f'--distributed was given in a shell inside the SLURM job {job}, without srun: put '
            'srun before the command, or leave out --distributed to train in one process.'
        )


@contextlib.contextmanager
def _without_proxies() -> Iterator[None]:
    """Context without proxy variables: JAX's gRPC would look for the coordinator behind a proxy."""
    names = [name for name in os.environ if name.lower().endswith('_proxy')]
    removed = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(removed)


def call_roll(place: Place, timeout: float) -> None:
    """Returns when all processes have started.

    Raises:
        UserError: process 0 cannot use its port, or not open a connection to each process.
        PreemptedError: processes are missing `timeout` s after the start of process 0.
    """
    host, _, port = place.coordinator.rpartition(':')
    if place.process:
        missing = _answer(host.strip('[]'), int(port), place.process, timeout)
    else:
        _allow_open_files()
        with _listen(int(port), timeout) as server:
            missing = _ask(server, place.number, timeout)
    if not missing:
        return
    named = ', '.join(map(str, missing[:_NAMED]))
    more = f' and {len(missing) - _NAMED} others' if len(missing) > _NAMED else ''
    at = f' ({place.coordinator})' if missing == [0] else ''
    what = f'process {named}{at} of' if len(missing) == 1 else f'processes {named}{more} of'
    has = 'has' if len(missing) == 1 else 'have'
    raise PreemptedError(
        f'{what} {place.number} {has} not started within {timeout:g} s (--startup_timeout): look '
        'at the output there, and start the run again.'
    )


def _allow_open_files() -> None:
    """Raises the limit of open files as far as this process may, where that is possible.

    The roll call opens one for each process, and so does JAX's coordinator after it. Often the soft
    limit is 1,024.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS may refuse a hard limit of infinity
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _listen(port: int, timeout: float) -> socket.socket:
    """A server at a port, which the process of an earlier start may leave a little later."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            if socket.has_dualstack_ipv6():
                return socket.create_server(('', port), family=socket.AF_INET6, dualstack_ipv6=True)
            return socket.create_server(('', port))
        except OSError as error:
            if time.monotonic() >= deadline:
                raise UserError(
                    f'The port {port} of process 0 cannot be used ({error.strerror}): choose '
                    'another one in --coordinator.'
                ) from error
        time.sleep(_PAUSE)


def _ask(server: socket.socket, number: int, timeout: float) -> list[int]:
    """Waits for the processes from 1, and tells them who is missing; returns that."""
    deadline = time.monotonic() + timeout
    with contextlib.ExitStack() as stack:
        joined: dict[int, socket.socket] = {}
        while len(joined) < number - 1 and (left := deadline - time.monotonic()) > 0:
            server.settimeout(left)
            try:
                connection = stack.enter_context(server.accept()[0])
                connection.settimeout(_ANSWER)
                line = connection.makefile().readline()
            except (OSError, ValueError) as error:
                if getattr(error, 'errno', None) == errno.EMFILE:
                    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
                    raise UserError(
                        f'Process 0 may open only {limit} files, too few for connections to '
                        f'{number} processes: raise the limit on its machine, as root, with '
                        f'`ulimit -n {number + _OTHER_FILES}`.'
                    ) from error
                continue  # nobody came, or it was not one of the processes
            process = line.removeprefix(_GREETING).strip()
            if line.startswith(_GREETING) and process.isdecimal() and 0 < int(process) < number:
                joined[int(process)] = connection
        missing = [process for process in range(1, number) if process not in joined]
        for connection in joined.values():
            with contextlib.suppress(OSError):  # JAX notices processes that have ended
                connection.sendall(f'{json.dumps(missing)}\n'.encode())
    return missing


def _answer(host: str, port: int, process: int, timeout: float) -> list[int]:
    """Answers process 0; returns who is missing by its account, or [0] if it did not ask."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host, port), _ANSWER) as connection:
                connection.sendall(f'{_GREETING}{process}\n'.encode())
                connection.settimeout(timeout + _ANSWER)  # from a later start of process 0
                if line := connection.makefile().readline():
                    missing: list[int] = json.loads(line)
                    return missing
        except (OSError, ValueError):  # it has not started, or another program uses the port
            pass
        time.sleep(_PAUSE)
    return [0]
