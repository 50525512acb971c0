"""Checkpoints: the only file that imports Orbax.

A workdir holds the newest states in `checkpoints/` and the best one, by an evaluation metric, in
`best/`. They have managers of their own because Orbax never prunes unscored saves once it ranks
scored ones. `config.json` says under which config and on which data they were made.
"""

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import linen as nn
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from chromagan_jax import config as config_lib
from chromagan_jax import sharding
from chromagan_jax.config import Config
from chromagan_jax.errors import UserError, is_lost_process
from chromagan_jax.gan import state as state_lib
from chromagan_jax.gan.model import GanModel, abstract_variables, make_generator, make_model
from chromagan_jax.gan.state import GanState

Manager: TypeAlias = ocp.CheckpointManager
PyTree = Any
T = TypeVar('T')

CHECKPOINTS = 'checkpoints'
BEST = 'best'
UNREADABLE = 'unreadable'  # where checkpoints are moved that cannot be read
CHECKSUM = 'checksum'  # of the state, in a checkpoint's metadata
GENERATOR_CHECKSUM = 'generator_checksum'  # of what inference loads


def open_checkpoints(workdir: Path, max_to_keep: int) -> Manager:
    """Manager of the newest states; what a kill left half-written is removed."""
    return _open(workdir / CHECKPOINTS, max_to_keep=max_to_keep)


def open_best(workdir: Path) -> Manager:
    """Manager of the one state with the lowest score."""
    return _open(
        workdir / BEST,
        max_to_keep=1,
        best_fn=lambda metrics: metrics['score'],
        best_mode='min',
        keep_checkpoints_without_metrics=False,  # a removal that a kill cut short leaves such
    )


def _open(folder: Path, **options: Any) -> Manager:
    # Both managers may save at once, and of several processes each must wait for its like.
    barriers = ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=folder.name)
    options |= {'cleanup_tmp_directories': True, 'multiprocessing_options': barriers}
    try:
        return Manager(folder.absolute(), options=ocp.CheckpointManagerOptions(**options))
    except OSError as error:
        raise UserError(
            f'{folder} cannot be written ({error.strerror}): make room or permission there, or '
            'choose another --workdir.'
        ) from error


def save(manager: Manager, step: int, state: GanState) -> None:
    """Saves in the background; the state may be donated at once. Does nothing if it is there."""
    with _writing(manager):
        if step not in manager.all_steps():
            _save(manager, step, state)


def save_if_best(manager: Manager, step: int, state: GanState, score: float) -> bool:
    """Saves, and drops the best so far, if `score` is below its; says whether it did."""
    with _writing(manager):
        manager.wait_until_finished()  # the score of a save in flight is not there yet
        best = manager.best_step()
        # The step may be there: a kill between this save and that of the newest state repeats it.
        if best is not None and (best == step or score >= manager.metrics(best)['score']):
            return False
        _save(manager, step, state, metrics={'score': score}, force=True)
        return True


def _save(manager: Manager, step: int, state: GanState, **options: Any) -> None:
    kept = {
        CHECKSUM: int(state_lib.checksum(state)),
        GENERATOR_CHECKSUM: int(state_lib.checksum(state_lib.generator_variables(state))),
    }
    manager.save(step, args=ocp.args.StandardSave(state), custom_metadata=kept, **options)


def _restore(manager: Manager, step: int, abstract: GanState) -> GanState:
    """A saved state as it was, or an exception of one of many types."""
    return _restore_checked(manager, step, ocp.args.StandardRestore(abstract), CHECKSUM)


