"""The training loop; everything it calls lives elsewhere."""

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from chromagan_jax import config as config_lib
from chromagan_jax import models, sharding
from chromagan_jax.data.decode import KINDS
from chromagan_jax.data.inputs import evaluation_input, open_sources, training_input
from chromagan_jax.data.transforms import report_unreadable
from chromagan_jax.errors import PreemptedError
from chromagan_jax.evaluation import evaluator
from chromagan_jax.gan import checkpoints as checkpoint_lib
from chromagan_jax.gan import optimizers, steps
from chromagan_jax.gan import state as state_lib
from chromagan_jax.gan.state import GanState, System
from chromagan_jax.training import setup
from chromagan_jax.training.train_logger import Journal, check_finite
from chromagan_jax.utils import files, writers
from chromagan_jax.utils.preemption import stop_requests
from chromagan_jax.utils.watchdog import Pulse

PyTree = Any

TRACED = (5, 9)  # --profile traces the steps of this start after the one, up to the other
SAMPLED = 8  # photographs in a sample grid


def train_and_evaluate(config: Any, workdir: Path, profile: bool = False) -> GanState:
    """Trains to `config.steps`, from the newest checkpoint in `workdir` if there is one.

    A step's metrics are read after the next step is dispatched, so that only the cadences wait for
    the devices. At a cadence the order is: evaluate, plateau, sample, save.

    Args:
        config: configs/base.py lists the fields.
        workdir: where all that the run makes is written.
        profile: trace a few steps into workdir/profile.

    Returns:
        The state after the last step, which is the restored one if nothing was left to do.

    Raises:
        UserError: for what the user can mend.
        DivergedError: when a loss or gradient is not finite; no such state is saved.
        PreemptedError: after SIGTERM or Ctrl-C, once the state is saved.
    """
    config_lib.validate(config)
    evaluator.check_ranking('checkpoint.best_metric', config.checkpoint.best_metric)
    evaluator.check_ranking('plateau.metric', config.plateau.metric)
    mesh = sharding.make_mesh(config.mesh.fsdp)
    sharding.check_batch_size('batch_size', config.batch_size, mesh, config.accumulate)
    system = state_lib.make_system(config, mesh)
    state_lib.check_networks(system, config)
    source, eval_source = open_sources(config)
    eval_step = evaluator.make_eval_step(config, system, mesh)

    with contextlib.ExitStack() as stack:
        stopping = stack.enter_context(stop_requests(agreed=True))
        say = setup.introduce(config, workdir, source)
        writes = jax.process_index() == 0  # one writer a file
        pulse = Pulse(config.stall_timeout, workdir / 'heartbeat.json' if writes else None)
        stack.enter_context(pulse.watch())
        checkpoints = checkpoint_lib.open_checkpoints(workdir, config.checkpoint.max_to_keep)
        best = checkpoint_lib.open_best(workdir)
        stack.enter_context(checkpoint_lib.finishing(checkpoints, best))
        setup.claim_workdir(config, workdir, source, resume=checkpoints.latest_step() is not None)
        pretrained = models.load_pretrained(config)
        with pulse.phase('restore'):
            state = setup.starting_state(config, system, mesh, checkpoints, pretrained, say)
        teacher = setup.place_teacher(system, pretrained.get('vgg16'), mesh)
        start = int(state.step)
        if start >= config.steps:
            say(f'step {start} is the last one: nothing is left to do')
            return state
        with pulse.phase('compile'):
            train_step, pretrain_step = compile_steps(system, config, mesh, say, start)
        render_step = evaluator.compile_step(evaluator.render_step, system, mesh)
        metrics_file = writers.Metrics(workdir / 'metrics.jsonl', start) if writes else None
        journal = Journal(config, source, start, metrics_file, pulse)
        stack.callback(journal.close)
        left_out: set[int] = set()  # records of the evaluation source that were named

        def report_left_out(unreadable: np.ndarray) -> None:
            pulse.beat()
            for sentence in report_unreadable(eval_source, unreadable, left_out, 'is left out'):
                journal.progress.message(sentence)

        def at_cadence(state: GanState, step: int, stop: bool) -> GanState:
            """Does what is due at `step`; only the plateau changes in the state."""

            def due(every: int) -> bool:
                return every > 0 and (step % every == 0 or step == config.steps)

            variables = state_lib.generator_variables(state)
            if due(config.eval_every):
                with pulse.phase('evaluate'):
                    inputs = evaluation_input(config, eval_source, mesh, config.data.workers)
                    images = evaluator.image_scores(
                        eval_step, variables, inputs, mesh, report_left_out
                    )
                scores = evaluator.aggregate_metrics(images)
                if metrics_file:
                    metrics_file.write(step, scores)
                journal.progress.message(evaluator.summary(step, scores))
                check_finite(state, metrics)
                state = reduce_on_plateau(config, state, scores, journal.progress.message)
                score = evaluator.score(config.checkpoint.best_metric, scores)
                with pulse.phase('save'):
                    checkpoint_lib.save_if_best(best, step, state, score)
            if due(config.sample_every):
                with (
                    pulse.phase('sample'),
                    contextlib.closing(evaluation_input(config, eval_source, mesh)) as inputs,
                ):
                    grid = evaluator.sample_grid(render_step, variables, inputs, mesh, SAMPLED)
                    write_samples(workdir, step, metrics_file, grid)
            if due(config.checkpoint_every) or stop:
                check_finite(state, metrics)
                with pulse.phase('save'):
                    checkpoint_lib.save(checkpoints, step, state)
            return state

        cadences = (config.eval_every, config.sample_every, config.checkpoint_every)
        batches = training_input(config, source, mesh, start)
        stack.callback(batches.close)
        stack.enter_context(pulse.phase('step'))
        pending = None
        for step in range(start + 1, config.steps + 1):
            with pulse.phase('data'):
                batch = next(batches)
            unreadable = batch.pop('unreadable')
            update = pretrain_step if step <= config.pretrain_steps else train_step
            inputs = sharding.to_global(batch, mesh, config.accumulate)
            state, metrics = update(state, inputs, teacher)
            if pending:
                journal.read(state, *pending)
            pending = (step, metrics, unreadable)
            if profile:
                trace(step - start, config.steps - start, workdir / 'profile', state)
            stop = step < config.steps and (stopping() or checkpoints.reached_preemption(step))
            if stop or step == config.steps or any(e and step % e == 0 for e in cadences):
                journal.read(state, *pending)
                pending = None
                with journal.progress.paused():
                    state = at_cadence(state, step, stop)
            if stop:
                raise PreemptedError(f'stopped at step {step}, which is saved; start it again.')
        return state


