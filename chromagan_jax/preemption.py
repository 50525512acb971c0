"""A request to stop, from whoever runs the machine or sits at the keyboard."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import jax


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Within the context SIGTERM and the first Ctrl-C only make the returned function true.

    Under `jax.distributed` SIGTERM is left to JAX, which lets all processes agree on the step at
    which they stop (`CheckpointManager.reached_preemption`).
    """
    requested = threading.Event()

    def request(number: int, frame: FrameType | None) -> None:
        del frame
        requested.set()
        signal.signal(number, previous[signal.Signals(number)])  # a second one acts at once

    caught = [signal.SIGINT]
    if not jax.distributed.is_initialized():
        caught.append(signal.SIGTERM)
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
