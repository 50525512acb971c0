"""The evaluation job, `--mode=eval`: scores checkpoints of a run."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from chromagan_jax import sharding
from chromagan_jax.config import Config, from_dict
from chromagan_jax.data.inputs import NOT_HELD_OUT, evaluation_input, is_held_out, open_sources
from chromagan_jax.data.sources import Picked
from chromagan_jax.errors import PreemptedError, UserError
from chromagan_jax.evaluation import evaluator
from chromagan_jax.gan import checkpoints
from chromagan_jax.gan.state import generator_variables
from chromagan_jax.gan.workdir import read_run
from chromagan_jax.utils import files, paths, progress, writers
from chromagan_jax.utils.preemption import stop_requests
from chromagan_jax.utils.watchdog import Watchdog

POLL = 2  # s between checks for a new checkpoint


def evaluate_checkpoints(config: Config, workdir: Path) -> None:
    """Scores checkpoints of the run in `workdir`.

    The run's saved config is used, with `eval` and `stall_timeout` from `config`. Scores are
    appended to metrics_eval.jsonl. The four worst and the four best images by PSNR are written to
    samples_eval/.

    Raises:
        UserError: if there is no run, checkpoint or readable image, or if no new checkpoint
            appears within `eval.timeout`.
        PreemptedError: after SIGTERM or Ctrl-C; all scores are saved.
    """
    run = from_dict(Config, read_run(workdir)['config'])
    run.eval = config.eval
    mesh = sharding.make_mesh()
    source = open_sources(run)[1]
    log = progress.announcer()
    if not is_held_out(run):
        log(NOT_HELD_OUT)
    writes = jax.process_index() == 0  # one writer per file
    done = _scored(workdir)
    path = workdir / 'metrics_eval.jsonl'
    metrics_file = writers.Metrics(path, max(done, default=0)) if writes else None
    compiled: Any = None
    watchdog = Watchdog(config.stall_timeout)
    with stop_requests() as stopping, watchdog.watch():
        for which in _which(config, run, workdir, done, stopping, watchdog):
            loaded = checkpoints.load(workdir, which, mesh)
            if compiled is None:
                compiled = (
                    evaluator.make_eval_step(run.eval.features, loaded.model, mesh),
                    evaluator.compile_step(evaluator.render_step, loaded.model, mesh),
                )
            variables = generator_variables(loaded.state)
            inputs = evaluation_input(run, source, mesh, run.data.workers)
            beat = lambda unreadable: watchdog.beat()
            images = evaluator.image_scores(compiled[0], variables, inputs, mesh, beat)
            scores, step = evaluator.aggregate_metrics(images), int(loaded.state.step)
            if metrics_file:
                metrics_file.write(step, scores)
                metrics_file.flush()
            log(evaluator.summary(step, scores))
            order = images['index'][np.argsort(images['psnr'], kind='stable')].astype(int)
            shown = Picked(source, list(dict.fromkeys([*order[:4], *order[-4:]])))
            grid = evaluator.sample_grid(
                compiled[1], variables, evaluation_input(run, shown, mesh), mesh, len(shown)
            )
            if writes and grid is not None:
                files.write_png(workdir / 'samples_eval' / f'step_{step:08d}.png', grid)


def _scored(workdir: Path) -> set[int]:
    """The steps in metrics_eval.jsonl."""
    content = paths.read(workdir / 'metrics_eval.jsonl') or b''
    return {json.loads(line)['step'] for line in content.splitlines()}


def _which(
    config: Config,
    run: Config,
    workdir: Path,
    done: set[int],
    stopping: Callable[[], bool],
    watchdog: Watchdog,
) -> Iterator[str]:
    """`eval.checkpoint`; with `eval.follow`, each new checkpoint until the run's last step."""
    if not config.eval.follow:
        yield config.eval.checkpoint
        return
    newest_at = time.monotonic()
    while not done or max(done) < run.steps:
        watchdog.beat()
        new = [step for step in checkpoints.kept_steps(workdir) if step not in done]
        waited = time.monotonic() - newest_at > config.eval.timeout
        # Processes poll at different times, so all use the view of process 0. A signal to any
        # process stops all.
        views = multihost_utils.process_allgather(np.array([new[0] if new else -1, waited]))
        step, waited = views.reshape(-1, 2)[0].tolist()
        if step >= 0:
            done.add(step)
            yield str(step)
            newest_at = time.monotonic()
        elif waited:
            raise UserError(
                f'No new checkpoint in {workdir} for {config.eval.timeout} s: check that the '
                'training still runs, or raise eval.timeout.'
            )
        else:
            time.sleep(POLL)
        if multihost_utils.process_allgather(np.array(stopping())).any():
            raise PreemptedError('stopped between two checkpoints: start it again to continue.')
