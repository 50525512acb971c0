"""The exceptions that end a command, and the detection of a lost process."""

import re

import jax


class UserError(ValueError):
    """An error that the user can fix; the message is one sentence with the problem and the fix.

    The commands print the message without a traceback and exit with 1. Any other exception is a
    bug in this package and shows its traceback.
    """


class DivergedError(RuntimeError):
    """Training met a non-finite value; the commands exit with 3: a restart would diverge again."""


class PreemptedError(RuntimeError):
    """A run was asked to stop; the commands exit with 75: start it again."""


# Texts in the errors of collectives (gloo, NCCL), barriers and JAX's coordination service.
_LOST = r'Gloo|NCCL|UNAVAILABLE|DEADLINE_EXCEEDED|[Bb]arrier|[Cc]oordination service'


def is_lost_process(error: BaseException) -> bool:
    """Whether an error of JAX or Orbax means that another process ended or is unreachable."""
    return jax.process_count() > 1 and re.search(_LOST, str(error)) is not None
