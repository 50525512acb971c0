"""What all processes of a run decide alike, such as to end for an error of one of them."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from chromagan_jax.errors import UserError

T = TypeVar('T')

_PACE = 1.0  # s between messages of a process that it still waits for a file or a lock


def in_all_processes(function: Callable[[], T], in_thread: bool = False) -> T:
    """Calls a function; raises UserError in all processes if it raises one in any of them.

    Otherwise the other processes would wait for it, and end with the exit code for a restart.

    Args:
        function: has no collectives if it runs in a thread.
        in_thread: whether it may take longer in one process than in another. Collectives on a CPU
            give up after 30 s without one of the processes, so they exchange messages meanwhile.
    """
    error: UserError | None = None
    try:
        result = _paced(function) if in_thread and jax.process_count() > 1 else function()
    except UserError as raised:
        error = raised
    if in_any_process(error is not None):
        raise error or UserError('Another process cannot start: its message says why.')
    return result


def _paced(function: Callable[[], T]) -> T:
    """Calls a function in a thread, and waits until it has ended in all processes."""
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(function)
        while in_any_process(not call.done()):
            wait([call], _PACE)
            if call.done() and not isinstance(call.exception(), UserError | None):
                break  # the others notice that this process ends
    return call.result()


def in_any_process(value: bool) -> bool:
    """Whether `value` is true in at least one process; called in all of them."""
    return bool(multihost_utils.process_allgather(np.array(value)).any())
