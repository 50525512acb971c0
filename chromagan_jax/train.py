"""The training loop; everything it calls lives elsewhere."""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from chromagan_jax import checkpoint, evaluate, files, sharding, steps, writers
from chromagan_jax import config as config_lib
from chromagan_jax import state as state_lib
from chromagan_jax.data import Source, report_unreadable
from chromagan_jax.data.inputs import (
    NOT_HELD_OUT,
    evaluation_input,
    is_held_out,
    open_sources,
    training_input,
)
from chromagan_jax.errors import DivergedError, PreemptedError, UserError
from chromagan_jax.preemption import stop_requests
from chromagan_jax.state import GanState, System

PyTree = Any

TRACED = (5, 9)  # --profile traces the steps of this start after the one, up to the other
SAMPLED = 8  # photographs in a sample grid
SHOWN = ('generator/loss', 'discriminator/loss', 'generator/l1')  # in the progress line


def train_and_evaluate(config: Any, workdir: Path, profile: bool = False) -> GanState:
    """Trains to `config.steps`, from the newest checkpoint in `workdir` if there is one.

    A step's metrics are read after the next step is dispatched, so that only the cadences wait for
    the devices. At a cadence the order is: evaluate, sample, save.

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
    mesh = sharding.make_mesh(config.mesh.fsdp)
    sharding.check_batch_size('batch_size', config.batch_size, mesh, config.accumulate)
    system = state_lib.make_system(config, mesh)
    state_lib.check_networks(system, config)
    source, eval_source = open_sources(config)

    with contextlib.ExitStack() as stack:
        stopping = stack.enter_context(stop_requests())
        say = introduce(config, workdir, source)
        checkpoints = checkpoint.open_checkpoints(workdir, config.checkpoint.max_to_keep)
        best = checkpoint.open_best(workdir)
        stack.enter_context(checkpoint.finishing(checkpoints, best))
        claim_workdir(config, workdir, source, resume=checkpoints.latest_step() is not None)
        state = starting_state(config, system, mesh, checkpoints, say)
        start = int(state.step)
        if start >= config.steps:
            say(f'step {start} is the last one: nothing is left to do')
            return state
        train_step = compile_train_step(system, config, mesh, say)
        eval_step = evaluate.compile_step(evaluate.eval_step, system, mesh)
        render_step = evaluate.compile_step(evaluate.render_step, system, mesh)

        progress = writers.Progress(config.steps, start, config.batch_size, writers.stream())
        stack.callback(progress.close)
        writes = jax.process_index() == 0  # one writer a file
        metrics_file = writers.Metrics(workdir / 'metrics.jsonl', start) if writes else None
        window: list[dict[str, float]] = []  # metrics of each step since the last line
        replaced: set[int] = set()  # records of the training source that were named
        left_out: set[int] = set()  # and of the evaluation source

        def read_metrics(step: int, metrics: PyTree, unreadable: np.ndarray) -> None:
            """Waits for `step`, and writes a line if one is due."""
            for sentence in report_unreadable(source, unreadable, replaced):
                progress.message(sentence)
            values = {name: float(value) for name, value in jax.device_get(metrics).items()}
            if not all(math.isfinite(value) for value in values.values()):
                check_finite(state, values)
            window.append(values | {'data/unreadable': float((unreadable >= 0).sum())})
            if step % config.log_every == 0 or step == config.steps:
                means = {name: float(np.mean([w[name] for w in window])) for name in window[0]}
                means['images_per_second'] = progress.images_per_second(step)
                window.clear()
                if metrics_file:
                    metrics_file.write(step, means)
                progress.report(step, {name: means[name] for name in SHOWN})

        def report_left_out(unreadable: np.ndarray) -> None:
            for sentence in report_unreadable(eval_source, unreadable, left_out, 'is left out'):
                progress.message(sentence)

        def at_cadence(step: int, stop: bool) -> None:
            """Does what is due at `step`."""
            last = step == config.steps

            def due(every: int) -> bool:
                return every > 0 and (step % every == 0 or last)

            variables = state_lib.generator_variables(state)
            if due(config.eval_every):
                inputs = evaluation_input(config, eval_source, mesh, config.data.workers)
                images = evaluate.image_scores(eval_step, variables, inputs, mesh, report_left_out)
                scores = evaluate.averages(images)
                if metrics_file:
                    metrics_file.write(step, scores)
                progress.message(evaluate.summary(step, scores))
                check_finite(state, metrics)
                score = evaluate.score(config.checkpoint.best_metric, scores)
                checkpoint.save_if_best(best, step, state, score)
            if due(config.sample_every):
                with contextlib.closing(evaluation_input(config, eval_source, mesh)) as inputs:
                    grid = evaluate.sample_grid(render_step, variables, inputs, mesh, SAMPLED)
                if metrics_file and grid is not None:
                    files.write_png(workdir / 'samples' / f'step_{step:08d}.png', grid)
                    metrics_file.image(step, 'samples', grid)
            if due(config.checkpoint_every) or stop:
                check_finite(state, metrics)
                checkpoint.save(checkpoints, step, state)

        cadences = (config.eval_every, config.sample_every, config.checkpoint_every)
        batches = training_input(config, source, mesh, start)
        stack.callback(batches.close)
        pending = None
        for step in range(start + 1, config.steps + 1):
            batch = next(batches)
            unreadable = batch.pop('unreadable')
            state, metrics = train_step(state, sharding.to_global(batch, mesh, config.accumulate))
            if pending:
                read_metrics(*pending)
            pending = (step, metrics, unreadable)
            if profile:
                trace(step - start, config.steps - start, workdir / 'profile', state)
            stop = step < config.steps and (stopping() or checkpoints.reached_preemption(step))
            if stop or step == config.steps or any(e and step % e == 0 for e in cadences):
                read_metrics(*pending)
                pending = None
                with progress.paused():
                    at_cadence(step, stop)
            if stop:
                raise PreemptedError(f'stopped at step {step}, which is saved; start it again.')
        return state


def compile_train_step(
    system: System, config: Any, mesh: Mesh, say: Callable[[str], None]
) -> Callable[[GanState, PyTree], tuple[GanState, dict[str, jax.Array]]]:
    """The train step for this config and mesh, compiled ahead of its first use."""
    began = time.monotonic()
    state = state_lib.abstract_state(system, config, mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = jax.jit(
        functools.partial(steps.train_step, system),
        donate_argnums=0,
        out_shardings=(shardings, NamedSharding(mesh, PartitionSpec())),
    )
    compiled = step.lower(state, state_lib.abstract_batch(config, mesh)).compile()
    say(f'compiled the train step in {time.monotonic() - began:.1f} s')
    return compiled


def claim_workdir(config: Any, workdir: Path, source: Source, resume: bool) -> None:
    """Writes config.json, after checking that a run which resumes is the one that it describes.

    Raises:
        UserError: naming the field, or the data, that differs.
    """
    data = {'records': len(source), 'fingerprint': source.fingerprint}
    if resume:
        run = checkpoint.read_run(workdir)
        config_lib.check_resume(config, run['config'])
        if run['data'] != data:
            raise UserError(
                f'data.source has other files than when {workdir} was started '
                f'({data["records"]} records; {run["data"]["records"]} then): set it back, or '
                'start in another --workdir with init_from.'
            )
    if jax.process_index() == 0:
        files.write_json(
            workdir / 'config.json',
            {'config': config.to_dict(), 'data': data, 'versions': writers.versions()},
        )


def starting_state(
    config: Any,
    system: System,
    mesh: Mesh,
    checkpoints: checkpoint.Manager,
    say: Callable[[str], None],
) -> GanState:
    """The newest checkpoint's state, or a new one, with the weights of `init_from` if asked for."""
    abstract = state_lib.abstract_state(system, config, mesh)
    state = checkpoint.restore_newest(checkpoints, abstract, say)
    if state is not None:
        say(f'resumed from step {int(state.step)}')
        return state
    state = state_lib.create_state(system, config, mesh)
    if config.init_from:
        state = checkpoint.load_weights(config, Path(config.init_from), state, mesh)
        say(f'starts from the weights in {config.init_from}')
    return state