def _restore_checked(
    manager: Manager,
    step: int,
    args: ocp.args.CheckpointArgs,
    checksum: str,
    select: Callable[[PyTree], PyTree] = lambda restored: restored,
) -> Any:
    failure: Exception | None = None
    try:
        state = select(manager.restore(step, args=args))
    except Exception as error:  # Orbax and TensorStore raise a dozen types for torn files
        if is_lost_process(error):
            raise
        failure = error
    # A damaged file may be in the way of one process alone, and all must come to the same end.
    if multihost_utils.process_allgather(np.array(failure is not None)).any():
        raise failure or ValueError('another process cannot read its part of it')
    kept = (manager.metadata(step).custom_metadata or {}).get(checksum)
    if kept is not None and kept != int(state_lib.checksum(state)):
        raise ValueError('its bits are not those that were saved')
    return state


@contextlib.contextmanager
def finishing(*managers: Manager) -> Iterator[None]:
    """However the context ends, what is being saved is saved to the end.

    But for a lost process: a save that is under way would wait for it.
    """
    lost = False
    try:
        yield
    except Exception as error:
        lost = is_lost_process(error)
        raise
    finally:
        for manager in () if lost else managers:
            with _writing(manager):
                manager.wait_until_finished()
                manager.close()


@contextlib.contextmanager
def _writing(manager: Manager) -> Iterator[None]:
    """Turns a failure of the file system, now or in the background, into a sentence."""
    try:
        yield
    except (OSError, ValueError) as error:
        # TensorStore raises ValueError with the number of the system's error in its text.
        number = re.search(r"os_error_code='(\d+)'", str(error))
        code = int(number.group(1)) if number else getattr(error, 'errno', None)
        if code is None:
            raise
        raise UserError(
            f'{manager.directory} cannot be written ({os.strerror(code)}): make room or permission '
            'there and start again; what was saved before is whole.'
        ) from error


def restore_newest(
    manager: Manager, abstract: GanState, message: Callable[[str], None]
) -> GanState | None:
    """The newest state that can be read, laid out as `abstract`; None if none was ever saved.

    A newer one that cannot be read is named through `message` and, once an older one is read, moved
    out of the way to unreadable/: nothing that was saved is deleted, its step can be saved again,
    and if none can be read the next start will not take the workdir for a new one.

    Raises:
        UserError: if there are checkpoints and none of them can be read.
    """
    torn: list[int] = []
    for step in sorted(manager.all_steps(), reverse=True):
        try:
            state = _restore(manager, step, abstract)
        except Exception as error:
            if is_lost_process(error):
                raise
            reason = str(error).strip().split('\n')[0][:200]
            message(f'checkpoint {step} cannot be read and is passed over: {reason}')
            torn.append(step)
        else:
            for newer in torn:
                _move_aside(manager, newer)
            return state
    if torn:
        raise UserError(
            f'None of the checkpoints in {manager.directory} could be read: restore them from a '
            'copy, or start again in another --workdir.'
        )
    return None


def _move_aside(manager: Manager, step: int) -> None:
    directory = Path(manager.directory)
    if jax.process_index() == 0:
        aside = directory.parent / UNREADABLE
        aside.mkdir(exist_ok=True)
        taken = sum(path.name.split('.')[0] == str(step) for path in aside.iterdir())
        (directory / str(step)).rename(aside / (f'{step}.{taken}' if taken else str(step)))
    multihost_utils.sync_global_devices('checkpoint moved aside')
    manager.reload()


def read_run(workdir: Path) -> dict[str, Any]:
    """What `config.json` says: 'schema_version', 'config', 'data' and 'versions'.

    Raises:
        UserError: if there is none, it is not JSON, or another version of the package wrote it.
    """
    path = workdir / 'config.json'
    try:
        run: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f'{workdir} is not a workdir of a run: it holds no config.json.') from None
    except json.JSONDecodeError as error:
        raise UserError(f'{path} is damaged ({error}): restore it from a copy.') from None
    if (version := run.get('schema_version')) != config_lib.SCHEMA_VERSION:
        raise UserError(
            f'{path} has the schema version {version}, and this chromagan_jax reads version '
            f'{config_lib.SCHEMA_VERSION}: use the release that wrote it, or another --workdir.'
        )
    return run


