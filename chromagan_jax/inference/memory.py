"""A bound on the photographs that are in memory at once."""

import contextlib
import threading
from collections.abc import Iterator


class InFlight:
    """The pixels of the photographs that are in memory."""

    def __init__(self, most: int):
        self.most, self._pixels = most, 0
        self._changed = threading.Condition()

    def admits(self, pixels: int) -> bool:
        """Whether there is room; a larger photograph than the bound is admitted by itself."""
        return not self._pixels or self._pixels + pixels <= self.most

    def enter(self, pixels: int) -> None:
        with self._changed:
            self._pixels += pixels

    def leave(self, pixels: int) -> None:
        with self._changed:
            self._pixels -= pixels
            self._changed.notify_all()

    def wait(self, pixels: int) -> None:
        """Waits until there is room."""
        with self._changed:
            self._changed.wait_for(lambda: self.admits(pixels))

    @contextlib.contextmanager
    def leaving(self, pixels: int) -> Iterator[None]:
        """Leaves at the end of the block."""
        try:
            yield
        finally:
            self.leave(pixels)
