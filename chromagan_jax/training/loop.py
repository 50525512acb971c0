"""The training loop."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from chromagan_jax import sharding
from chromagan_jax.config import Config
from chromagan_jax.config.resume import fields_of_step
from chromagan_jax.data.gray import warn_if_gray
from chromagan_jax.data.inputs import training_input
from chromagan_jax.errors import PreemptedError
from chromagan_jax.gan import state as state_lib
from chromagan_jax.gan import steps
from chromagan_jax.gan.model import GanModel, load_pretrained
from chromagan_jax.gan.state import GanState
from chromagan_jax.training.periodic import Evaluation, Reporting, Sampling, Saving, is_due
from chromagan_jax.training.setup import Run, open_run, place_frozen, starting_state
from chromagan_jax.training.train_logger import TrainLogger
from chromagan_jax.utils import paths, programs, writers
from chromagan_jax.utils.agreement import in_all_processes

PyTree = Any
Step = Callable[[GanState, PyTree, PyTree], tuple[GanState, dict[str, jax.Array]]]

PROFILE_STEPS = (5, 9)  # --profile traces the steps after the first number, up to the second


def train_and_evaluate(config: Config, workdir: Path, profile: bool = False) -> GanState:
    """Trains up to step `config.steps`, and resumes from the newest checkpoint in `workdir`.

    The metrics of a step are read after the next step is dispatched. Therefore only evaluation,
    sampling and saving wait for the devices. At one step they run in this order.

    Args:
        config: see config/schema.py.
        workdir: folder for all output of the run.
        profile: whether to write a trace of a few steps to workdir/profile.

    Returns:
        The state after the last step; the restored state if all steps were done before.

    Raises:
        UserError: if the config, data or workdir is wrong, or a file cannot be read or written.
        DivergedError: if a loss or gradient is not finite; that state is not saved.
        PreemptedError: after SIGTERM or Ctrl-C; the state is saved.
    """
    with contextlib.ExitStack() as stack:
        run = open_run(config, workdir, stack)
        state, frozen = initial_state(run)
        start = int(state.step)
        if start >= config.steps:
            run.log(f'step {start} is the last one: nothing is left to do')
            return state
        step_of = compile_steps(run, start)
        metrics_file = writers.Metrics(workdir / 'metrics.jsonl', start) if run.writes else None
        logger = TrainLogger(run, start, metrics_file)
        stack.callback(logger.close)
        actions = (Evaluation(run), Sampling(run), Reporting(run), Saving(run))
        inputs = training_input(config, run.source, run.mesh, start)
        stack.callback(inputs.close)
        batches = warn_if_gray(
            inputs, config.steps - start, config.data.source, logger.progress.message
        )
        stack.enter_context(run.watchdog.phase('step'))

        for step in range(start + 1, config.steps + 1):
            with run.watchdog.phase('data'):
                batch = next(batches)
            records = {name: batch.pop(name) for name in ('unreadable', 'damage')}
            placed = sharding.to_global(batch, run.mesh, config.grad_accum_steps)
            state, metrics = step_of(step)(state, placed, frozen)
            logger.push(step, metrics, **records)
            if profile:
                profile_steps(step - start, config.steps - start, workdir / 'profile', state)
            stop = step < config.steps and stop_requested(run, step)
            due = [each for each in actions if is_due(each.every, step, config.steps)]
            if stop and actions[-1] not in due:
                due.append(actions[-1])
            if due:
                logger.flush()
                with logger.progress.paused():
                    for action in due:
                        state = action(state, step, logger)
            if stop:
                raise PreemptedError(f'stopped at step {step}, which is saved: start it again.')
        return state


def initial_state(run: Run) -> tuple[GanState, dict[str, PyTree]]:
    """The state to start from, and the parameters of the frozen networks."""
    pretrained = in_all_processes(lambda: load_pretrained(run.config.pretrained))
    # First: it fails at once without its weights, and the state takes up to a minute.
    frozen = place_frozen(run.model, pretrained, run.config.data.size, run.mesh)
    with run.watchdog.phase('restore'):
        state = starting_state(
            run.config, run.model, run.mesh, run.checkpoints, pretrained, run.log, run.abstract
        )
    return state, frozen


def stop_requested(run: Run, step: int) -> bool:
    """Whether the run was asked to stop; all processes get the same answer at a step."""
    return run.stopping() or run.checkpoints.reached_preemption(step)


def compile_steps(run: Run, start: int) -> Callable[[int], Step]:
    """Compiles the step functions that are still needed after step `start`.

    Returns:
        A function: number of a step, from 1 -> its compiled step function.
    """
    phases = step_functions(run.config)
    with run.watchdog.phase('compile'):
        compiled = {
            last: compile_step(run.model, run.config, run.mesh, run.log, function, run.abstract)
            for last, function in phases.items()
            if last > start
        }
    return lambda step: compiled[min(last for last in compiled if step <= last)]


def step_functions(config: Config) -> dict[int, Callable[..., Any]]:
    """The step function of each phase of a run, by the last step of the phase."""
    pretrained = config.pretrain_steps
    warm = pretrained + config.discriminator_warmup_steps
    functions = {config.steps: steps.train_step}
    if warm > pretrained:
        functions[min(warm, config.steps)] = steps.warmup_step
    if pretrained:
        functions[min(pretrained, config.steps)] = steps.pretrain_step
    return functions


def trace_step(
    model: GanModel,
    config: Config,
    mesh: Mesh,
    step: Callable[..., tuple[GanState, dict[str, jax.Array]]],
    abstract: GanState | None = None,
) -> Any:
    """A step function of `gan.steps`, traced for the devices of a mesh and not yet lowered.

    `abstract` is that of `state.abstract_state`, if the caller has it.
    """

    def call(state: GanState, batch: PyTree, frozen: PyTree) -> tuple[GanState, PyTree]:
        return step(model, state, batch, frozen)

    state = abstract or state_lib.abstract_state(model, config, mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    jitted = jax.jit(
        call,
        donate_argnums=0,
        out_shardings=(shardings, NamedSharding(mesh, PartitionSpec())),
    )
    inputs = (
        state_lib.abstract_batch(config, mesh),
        state_lib.abstract_frozen(model, config, mesh),
    )
    return jitted.trace(state, *inputs)


def compile_step(
    model: GanModel,
    config: Config,
    mesh: Mesh,
    log: Callable[[str], None],
    step: Callable[..., tuple[GanState, dict[str, jax.Array]]],
    abstract: GanState | None = None,
) -> Step:
    """Compiles a step function of `gan.steps` ahead of its first call, or loads it compiled.

    The arguments are those of `trace_step`.
    """
    began, done = time.monotonic(), 'loaded'

    def make() -> Any:
        nonlocal done
        done = 'compiled'
        return trace_step(model, config, mesh, step, abstract).lower().compile()

    networks = model.generator, model.discriminator
    made_from = step.__name__, fields_of_step(config), mesh
    devices = mesh.devices.ravel().tolist()
    compiled = programs.cached('step', networks, made_from, devices, make)
    name = step.__name__.replace('_', ' ')
    log(f'{done} the {name} in {time.monotonic() - began:.1f} s')
    return compiled


def profile_steps(done: int, total: int, folder: Path, state: GanState) -> None:
    """Starts and stops the profiler at `PROFILE_STEPS`. A single step is not traced.

    Args:
        done: steps done since this start.
        total: steps from this start to the end of the run.
        folder: where the trace is written.
        state: waited for, so that the trace holds whole steps.
    """
    first, last = min(PROFILE_STEPS[0], total - 1), min(PROFILE_STEPS[1], total)
    if first < 1:
        return
    if done == first:
        jax.block_until_ready(state)
        jax.profiler.start_trace(str(paths.local_stand_in(folder)))
    elif done == last:
        jax.block_until_ready(state)
        jax.profiler.stop_trace()
        paths.upload(folder)
