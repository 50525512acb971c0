"""The back end that the formulations of operations are chosen for."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import jax


class Forms(NamedTuple):
    """Formulations that are measured against each other on accelerators.

    The defaults are in use. The CPU has formulations of its own for kernel gradients.
    """

    # Of stride-1 convolutions that enlarge their input. plain: as JAX has it; exchanged: with
    # exchanged roles; product: the same, but matrix products if there are few channels.
    kernel_gradient: Literal['plain', 'exchanged', 'product'] = 'product'
    # Of 4x4 stride-2 convolutions: blocks of pixels (space-to-depth), or strides.
    stride: Literal['blocks', 'strides'] = 'blocks'


_portable = contextvars.ContextVar('portable', default=False)
_forms: contextvars.ContextVar[Forms] = contextvars.ContextVar('forms')


def is_cpu() -> bool:
    """Whether to choose the formulations that XLA's CPU back end computes fastest."""
    return jax.default_backend() == 'cpu' and not _portable.get()


def is_gpu() -> bool:
    """Whether to choose the formulations that XLA's GPU back end computes fastest."""
    return jax.default_backend() == 'gpu' and not _portable.get()


def is_portable() -> bool:
    """Whether the program is traced for a runtime other than XLA."""
    return _portable.get()


def forms() -> Forms:
    """The formulations to choose where the back end leaves a choice."""
    return _forms.get(Forms())


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """Traces inside use plain convolutions, which other runtimes compute fastest."""
    with _set(_portable, True):
        yield


@contextlib.contextmanager
def using(forms: Forms) -> Iterator[None]:
    """Traces inside use these formulations."""
    with _set(_forms, forms):
        yield


@contextlib.contextmanager
def _set(variable: contextvars.ContextVar[Any], value: object) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
