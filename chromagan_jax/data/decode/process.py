"""Calls of decoders in processes of their own, where a crash costs one file.

Each calling thread gets a process, which is kept for the next call. The process may take
`_MAX_MEMORY` of memory and some time for each file; it ends with the process that started it.
Pixels and files are exchanged through an unlinked file in memory: a pipe would be slower.
"""

import contextlib
import os
import pickle
import queue
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import IO, Any, TypeVar

import numpy as np

from chromagan_jax.data.decode.frame import UnreadableImage

T = TypeVar('T')

_MAX_MEMORY = 8 * 2**30  # bytes of address space; 200 megapixels of 16-bit RGBA take 6
_SECONDS, _SECONDS_PER_MB = 30.0, 1.0  # of one file
_SERVE = (
    'import sys; sys.path += sys.argv[2:]; '
    'from chromagan_jax.data.decode.process import serve; serve(int(sys.argv.pop(1)))'
)

_idle: queue.LifoQueue['Decoder'] = queue.LifoQueue()
# A child must not write into the pipes of its parent's processes.
os.register_at_fork(after_in_child=lambda: _idle.queue.clear())


def call(function: Callable[..., T], size: int, *arguments: Any, **options: Any) -> T:
    """`function(*arguments, **options)` in another process.

    Args:
        function: of a module, with arguments and result that pickle takes.
        size: bytes of the file that it decodes; they set the time that it may take.
        *arguments: of the function.
        **options: of the function.

    Raises:
        UnreadableImage: the function raised it, crashed, or needed too much time or memory.
    """
    try:
        decoder = _idle.get_nowait()
    except queue.Empty:
        decoder = Decoder()
    limit = _SECONDS + _SECONDS_PER_MB * size / 2**20
    try:
        done, result = decoder.ask((function, arguments, options), limit)
    except BaseException:
        decoder.end()
        raise
    _idle.put(decoder)
    if not done:
        raise result
    return result


class Decoder:
    """A process that answers calls, one at a time."""

    def __init__(self) -> None:
        self._shared = _open_shared()
        self._process = subprocess.Popen(
            # -P: a module of the current folder must not hide one of the standard library.
            [
                *(sys.executable, '-P', '-c', _SERVE, str(self._shared)),
                *(path or os.getcwd() for path in sys.path),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[self._shared],
        )

    def ask(self, request: tuple[Any, ...], limit: float) -> tuple[bool, Any]:
        """The answer within `limit` seconds: whether all went well, and the result or error."""
        questions, answers = self._process.stdin, self._process.stdout
        assert questions
        assert answers
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(limit, stop)
        timer.start()
        try:
            _send(questions, self._shared, request)
            done, result = _receive(answers, self._shared)
            return done, result
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            if late.is_set():
                raise UnreadableImage(f'its decoder took more than {limit:.0f} s') from error
            raise UnreadableImage(f'its decoder crashed (code {self.end()})') from error
        finally:
            timer.cancel()

    def end(self) -> int:
        """Ends the process; returns its exit code."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()
        if self._shared >= 0:
            os.close(self._shared)
            self._shared = -1
        return self._process.wait()


def _open_shared() -> int:
    """The descriptor of an unlinked file, in memory where the system allows it."""
    if hasattr(os, 'memfd_create'):
        return os.memfd_create('decoder')
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _send(pipe: IO[bytes], shared: int, message: Any) -> None:
    """Writes a message to a pipe, but its arrays and pickle.PickleBuffers to the shared file."""
    buffers: list[memoryview] = []
    content = pickle.dumps(message, 5, buffer_callback=lambda buffer: buffers.append(buffer.raw()))
    place = 0
    for buffer in buffers:
        while buffer:
            done = os.pwrite(shared, buffer, place)
            place, buffer = place + done, buffer[done:]
    pickle.dump((content, [buffer.nbytes for buffer in buffers]), pipe)
    pipe.flush()


def _receive(pipe: IO[bytes], shared: int) -> Any:
    """Reads a message of `_send` and empties the shared file."""
    content, sizes = pickle.load(pipe)
    buffers, place = [], 0
    for size in sizes:
        buffers.append(np.empty(size, np.uint8))
        rest = memoryview(buffers[-1])
        while rest and (done := os.preadv(shared, [rest], place)):
            place, rest = place + done, rest[done:]
    os.ftruncate(shared, 0)
    return pickle.loads(content, buffers=buffers)


def serve(shared: int) -> None:
    """Answers calls from standard input until it is closed; `shared` is a file descriptor."""
    # The process that started this one handles signals, and may need it until it has finished.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = _MAX_MEMORY if hard == resource.RLIM_INFINITY else min(_MAX_MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), 'wb')
    for number in (1, 2):  # what libraries print must not mix with the answers
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    while True:
        try:
            function, arguments, options = _receive(requests, shared)
        except EOFError:
            return
        try:
            answer = True, function(*arguments, **options)
        except MemoryError:
            answer = False, UnreadableImage('its decoder needs too much memory')
        except Exception as error:  # raised again where the call came from
            answer = False, error
        _send(answers, shared, answer)
        del arguments, answer
