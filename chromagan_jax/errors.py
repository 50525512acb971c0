"""The exceptions that end a command, and the errors that say that another process is gone."""

import re

import jax


class UserError(ValueError):
    """What the user can mend; the message is one sentence that names the thing and the mend.

    The commands print the sentence without a traceback and exit with 1. Everything else that is
    raised is a defect of this package and keeps its traceback.
    """


class DivergedError(RuntimeError):
    """Training met a value that is not finite; the commands exit with 3: do not start it again."""


class PreemptedError(RuntimeError):
    """Training was asked to stop and has saved; the commands exit with 75: start it again."""


# What collectives (gloo, NCCL), barriers and JAX's coordination service say of a lost process.
_LOST = r'Gloo|NCCL|UNAVAILABLE|DEADLINE_EXCEEDED|[Bb]arrier|[Cc]oordination service'


def is_lost_process(error: BaseException) -> bool:
    """Whether an error of JAX or Orbax means that another process ended or cannot be reached."""
    return jax.process_count() > 1 and re.search(_LOST, str(error)) is not None
