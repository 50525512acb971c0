"""The back end that the formulations of operations are chosen for."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_portable = contextvars.ContextVar('portable', default=False)


def is_cpu() -> bool:
    """Whether to choose the formulations that XLA's CPU back end computes fastest."""
    return jax.default_backend() == 'cpu' and not _portable.get()


def is_portable() -> bool:
    """Whether the program is traced for a runtime other than XLA."""
    return _portable.get()


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """Traces inside use plain convolutions, which other runtimes compute fastest."""
    token = _portable.set(True)
    try:
        yield
    finally:
        _portable.reset(token)
