"""Orbax's manager of a folder of checkpoints, wherever the folder is."""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils
from orbax.checkpoint._src.multihost import multihost
from orbax.checkpoint._src.serialization import tensorstore_utils

from chromagan_jax.gan import orbax_s3
from chromagan_jax.utils import paths

UNREADABLE = 'unreadable'  # folder of checkpoints that cannot be read
REPLACED = 'replaced'  # folder of best states of an earlier run in the same workdir


def open_manager(folder: Path, **options: Any) -> ocp.CheckpointManager:
    """Opens a folder of checkpoints, also in a bucket or on a file system without locks.

    Args:
        folder: made if it does not exist.
        **options: of `ocp.CheckpointManagerOptions`.

    Raises:
        OSError: if the folder cannot be written.
        UserError: if a bucket refuses access.
    """
    if os.fspath(folder).startswith('s3://'):
        orbax_s3.enable()
    writes = not options.get('read_only')
    # Several managers may work at the same time, so their process barriers need different keys.
    barriers = ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=folder.name)
    options['multiprocessing_options'] = barriers
    # Orbax warns that a folder opened for reading cannot be written.
    quiet = contextlib.nullcontext() if writes else _errors_only()
    with paths.access(folder, 'read'), quiet:
        manager = ocp.CheckpointManager(
            paths.absolute(folder), options=ocp.CheckpointManagerOptions(**options)
        )
    if writes and not paths.is_bucket(folder) and not _has_locks(folder):
        _write_without_locks()
    return manager


def meet_after_restore(manager: ocp.CheckpointManager) -> None:
    """Waits for the processes that could restore; called where `manager.restore` failed.

    Orbax ends a restore with a barrier. A process that raises before it would take part in the next
    collective while the others are in the barrier.
    """
    key = multihost.unique_barrier_key('Checkpointer:restore', prefix=manager.directory.name)
    multihost.sync_global_processes(key)


def move_aside(manager: ocp.CheckpointManager, step: int, name: str = UNREADABLE) -> None:
    """Moves a checkpoint to folder `name` beside the manager's folder; called in all processes."""
    directory = paths.as_path(os.fspath(manager.directory))
    if jax.process_index() == 0:
        aside = directory.parent / name
        aside.mkdir(exist_ok=True)
        others = aside.iterdir() if aside.is_dir() else ()  # a bucket has no empty folders
        taken = sum(path.name.split('.')[0] == str(step) for path in others)
        paths.move(directory / str(step), aside / (f'{step}.{taken}' if taken else str(step)))
    multihost_utils.sync_global_devices('checkpoint moved aside')
    manager.reload()


@contextlib.contextmanager
def _errors_only() -> Iterator[None]:
    """Hides the warnings of libraries that log through absl."""
    before = logging.get_verbosity()
    logging.set_verbosity(min(before, logging.ERROR))
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _has_locks(folder: Path) -> bool:
    """Whether files in a folder can be locked. Lustre and NFS may be mounted without locks."""
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def _write_without_locks() -> None:
    """Makes TensorStore write without locks. Each file of a checkpoint has one writer."""
    # Orbax has no option for this, and reads these dicts at each save.
    private = tensorstore_utils._BASE_TS_CONTEXT, tensorstore_utils._DEFAULT_OCDBT_TS_CONTEXT
    for context in private:
        context['file_io_locking'] = {'mode': 'none'}
