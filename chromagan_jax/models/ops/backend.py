"""The back end that the formulations of operations are chosen for."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_form = contextvars.ContextVar('form', default='fast')  # or 'plain' or 'portable'


def is_cpu() -> bool:
    """Whether to choose the formulations that XLA's CPU back end computes fastest."""
    return jax.default_backend() == 'cpu' and not is_portable()


def is_plain() -> bool:
    """Whether to choose convolutions that compile fast over those that run fast."""
    return _form.get() == 'plain'


def is_portable() -> bool:
    """Whether the program is traced for a runtime other than XLA."""
    return _form.get() == 'portable'


def plain() -> contextlib.AbstractContextManager[None]:
    """Traces inside use XLA's convolutions, which compile in less time than Winograd's."""
    return _traced_as('plain')


def portable() -> contextlib.AbstractContextManager[None]:
    """Traces inside use plain convolutions, which other runtimes compute fastest."""
    return _traced_as('portable')


@contextlib.contextmanager
def _traced_as(form: str) -> Iterator[None]:
    token = _form.set(form)
    try:
        yield
    finally:
        _form.reset(token)
