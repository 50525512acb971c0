"""Saving and restoring checkpoints. Only this file and orbax_*.py import Orbax.

A workdir holds the newest states in `checkpoints/`, and in `best/` the state with the best value of
an evaluation metric. Each folder has its own manager, because a manager that ranks checkpoints by
score never prunes the ones without a score.
"""

import contextlib
import functools
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import orbax.checkpoint as ocp
from flax import linen as nn
from jax.sharding import Mesh

from chromagan_jax import config as config_lib
from chromagan_jax import sharding
from chromagan_jax.config import Config
from chromagan_jax.errors import UserError, is_lost_process, is_outage
from chromagan_jax.gan import orbax_manager
from chromagan_jax.gan import state as state_lib
from chromagan_jax.gan.model import GanModel, abstract_variables, make_generator, make_model
from chromagan_jax.gan.state import GanState
from chromagan_jax.gan.workdir import read_run
from chromagan_jax.utils import paths
from chromagan_jax.utils.agreement import in_any_process

Manager: TypeAlias = ocp.CheckpointManager
PyTree = Any
T = TypeVar('T')

CHECKPOINTS = 'checkpoints'
BEST = 'best'
CHECKSUM = 'checksum'  # metadata key: checksum of the whole state
GENERATOR_CHECKSUM = 'generator_checksum'  # metadata key: checksum of the generator's variables


def open_checkpoints(workdir: Path, max_to_keep: int) -> Manager:
    """Manager of the newest states. It removes the partial files of interrupted saves."""
    return _open(workdir / CHECKPOINTS, max_to_keep=max_to_keep)


def open_best(workdir: Path, source: str = '') -> Manager:
    """Manager of the state with the lowest score on photographs with the fingerprint `source`."""
    return _open(
        workdir / BEST,
        max_to_keep=1,
        best_fn=functools.partial(_comparable_score, source),
        best_mode='min',
        keep_checkpoints_without_metrics=False,  # an interrupted removal can leave one
    )


def _comparable_score(source: str, metrics: Mapping[str, Any]) -> float:
    return metrics['score'] if metrics.get('source', source) == source else math.inf


def _open(folder: Path, **options: Any) -> Manager:
    try:
        return orbax_manager.open_manager(folder, cleanup_tmp_directories=True, **options)
    except OSError as error:
        if paths.is_bucket(folder):
            raise
        raise UserError(
            f'{folder} cannot be written ({error.strerror}): free disk space, fix its permissions, '
            'or choose another --workdir.'
        ) from error


def save(manager: Manager, step: int, state: GanState) -> None:
    """Saves `state` in the background, unless `step` is saved; `state` may be donated at once.

    Raises:
        UserError: if the folder cannot be written.
    """
    with _writing(manager):
        if step not in manager.all_steps():
            _save(manager, step, state)


def save_if_best(
    manager: Manager, step: int, state: GanState, score: float, source: str = ''
) -> bool:
    """Replaces the best state by `state` if `score` is lower; returns whether it was saved.

    A best state whose score is one on photographs of another fingerprint than `source` is replaced.

    Raises:
        UserError: if the folder cannot be written.
    """
    with _writing(manager):
        manager.wait_until_finished()  # the score of a save in progress is not known yet
        best = manager.best_step()
        # A run repeats this step if it was killed before the newest state was saved.
        if best is not None:
            lowest = _comparable_score(source, manager.metrics(best))
            if best == step or score >= lowest:
                return False
        _save(manager, step, state, metrics={'score': score, 'source': source}, force=True)
        return True


def _save(manager: Manager, step: int, state: GanState, **options: Any) -> None:
    metadata = {
        CHECKSUM: int(state_lib.checksum(state)),
        GENERATOR_CHECKSUM: int(state_lib.checksum(state_lib.generator_variables(state))),
    }
    manager.save(step, args=ocp.args.StandardSave(state), custom_metadata=metadata, **options)


def _restore(manager: Manager, step: int, abstract: GanState) -> GanState:
    """A saved state; raises an exception of any type if it cannot be read."""
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
        restored = manager.restore(step, args=args)
    except Exception as error:  # Orbax and TensorStore raise many types for damaged files
        if is_lost_process(error) or is_outage(error):
            raise
        failure = error
        orbax_manager.meet_after_restore(manager)
    # A damaged file may fail in one process only, but all processes must take the same branch.
    if in_any_process(failure is not None):
        raise failure or ValueError('another process cannot read its part of it')
    state = select(restored)
    saved = (manager.metadata(step).custom_metadata or {}).get(checksum)
    if saved is not None and saved != int(state_lib.checksum(state)):
        raise ValueError('its checksum does not match the saved one')
    return state


