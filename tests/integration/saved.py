"""Which checkpoints of a run are complete, as Orbax sees them.

Orbax before 0.12 renames a folder when a local save ends. Later versions write a file into it.
"""

from pathlib import Path

import orbax.checkpoint as ocp


def steps(workdir: Path, folder: str = 'checkpoints') -> list[int]:
    """Steps of the complete checkpoints, ascending."""
    return sorted(ocp.utils.checkpoint_steps(workdir / folder))


def newest(workdir: Path, folder: str = 'checkpoints') -> int | None:
    return max(steps(workdir, folder), default=None)


def unfinished(workdir: Path) -> set[str]:
    """Checkpoints that were being written, or removed."""
    return {
        f'{folder}/{path.name}'
        for folder in ('checkpoints', 'best')
        for path in (workdir / folder).glob('*')
        if path.name not in map(str, steps(workdir, folder))
    }
