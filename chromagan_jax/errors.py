"""The one exception that stands for a mistake of the user."""


class UserError(ValueError):
    """What the user can mend; the message is one sentence that names the thing and the mend.

    The commands print the sentence without a traceback and exit with 1. Everything else that is
    raised is a defect of this package and keeps its traceback.
    """


class DivergedError(RuntimeError):
    """Training met a value that is not finite; the commands exit with 3: do not start it again."""


class PreemptedError(RuntimeError):
    """Training was asked to stop and has saved; the commands exit with 75: start it again."""