def introduce(config: Any, workdir: Path, source: Source) -> Callable[[str], None]:
    """Says where the run writes, what it reads and what that is worth; returns how to say more."""
    say = writers.announcer()
    say(f'writes to {workdir.absolute()}')
    say(f'trains on {len(source)} photographs of {config.data.source}')
    if config.data.source == 'sample':
        say('the built-in sample is a handful of photographs: they are memorised, not learned from')
    if config.eval_every and not is_held_out(config):
        say(NOT_HELD_OUT)
    return say


def trace(done: int, steps: int, folder: Path, state: GanState) -> None:
    """Starts and stops the profiler around the `TRACED` steps of this start, `done` of `steps`."""
    first, last = min(TRACED[0], steps - 1), min(TRACED[1], steps)
    if done == first:
        jax.block_until_ready(state)
        jax.profiler.start_trace(str(folder))
    elif done == last:
        jax.block_until_ready(state)
        jax.profiler.stop_trace()


def check_finite(state: GanState, metrics: Mapping[str, Any]) -> None:
    """Raises DivergedError, naming step and term, if the state met a value that is not finite."""
    if (step := int(state.bad_step)) >= 0:
        term = sorted(metrics)[int(state.bad_term)]
        raise DivergedError(
            f'{term} was not finite at step {step}: checkpoints before it are good; go on from one '
            'with a lower learning rate or another seed (init_from, in another --workdir).'
        )
