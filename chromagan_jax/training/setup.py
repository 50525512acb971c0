"""Setup of a run: checks, opened resources and the initial state."""

import contextlib
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from chromagan_jax import config as config_lib
from chromagan_jax import sharding
from chromagan_jax.config import Config
from chromagan_jax.data.inputs import NOT_HELD_OUT, is_held_out, open_sources
from chromagan_jax.data.sources import Folder, Source
from chromagan_jax.errors import UserError
from chromagan_jax.evaluation import evaluator
from chromagan_jax.gan import checkpoints as checkpoint_lib
from chromagan_jax.gan import state as state_lib
from chromagan_jax.gan.init_from import RELEASED, load_weights
from chromagan_jax.gan.model import GanModel, class_targets, make_frozen, make_model
from chromagan_jax.gan.orbax_manager import REPLACED, move_aside
from chromagan_jax.gan.state import GanState
from chromagan_jax.gan.workdir import read_run
from chromagan_jax.models.pretrained import PRETRAINED
from chromagan_jax.utils import files, lease, lock, paths, progress, writers
from chromagan_jax.utils.agreement import in_all_processes
from chromagan_jax.utils.preemption import stop_requests
from chromagan_jax.utils.watchdog import Watchdog

PyTree = Any


class Run(NamedTuple):
    """Config and resources of a run. They do not change during training."""

    config: Config
    workdir: Path
    mesh: Mesh
    model: GanModel
    abstract: GanState  # of `state.abstract_state`
    source: Source
    eval_source: Source
    log: Callable[[str], None]  # prints a line
    writes: bool  # whether this process writes files; only process 0 does
    lease: lease.Lease | None  # of a workdir in a bucket, in the process that writes
    watchdog: Watchdog
    checkpoints: checkpoint_lib.Manager  # of the newest states
    best: checkpoint_lib.Manager  # of the best state
    stopping: Callable[[], bool]  # whether the run was asked to stop
    eval_step: Callable[..., Any]  # of `evaluator.make_eval_step`


def open_run(config: Config, workdir: Path, stack: contextlib.ExitStack) -> Run:
    """Checks the config and data, then opens the resources of a run.

    Nothing is written before config and data are checked.

    Args:
        config: config of the run.
        workdir: folder for all output.
        stack: closes the resources at its end, after pending saves are complete.

    Raises:
        UserError: if the config, the data or the workdir is invalid.
    """
    mesh, model, abstract, eval_step = in_all_processes(lambda: _check(config))
    source, eval_source = in_all_processes(lambda: _open_sources(config), in_thread=True)
    _check_same_data(config, source, eval_source)
    held = lock_workdir(workdir, stack)
    stopping = stack.enter_context(stop_requests(agreed=True))
    log = log_run_info(config, workdir, source, eval_source)
    writes = jax.process_index() == 0
    watchdog = Watchdog(config.stall_timeout, workdir / 'heartbeat.json' if writes else None)
    stack.enter_context(watchdog.watch())
    checkpoints = checkpoint_lib.open_checkpoints(workdir, config.checkpoint.max_to_keep)
    best = checkpoint_lib.open_best(workdir, eval_source.fingerprint)
    stack.enter_context(checkpoint_lib.finishing(checkpoints, best))
    resume = checkpoints.latest_step() is not None
    check_workdir(config, workdir, source, resume)
    for step in () if resume else best.all_steps():  # of a run whose newest states are gone
        log(f'best/{step} is of an earlier run and moved to {REPLACED}/')
        move_aside(best, step, REPLACED)
    return Run(
        config=config,
        workdir=workdir,
        mesh=mesh,
        model=model,
        abstract=abstract,
        source=source,
        eval_source=eval_source,
        log=log,
        writes=writes,
        lease=held,
        watchdog=watchdog,
        checkpoints=checkpoints,
        best=best,
        stopping=stopping,
        eval_step=eval_step,
    )


def _check(config: Config) -> tuple[Any, ...]:
    """Checks the config.

    Returns:
        Mesh, model, abstract state, evaluation step.

    Raises:
        UserError: if the config is invalid.
    """
    config_lib.validate(config)
    plateau, best_metric = config.reduce_lr_on_plateau, config.checkpoint.best_metric
    evaluator.check_ranking('reduce_lr_on_plateau.metric', plateau.metric)
    evaluator.check_ranking('checkpoint.best_metric', best_metric)
    mesh = sharding.make_mesh(config.mesh.fsdp)
    sharding.check_batch_size('batch_size', config.batch_size, mesh, config.grad_accum_steps)
    model = make_model(config, mesh)
    abstract = state_lib.abstract_state(model, config, mesh)
    state_lib.check_networks(model, config, abstract)
    eval_step = evaluator.make_eval_step(config.eval.features, model, mesh)
    return mesh, model, abstract, eval_step


def _open_sources(config: Config) -> tuple[Source, Source]:
    """`open_sources`; also raises UserError if the class head is too small for the labels."""
    source, eval_source = open_sources(config)
    classes = getattr(config.generator, 'classes', source.num_classes)
    if class_targets(config) == 'labels' and source.num_classes > classes:
        raise UserError(
            f'{config.data.source} has {source.num_classes} classes and the class head {classes}: '
            f'set generator.classes to {source.num_classes}.'
        )
    return source, eval_source


