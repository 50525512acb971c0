"""A request to stop, from whoever runs the machine or sits at the keyboard."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import jax


@contextlib.contextmanager
def stop_requests(agreed: bool = False) -> Iterator[Callable[[], bool]]:
    """Within the context SIGTERM and the first Ctrl-C only make the returned function true.

    With `agreed`, under `jax.distributed`, SIGTERM is left to JAX, which lets all processes agree
    on the step at which they stop (`CheckpointManager.reached_preemption`), and Ctrl-C becomes a
    SIGTERM: the returned function stays false.
    """
    requested = threading.Event()
    by_jax = agreed and jax.distributed.is_initialized()

    def request(number: int, frame: FrameType | None) -> None:
        del frame
        if by_jax:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            requested.set()
        signal.signal(number, previous[signal.Signals(number)])  # a second one acts at once

    caught = [signal.SIGINT] if by_jax else [signal.SIGINT, signal.SIGTERM]
    previous = {number: signal.getsignal(number) for number in caught}
    if threading.current_thread() is not threading.main_thread():  # where Python forbids handlers
        previous = {}
    for number in previous:
        signal.signal(number, request)
    try:
        yield requested.is_set
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
