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


_traced_for = contextvars.ContextVar('traced_for', default='speed')  # 'plain' or 'portable'
_forms: contextvars.ContextVar[Forms] = contextvars.ContextVar('forms')


def is_cpu() -> bool:
    """Whether to choose the formulations that XLA's CPU back end computes fastest."""
    return jax.default_backend() == 'cpu' and not is_portable()


def is_plain() -> bool:
    """Whether to choose convolutions that compile fast over those that run fast."""
    return _traced_for.get() == 'plain'


def is_gpu() -> bool:
    """Whether to choose the formulations that XLA's GPU back end computes fastest."""
    return jax.default_backend() == 'gpu' and not is_portable()


def is_portable() -> bool:
    """Whether the program is traced for a runtime other than XLA."""
    return _traced_for.get() == 'portable'


def forms() -> Forms:
    """The formulations to choose where the back end leaves a choice."""
    return _forms.get(Forms())


def plain() -> contextlib.AbstractContextManager[None]:
    """Traces inside use XLA's convolutions, which compile in less time than Winograd's."""
    return _set(_traced_for, 'plain')


def portable() -> contextlib.AbstractContextManager[None]:
    """Traces inside use plain convolutions, which other runtimes compute fastest."""
    return _set(_traced_for, 'portable')


def using(forms: Forms) -> contextlib.AbstractContextManager[None]:
    """Traces inside use these formulations."""
    return _set(_forms, forms)


@contextlib.contextmanager
def _set(variable: contextvars.ContextVar[Any], value: object) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
