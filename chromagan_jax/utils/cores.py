"""The CPU cores of a process."""

import os


def usable_cores() -> int:
    """Cores that this process may use: a scheduler may give it a part of the machine."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 2
