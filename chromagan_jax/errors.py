"""The one exception that stands for a mistake of the user."""


class UserError(ValueError):
    """Something that the user can mend; its message is one sentence that names the thing and the mend.

    The commands print the sentence without a traceback and exit with 1. Everything else that is
    raised is a defect of this package and keeps its traceback.
    """