@contextlib.contextmanager
def finishing(*managers: Manager) -> Iterator[None]:
    """Completes all saves and closes the managers when the context ends, also after an error.

    If another process was lost it does neither, because a save would wait for that process.

    Raises:
        UserError: if a folder cannot be written.
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
    """Raises UserError for a file-system error, in the foreground or from a background save."""
    try:
        with paths.access(manager.directory, 'written'):
            yield
    except (OSError, ValueError) as error:
        if paths.is_bucket(manager.directory):
            raise
        # TensorStore raises ValueError with the errno in its text.
        number = re.search(r"os_error_code='(\d+)'", str(error))
        code = int(number.group(1)) if number else getattr(error, 'errno', None)
        if code is None:
            raise
        raise UserError(
            f'{manager.directory} cannot be written ({os.strerror(code)}): free disk space or fix '
            'its permissions, and start again. Earlier checkpoints are complete.'
        ) from error


def restore_newest(
    manager: Manager, abstract: GanState, message: Callable[[str], None]
) -> GanState | None:
    """The newest readable state, with the shardings of `abstract`; None if none was ever saved.

    Unreadable checkpoints are reported through `message`. They are moved to `unreadable/`, never
    deleted, and only after an older one is read: a workdir without a readable checkpoint must not
    look like a new one.

    Raises:
        UserError: if there are checkpoints and none of them can be read.
    """
    unreadable: list[int] = []
    for step in sorted(manager.all_steps(), reverse=True):
        try:
            state = _restore(manager, step, abstract)
        except Exception as error:
            if is_lost_process(error) or is_outage(error):
                raise
            reason = str(error).strip().split('\n')[0][:200]
            message(f'checkpoint {step} cannot be read and is skipped: {reason}')
            unreadable.append(step)
        else:
            for newer in unreadable:
                orbax_manager.move_aside(manager, newer)
            return state
    if unreadable:
        raise UserError(
            f'None of the checkpoints in {manager.directory} could be read: restore them from a '
            'copy, or start again in another --workdir.'
        )
    return None


def kept_steps(workdir: Path) -> list[int]:
    """Steps of the complete checkpoints in `checkpoints/`, ascending; [] if there are none."""
    folder = workdir / CHECKPOINTS
    if not folder.is_dir():
        return []
    with orbax_manager.open_manager(folder, read_only=True) as manager:
        return sorted(manager.all_steps())


class Loaded(NamedTuple):
    """Config, model and state of a run, at one checkpoint."""

    config: Config
    model: GanModel
    state: GanState


def load(workdir: Path, which: str = 'newest', mesh: Mesh | None = None) -> Loaded:
    """Loads a run at one checkpoint, with the config saved in its workdir. Writes nothing.

    Args:
        workdir: folder of the run.
        which: 'newest', 'best', or the number of a step in `checkpoints/`.
        mesh: where to place the state; all devices by default.

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
    """Config and generator of a run, at one checkpoint."""

    config: Config
    generator: nn.Module
    variables: PyTree  # 'params' and 'batch_stats': the EMA, or the raw weights without one
    step: int


def load_generator(workdir: Path, which: str, mesh: Mesh) -> LoadedGenerator:
    """Loads only the generator; arguments and errors are those of `load`."""
    config = config_lib.from_dict(Config, read_run(workdir)['config'])
    generator = make_generator(config)
    shapes = abstract_variables(generator, config.data.size)
    place = lambda leaf, placed: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed)
    abstract = jax.tree.map(place, shapes, sharding.state_shardings(shapes, mesh))
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
    """A read-only manager and the step of the checkpoint `which`."""
    folder = paths.absolute(workdir / (BEST if which == 'best' else CHECKPOINTS))
    if not folder.is_dir():
        raise UserError(f'{workdir} holds no checkpoint yet.')
    with orbax_manager.open_manager(folder, read_only=True) as manager:
        steps = sorted(manager.all_steps())
        if which not in ('newest', 'best', *map(str, steps)):
            known = ', '.join(map(str, steps)) or 'none'
            raise UserError(
                f'{folder} holds no checkpoint {which!r}; choose newest, best or {known}.'
            )
        if not steps:
            raise UserError(f'{folder} holds no checkpoint yet.')
        yield manager, int(which) if which.isdigit() else steps[-1]


def _restore_named(
    manager: Manager, step: int, restore: Callable[[Manager, int, T], T], abstract: T
) -> T:
    """Calls `restore`; raises UserError with the checkpoint's name if it cannot be read."""
    try:
        return restore(manager, step, abstract)
    except Exception as error:
        if is_lost_process(error) or is_outage(error):
            raise
        reason = str(error).strip().split('\n')[0][:200]
        raise UserError(
            f'Checkpoint {step} in {manager.directory} cannot be read ({reason}).'
        ) from error
