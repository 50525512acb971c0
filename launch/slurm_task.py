"""Runs a module as `python -m` does, and notes its exit code 1 or 3; for launch/slurm.sbatch.

    python launch/slurm_task.py NOTE MODULE [ARGUMENT...]

When one task fails, the others lose it and end with 75 or a signal. srun returns only the highest
code of all tasks, which hides 1 and 3. So a task that ends with one of them creates the empty file
NOTE.1 or NOTE.3. It needs no space on a full disk.

A shell around the run could do that too. But where SLURM tracks processes by cgroups, it sends
SIGTERM only to the first process of a task. So the run must be this process.
"""

import os
import runpy
import sys
from pathlib import Path


def main(note: str, module: str, *arguments: str) -> None:
    """Runs `module`, and ends as it does."""
    sys.argv = [module, *arguments]
    if not sys.flags.safe_path:
        sys.path[0] = os.getcwd()  # as `python -m`; it is the folder of this file
    try:
        runpy.run_module(module, run_name='__main__', alter_sys=True)
    except SystemExit as end:
        code = 1 if isinstance(end.code, str) else end.code
        if code in (1, 3):
            leave(f'{note}.{code}')
        raise
    except Exception:
        leave(f'{note}.1')
        raise


def leave(name: str) -> None:
    """Creates an empty file, or says why it cannot."""
    try:
        Path(name).touch()
    except OSError as error:
        print(
            f'slurm_task.py: {name} cannot be created ({error.strerror}), so the job may be '
            'requeued: submit it from a folder that all nodes can write.',
            file=sys.stderr,
        )


if __name__ == '__main__':
    main(*sys.argv[1:])