def _check_same_data(config: Config, *sources: Source) -> None:
    """Raises UserError, in all processes, if they see different photographs."""
    seen = ' '.join(f'{len(source)} {source.fingerprint}' for source in sources)
    digest = np.frombuffer(hashlib.sha256(seen.encode()).digest(), np.int32)
    counts = [len(source) for source in sources]
    everywhere = multihost_utils.process_allgather(np.array([*counts, *digest]))
    everywhere = everywhere.reshape(-1, len(counts) + len(digest))
    if (everywhere != everywhere[0]).any():
        least, most = everywhere[:, : len(counts)].min(0), everywhere[:, : len(counts)].max(0)
        raise UserError(
            f'The processes see different photographs in {config.data.source} ({least[0]} to '
            f'{most[0]}) or in eval.source ({least[1]} to {most[1]}): give all machines the same '
            'files.'
        )


def lock_workdir(workdir: Path, stack: contextlib.ExitStack) -> lease.Lease | None:
    """Locks the workdir in process 0, for all processes, until `stack` ends.

    Returns:
        The lease of a workdir in a bucket, in process 0.

    Raises:
        UserError: in all processes, if another run uses the workdir.
    """
    return in_all_processes(lambda: _lock(workdir, stack), in_thread=True)


def _lock(workdir: Path, stack: contextlib.ExitStack) -> lease.Lease | None:
    if jax.process_index() > 0:
        return None
    log = progress.announcer()
    if not paths.is_bucket(workdir):
        stack.enter_context(lock.acquire(workdir, log))
        return None
    held = lease.acquire(workdir, log)
    stack.callback(held.release)
    return held


def check_workdir(config: Config, workdir: Path, source: Source, resume: bool) -> None:
    """Writes config.json. If the run resumes, config and data are first compared with it.

    Raises:
        UserError: if a fixed field or the data differs.
    """
    data = {'records': len(source), 'fingerprint': source.fingerprint}
    if resume:
        run = read_run(workdir)
        config_lib.check_resume(config, run['config'])
        if run['data'] != data:
            raise UserError(
                f'data.source has other files than when {workdir} was started '
                f'({data["records"]} records; {run["data"]["records"]} then): restore them, or '
                'start in another --workdir with init_from.'
            )
    if jax.process_index() == 0:
        description = {
            'schema_version': config_lib.SCHEMA_VERSION,
            'config': config_lib.to_dict(config),
            'data': data,
            'versions': writers.versions(),
        }
        files.write_json(workdir / 'config.json', description)


def starting_state(
    config: Config,
    model: GanModel,
    mesh: Mesh,
    checkpoints: checkpoint_lib.Manager,
    pretrained: Mapping[str, PyTree],
    log: Callable[[str], None],
    abstract: GanState | None = None,
) -> GanState:
    """The state of the newest checkpoint; without one, a new state.

    A new state takes its weights from `config.init_from`, or its backbones from `pretrained`, the
    result of `load_pretrained`. `abstract` is that of `state.abstract_state`, if the caller has it.

    Raises:
        UserError: if no checkpoint can be read, or the weights do not fit the networks.
    """
    abstract = abstract or state_lib.abstract_state(model, config, mesh)
    state = checkpoint_lib.restore_newest(checkpoints, abstract, log)
    if state is not None:
        log(f'resumed from step {int(state.step)}')
        return state
    state = state_lib.create_state(model, config, mesh, abstract)
    if config.init_from:
        if config.init_from == RELEASED:
            log('starts from the released weights of the generator')
        else:
            log(f'starts from the weights in {config.init_from}')
        return load_weights(config, state, mesh)
    for name, network in PRETRAINED.items():
        if network.backbone not in state.generator.params:
            continue
        if name in pretrained:
            log(f"the generator's {network.title} starts from {config.pretrained[name]}")
            state = state_lib.with_backbone(state, name, pretrained[name])
        else:
            log(
                f"the generator's {network.title} starts from random weights: set "
                f'pretrained.{name} to a file'
            )
    return state


def place_frozen(
    model: GanModel, pretrained: Mapping[str, PyTree], size: int, mesh: Mesh
) -> dict[str, PyTree]:
    """`make_frozen` on the devices; raises UserError as it does."""
    frozen = make_frozen(model, pretrained, size)
    return jax.device_put(frozen, sharding.state_shardings(frozen, mesh))


def log_run_info(
    config: Config, workdir: Path, source: Source, eval_source: Source
) -> Callable[[str], None]:
    """Prints the workdir, the data, and warnings about the data and class targets.

    Returns:
        A function that prints a line.
    """
    log = progress.announcer()
    log(f'writes to {paths.absolute(workdir)}')
    log(f'trains on {len(source)} photographs of {config.data.source}')
    if isinstance(source, Folder) and source.ignored:
        log(source.ignored)
    if config.data.source == 'sample':
        log('the built-in sample has only a few photographs: the networks will memorise them')
    if config.eval_every and not is_held_out(config, source, eval_source):
        log(NOT_HELD_OUT)
    if config.loss.weights.get('classes'):
        log(
            {
                'teacher': f'the class head learns from VGG16 in {config.pretrained["vgg16"]}',
                'labels': 'the class head learns from the labels of the data',
                'none': 'the class head and its loss are disabled: set pretrained.vgg16 to a file '
                "of VGG16's weights, or set data.labels",
            }[class_targets(config)]
        )
    return log
