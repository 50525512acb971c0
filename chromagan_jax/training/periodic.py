"""Periodic actions of a run: evaluation, samples, the report and checkpoints.

Each action has an interval `every`, in steps, and is called as `action(state, step, logger)`. It
returns the state. An evaluation may reduce the learning rates in it.
"""

import contextlib
import itertools
from collections.abc import Mapping

import jax
import numpy as np

from chromagan_jax import sharding
from chromagan_jax.data.inputs import evaluation_input
from chromagan_jax.data.transforms import report_unreadable
from chromagan_jax.evaluation import evaluator, report
from chromagan_jax.gan import checkpoints as checkpoint_lib
from chromagan_jax.gan import optimizers
from chromagan_jax.gan.state import GanState, generator_variables
from chromagan_jax.training.setup import Run
from chromagan_jax.training.train_logger import TrainLogger
from chromagan_jax.utils import files

SAMPLES = 8  # images in a sample grid


def is_due(every: int, step: int, last: int) -> bool:
    """Whether an action is due at `step`: every `every` steps and at the last one; 0: never."""
    return every > 0 and (step % every == 0 or step == last)


class Evaluation:
    """Scores the generator, reduces the learning rates on a plateau and saves the best state."""

    def __init__(self, run: Run):
        self.every = run.config.eval_every
        self._run = run
        self._reported: set[int] = set()  # unreadable records of the evaluation source

    def __call__(self, state: GanState, step: int, logger: TrainLogger) -> GanState:
        run = self._run
        scores = self._score(state, logger)
        logger.write(step, scores)
        logger.progress.message(evaluator.summary(step, scores))
        state = reduce_on_plateau(run, state, scores, logger)
        score = evaluator.score(run.config.checkpoint.best_metric, scores)
        with run.watchdog.phase('save'):
            checkpoint_lib.save_if_best(run.best, step, state, score, run.eval_source.fingerprint)
        return state

    def _score(self, state: GanState, logger: TrainLogger) -> dict[str, float]:
        run = self._run

        def on_unreadable(unreadable: np.ndarray) -> None:
            run.watchdog.beat()
            left_out = sharding.gather_indices(unreadable)
            if jax.process_index() == 0:
                for sentence in report_unreadable(
                    run.eval_source, left_out, self._reported, 'is left out'
                ):
                    logger.progress.message(sentence)

        with run.watchdog.phase('evaluate'):
            inputs = evaluation_input(
                run.config, run.eval_source, run.mesh, run.config.data.workers
            )
            variables = generator_variables(state)
            images = evaluator.image_scores(
                run.eval_step, variables, inputs, run.mesh, on_unreadable
            )
        return evaluator.aggregate_metrics(images)


class Sampling:
    """Writes a grid of colorized images to workdir/samples and TensorBoard."""

    def __init__(self, run: Run):
        self.every = run.config.sample_every
        self._run = run
        self._step = evaluator.jit_step(evaluator.render_step, run.model, run.mesh, rows=SAMPLES)

    def __call__(self, state: GanState, step: int, logger: TrainLogger) -> GanState:
        run = self._run
        with (
            run.watchdog.phase('sample'),
            contextlib.closing(evaluation_input(run.config, run.eval_source, run.mesh)) as inputs,
        ):
            variables = generator_variables(state)
            rendered = evaluator.render(self._step, variables, inputs, run.mesh)
            images = [images for _, images in itertools.islice(rendered, SAMPLES)]
            grid = evaluator.sample_grid(images)
            if run.writes and grid is not None:
                files.write_png(run.workdir / 'samples' / f'step_{step:08d}.png', grid)
                logger.image(step, 'samples', grid)
        return state


class Reporting:
    """Writes report.html after each evaluation, in the process that writes files."""

    def __init__(self, run: Run):
        self.every = run.config.eval_every
        self._run = run

    def __call__(self, state: GanState, step: int, logger: TrainLogger) -> GanState:
        run = self._run
        if run.writes:
            with run.watchdog.phase('report'):
                report.try_to_write(run.workdir, logger.progress.message, logger.complete_files)
        return state


class Saving:
    """Saves the state in the background.

    metrics.jsonl is complete up to this step before the save begins, so that a run that resumes
    here lacks no line.
    """

    def __init__(self, run: Run):
        self.every = run.config.checkpoint_every
        self._run = run

    def __call__(self, state: GanState, step: int, logger: TrainLogger) -> GanState:
        with self._run.watchdog.phase('save'):
            logger.complete_files()
            checkpoint_lib.save(self._run.checkpoints, step, state)
        return state


def reduce_on_plateau(
    run: Run, state: GanState, scores: Mapping[str, float], logger: TrainLogger
) -> GanState:
    """Updates the plateau state and, after `patience` bad evaluations, the learning-rate scale."""
    config = run.config.reduce_lr_on_plateau
    if not config.patience:
        return state
    score = evaluator.score(config.metric, scores)
    plateau = optimizers.update_plateau(config, state.plateau, score)
    if plateau.scale != state.plateau.scale:
        logger.progress.message(
            f'{config.metric} has not improved for {config.patience} evaluations: the learning '
            f'rates are now multiplied by {float(plateau.scale):.3g}'
        )
    return state.replace(plateau=plateau)