def write_samples(
    workdir: Path, step: int, metrics_file: writers.Metrics | None, grid: np.ndarray | None
) -> None:
    """Writes a sample grid, if there is one and this is the process that writes."""
    if metrics_file and grid is not None:
        files.write_png(workdir / 'samples' / f'step_{step:08d}.png', grid)
        metrics_file.image(step, 'samples', grid)


def compile_steps(
    system: System, config: Any, mesh: Mesh, say: Callable[[str], None], start: int
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The train step and the pretrain step; where none of those is left to do, no second one."""
    train_step = compile_step(system, config, mesh, say, steps.train_step)
    if start >= config.pretrain_steps:
        return train_step, train_step
    return train_step, compile_step(system, config, mesh, say, steps.pretrain_step)


def compile_step(
    system: System,
    config: Any,
    mesh: Mesh,
    say: Callable[[str], None],
    step: Callable[..., tuple[GanState, dict[str, jax.Array]]],
) -> Callable[[GanState, PyTree, PyTree], tuple[GanState, dict[str, jax.Array]]]:
    """A step of `steps` for this config and mesh, compiled ahead of its first use.

    Its metrics also count the unreadable records of the whole batch, by kind.
    """

    def counted(state: GanState, batch: Any, teacher: PyTree) -> tuple[GanState, PyTree]:
        state, metrics = step(system, state, batch, teacher)
        kinds = range(1, len(KINDS) + 1)
        counts = [jnp.sum(batch['damage'] == kind, dtype=jnp.float32) for kind in kinds]
        named = {f'data/{name}': count for name, count in zip(KINDS, counts, strict=True)}
        return state, metrics | named | {'data/unreadable': sum(counts)}

    began = time.monotonic()
    state = state_lib.abstract_state(system, config, mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    jitted = jax.jit(
        counted,
        donate_argnums=0,
        out_shardings=(shardings, NamedSharding(mesh, PartitionSpec())),
    )
    inputs = (
        state_lib.abstract_batch(config, mesh),
        state_lib.abstract_teacher(system, config, mesh),
    )
    compiled = jitted.lower(state, *inputs).compile()
    name = step.__name__.replace('_', ' ')
    say(f'compiled the {name} in {time.monotonic() - began:.1f} s')
    return compiled


def reduce_on_plateau(
    config: Any, state: GanState, scores: Mapping[str, float], say: Callable[[str], None]
) -> GanState:
    """Counts an evaluation in, and says so if the learning rates fall."""
    if not config.plateau.patience:
        return state
    score = evaluator.score(config.plateau.metric, scores)
    plateau = optimizers.update_plateau(config.plateau, state.plateau, score)
    if plateau.scale != state.plateau.scale:
        say(
            f'{config.plateau.metric} has not improved for {config.plateau.patience} evaluations: '
            f'the learning rates fall to {float(plateau.scale):.3g} of theirs'
        )
    return state.replace(plateau=plateau)


def trace(done: int, steps: int, folder: Path, state: GanState) -> None:
    """Starts and stops the profiler around the `TRACED` steps of this start, `done` of `steps`."""
    first, last = min(TRACED[0], steps - 1), min(TRACED[1], steps)
    if done == first:
        jax.block_until_ready(state)
        jax.profiler.start_trace(str(folder))
    elif done == last:
        jax.block_until_ready(state)
        jax.profiler.stop_trace()