def kept_steps(workdir: Path) -> list[int]:
    """The steps whose newest states are complete and kept, in order; [] before the first."""
    folder = (workdir / CHECKPOINTS).absolute()
    if not folder.is_dir():
        return []
    with Manager(folder, options=ocp.CheckpointManagerOptions(read_only=True)) as manager:
        return sorted(manager.all_steps())


class Loaded(NamedTuple):
    """A run as one of its checkpoints has it."""

    config: Config
    model: GanModel
    state: GanState


def load(workdir: Path, which: str = 'newest', mesh: Mesh | None = None) -> Loaded:
    """A run under its own config, without touching its workdir.

    Args:
        workdir: of the run.
        which: 'newest', 'best', or a step that is still kept.
        mesh: where to put the state; all devices unless given.

    Raises:
        UserError: if there is no such run or checkpoint, or it cannot be read.
    """
    config = config_lib.from_dict(Config, read_run(workdir)['config'])
    mesh = mesh or sharding.make_mesh()
    model = make_model(config, mesh)
    abstract = state_lib.abstract_state(model, config, mesh)
    with _opened(workdir, which) as (manager, step):
        return Loaded(config, model, _restore_named(manager, step, _restore, abstract))


class LoadedGenerator(NamedTuple):
    """A run's generator as one of its checkpoints has it."""

    config: Config
    generator: nn.Module
    variables: PyTree  # 'params' and 'batch_stats': the moving average, or the raw weights
    step: int


def load_generator(workdir: Path, which: str, mesh: Mesh) -> LoadedGenerator:
    """A run's generator alone; arguments and errors as of `load`."""
    config = config_lib.from_dict(Config, read_run(workdir)['config'])
    generator = make_generator(config)
    shapes = abstract_variables(generator, config.data.size)
    abstract = jax.tree.map(
        lambda leaf, placed: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed),
        shapes,
        sharding.state_shardings(shapes, mesh),
    )
    group = 'ema' if config.ema_decay else 'generator'

    def restore(manager: Manager, step: int, abstract: PyTree) -> PyTree:
        item = {group: abstract}
        placed = ocp.checkpoint_utils.construct_restore_args(item)
        args = ocp.args.PyTreeRestore(item, restore_args=placed, partial_restore=True)
        return _restore_checked(manager, step, args, GENERATOR_CHECKSUM, lambda tree: tree[group])

    with _opened(workdir, which) as (manager, step):
        variables = _restore_named(manager, step, restore, abstract)
        return LoadedGenerator(config, generator, variables, step)


@contextlib.contextmanager
def _opened(workdir: Path, which: str) -> Iterator[tuple[Manager, int]]:
    """A manager that only reads, and the step of the checkpoint that is asked for."""
    folder = (workdir / (BEST if which == 'best' else CHECKPOINTS)).absolute()
    if not folder.is_dir():
        raise UserError(f'{workdir} holds no checkpoint yet.')
    options = ocp.CheckpointManagerOptions(read_only=True)
    with Manager(folder, options=options) as manager:
        kept = sorted(manager.all_steps())
        if which not in ('newest', 'best', *map(str, kept)):
            listed = ', '.join(map(str, kept)) or 'none'
            raise UserError(
                f'{folder} holds no checkpoint {which!r}; choose newest, best or {listed}.'
            )
        if not kept:
            raise UserError(f'{folder} holds no checkpoint yet.')
        yield manager, int(which) if which.isdigit() else kept[-1]


def _restore_named(
    manager: Manager, step: int, restore: Callable[[Manager, int, T], T], abstract: T
) -> T:
    """What `restore` returns; raises UserError, naming the checkpoint, if it cannot be read."""
    try:
        return restore(manager, step, abstract)
    except Exception as error:
        reason = str(error).strip().split('\n')[0][:200]
        raise UserError(
            f'Checkpoint {step} in {manager.directory} cannot be read ({reason}).'
        ) from error
