"""Stop requests: SIGTERM and Ctrl-C."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import jax


@contextlib.contextmanager
def stop_requests(agreed: bool = False) -> Iterator[Callable[[], bool]]:
    """Context in which the first SIGTERM or Ctrl-C only makes the yielded function return True.

    With `agreed` and under `jax.distributed`, JAX handles SIGTERM: all processes agree on the step
    at which they stop (`CheckpointManager.reached_preemption`). Ctrl-C is turned into SIGTERM, and
    the function returns False.
    """
    requested = threading.Event()
    by_jax = agreed and jax.distributed.is_initialized()

    def request(number: int, frame: FrameType | None) -> None:
        del frame
        if by_jax:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            requested.set()
        signal.signal(number, previous[signal.Signals(number)])  # a second signal ends the process

    caught = [signal.SIGINT] if by_jax else [signal.SIGINT, signal.SIGTERM]
    previous = {number: signal.getsignal(number) for number in caught}
    if threading.current_thread() is not threading.main_thread():  # Python forbids handlers here
        previous = {}
    for number in previous:
        signal.signal(number, request)
    try:
        yield requested.is_set
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
