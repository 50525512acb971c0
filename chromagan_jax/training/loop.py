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
from chromagan_jax.data.inputs import training_input
from chromagan_jax.errors import PreemptedError
from chromagan_jax.gan import state as state_lib
from chromagan_jax.gan import steps
from chromagan_jax.gan.model import GanModel, load_pretrained
from chromagan_jax.gan.state import GanState
from chromagan_jax.training.periodic import Evaluation, Sampling, Saving, is_due
from chromagan_jax.training.setup import Run, open_run, place_frozen, starting_state
from chromagan_jax.training.train_logger import TrainLogger
from chromagan_jax.utils import writers

PyTree = Any
Step = Callable[[GanState, PyTree, PyTree], tuple[GanState, dict[str, jax.Array]]]

PROFILE_STEPS = (5, 9)  # --profile traces the steps of this start after the one, up to the other


def train_and_evaluate(config: Config, workdir: Path, profile: bool = False) -> GanState:
    """Trains to `config.steps`, from the newest checkpoint in `workdir` if there is one.

    A step's metrics are read after the next step is dispatched, so that only evaluations, samples
    and saves wait for the devices. Of these, all that are due at a step happen in this order.

    Args:
        config: config/schema.py documents the fields.
        workdir: where all that the run makes is written.
        profile: trace a few steps into workdir/profile.

    Returns:
        The state after the last step, which is the restored one if no step was left to do.

    Raises:
        UserError: for what the user can fix.
        DivergedError: when a loss or gradient is not finite; no such state is saved.
        PreemptedError: after SIGTERM or Ctrl-C, once the state is saved.
    """
    with contextlib.ExitStack() as stack:
        run = open_run(config, workdir, stack)
        pretrained = load_pretrained(config.pretrained)
        with run.watchdog.phase('restore'):
            state = starting_state(
                config, run.model, run.mesh, run.checkpoints, pretrained, run.log
            )
        frozen = place_frozen(run.model, pretrained, config.data.size, run.mesh)
        start = int(state.step)
        if start >= config.steps:
            run.log(f'step {start} is the last one: nothing is left to do')
            return state
        train_step, pretrain_step = compile_steps(run, start)
        metrics_file = writers.Metrics(workdir / 'metrics.jsonl', start) if run.writes else None
        logger = TrainLogger(run, start, metrics_file)
        stack.callback(logger.close)
        actions = (Evaluation(run), Sampling(run), Saving(run))
        batches = training_input(config, run.source, run.mesh, start)
        stack.callback(batches.close)
        stack.enter_context(run.watchdog.phase('step'))

        for step in range(start + 1, config.steps + 1):
            with run.watchdog.phase('data'):
                batch = next(batches)
            records = {name: batch.pop(name) for name in ('unreadable', 'damage')}
            inputs = sharding.to_global(batch, run.mesh, config.grad_accum_steps)
            update = pretrain_step if step <= config.pretrain_steps else train_step
            state, metrics = update(state, inputs, frozen)
            logger.push(step, metrics, **records)
            if profile:
                trace(step - start, config.steps - start, workdir / 'profile', state)
            stop = step < config.steps and (
                run.stopping() or run.checkpoints.reached_preemption(step)
            )
            due = [each for each in actions if is_due(each.every, step, config.steps)]
            if stop and actions[-1] not in due:
                due.append(actions[-1])
            if due:
                logger.flush()
                with logger.progress.paused():
                    for action in due:
                        state = action(state, step, logger)
            if stop:
                raise PreemptedError(f'stopped at step {step}, which is saved; start it again.')
        return state


def compile_steps(run: Run, start: int) -> tuple[Step, Step]:
    """The train step and the pretrain step; without pretrain steps left to do, the first twice."""
    with run.watchdog.phase('compile'):
        parts = (run.model, run.config, run.mesh, run.log)
        train_step = compile_step(*parts, steps.train_step)
        if start >= run.config.pretrain_steps:
            return train_step, train_step
        return train_step, compile_step(*parts, steps.pretrain_step)


def compile_step(
    model: GanModel,
    config: Config,
    mesh: Mesh,
    log: Callable[[str], None],
    step: Callable[..., tuple[GanState, dict[str, jax.Array]]],
) -> Step:
    """A step of `steps` for a model and mesh, compiled ahead of its first use."""
    began = time.monotonic()

    def call(state: GanState, batch: PyTree, frozen: PyTree) -> tuple[GanState, PyTree]:
        return step(model, state, batch, frozen)

    state = state_lib.abstract_state(model, config, mesh)
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
    compiled = jitted.lower(state, *inputs).compile()
    name = step.__name__.replace('_', ' ')
    log(f'compiled the {name} in {time.monotonic() - began:.1f} s')
    return compiled


def trace(done: int, steps: int, folder: Path, state: GanState) -> None:
    """Starts and stops the profiler around `PROFILE_STEPS` of this start, `done` of `steps`."""
    first, last = min(PROFILE_STEPS[0], steps - 1), min(PROFILE_STEPS[1], steps)
    if done == first:
        jax.block_until_ready(state)
        jax.profiler.start_trace(str(folder))
    elif done == last:
        jax.block_until_ready(state)
        jax.profiler.stop_trace()
