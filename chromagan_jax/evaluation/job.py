"""The evaluation job, `--mode=eval`: scores checkpoints of a run."""

import functools
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from chromagan_jax import sharding
from chromagan_jax.config import Config, from_dict, validate
from chromagan_jax.data.inputs import (
    NOT_HELD_OUT,
    evaluates_elsewhere,
    evaluation_input,
    is_held_out,
    open_sources,
)
from chromagan_jax.data.sources import Picked, Source, make_source
from chromagan_jax.errors import PreemptedError, UserError
from chromagan_jax.evaluation import evaluator, report
from chromagan_jax.evaluation.report import details
from chromagan_jax.gan import checkpoints
from chromagan_jax.gan.state import generator_variables
from chromagan_jax.gan.workdir import read_run
from chromagan_jax.utils import files, progress, writers
from chromagan_jax.utils.agreement import in_any_process
from chromagan_jax.utils.preemption import stop_requests
from chromagan_jax.utils.watchdog import Watchdog

POLL = 2  # s between checks for a new checkpoint
_DELETING = 20  # s that training may take to delete a checkpoint


def evaluate_checkpoints(config: Config, workdir: Path) -> None:
    """Scores checkpoints of the run in `workdir`.

    The run's saved config is used, with `eval` and `stall_timeout` from `config`. Scores are
    appended to metrics_eval.jsonl. The four worst and the four best images by PSNR are written to
    samples_eval/, the values of each image to images_eval.json, and report.html is written. With
    `eval.write_images` all images are written to images_eval/.

    Raises:
        UserError: if there is no run, checkpoint or readable image, a field of `config` is wrong,
            or no new checkpoint appears within `eval.timeout`.
        PreemptedError: after SIGTERM or Ctrl-C; all scores are saved.
    """
    validate(config)
    run = from_dict(Config, read_run(workdir)['config'])
    run.eval = config.eval
    mesh = sharding.make_mesh()
    source, held_out = _open_source(run)
    log = progress.announcer()
    if not held_out:
        log(NOT_HELD_OUT)
    writes = jax.process_index() == 0  # one writer per file
    done = _scored(workdir)
    path = workdir / 'metrics_eval.jsonl'
    metrics_file = writers.Metrics(path, max(done, default=0)) if writes else None
    compiled: Any = None
    watchdog = Watchdog(config.stall_timeout)
    beat = lambda unreadable: watchdog.beat()
    with stop_requests() as stopping, watchdog.watch():
        for which in _which(config, run, workdir, done, stopping, watchdog):
            loaded = _load(workdir, which, mesh, config.eval.follow)
            if loaded is None:
                log(f'checkpoint {which} was deleted before it was scored: the next one follows')
                continue
            if compiled is None:
                compiled = (
                    evaluator.make_eval_step(run.eval.features, loaded.model, mesh),
                    evaluator.jit_step(evaluator.render_step, loaded.model, mesh),
                )
            variables = generator_variables(loaded.state)
            inputs = evaluation_input(run, source, mesh, run.data.workers)
            images = evaluator.image_scores(compiled[0], variables, inputs, mesh, beat)
            scores, step = evaluator.aggregate_metrics(images), int(loaded.state.step)
            if metrics_file:
                metrics_file.write(step, scores)
                metrics_file.flush()
            log(evaluator.summary(step, scores))
            render = functools.partial(_render, compiled[1], variables, run, mesh, beat)
            chosen = details.extremes(images)
            shown = {chosen[i]: each for i, each in render(Picked(source, chosen))}
            if writes:
                described = details.describe(step, source, run, scores, images, shown)
                _write_results(workdir, step, shown, described, log)
            if run.eval.write_images:
                folder = workdir / 'images_eval' / f'step_{step:08d}'
                write_images(folder, render(source), source, writes)


def _open_source(run: Config) -> tuple[Source, bool]:
    """Opens the evaluation source.

    The training source is opened only if it may be at the same location: this machine may not have
    it, or would have to copy it from a bucket.

    Returns:
        The source, and whether the run was trained on other photographs, as `is_held_out`.

    Raises:
        UserError: if a source does not exist or holds no images.
    """
    if evaluates_elsewhere(run):
        return make_source(run.eval.source, run.eval.split), True
    trained_on, source = open_sources(run)
    return source, is_held_out(run, trained_on, source)


def _load(workdir: Path, which: str, mesh: Mesh, following: bool) -> checkpoints.Loaded | None:
    """The run at a checkpoint; None if it was deleted by the training that is followed.

    Raises:
        UserError: if there is no such checkpoint, or it cannot be read.
    """
    try:
        return checkpoints.load(workdir, which, mesh)
    except UserError:
        end = time.monotonic() + (_DELETING if following else 0)
        while time.monotonic() < end:
            if int(which) not in checkpoints.kept_steps(workdir):
                return None
            time.sleep(POLL)
        raise


def _render(
    step: Any,
    variables: Any,
    run: Config,
    mesh: Mesh,
    report: Callable[[np.ndarray], None],
    source: Source,
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """`evaluator.render` of all photographs of a source."""
    return evaluator.render(step, variables, evaluation_input(run, source, mesh), mesh, report)


def _write_results(
    workdir: Path,
    step: int,
    shown: Mapping[int, Mapping[str, np.ndarray]],
    described: Mapping[str, Any],
    log: Callable[[str], None],
) -> None:
    """Writes the grid of the worst and best photographs, images_eval.json and report.html."""
    if (grid := evaluator.sample_grid(shown.values())) is not None:
        files.write_png(workdir / 'samples_eval' / f'step_{step:08d}.png', grid)
    files.write_json(workdir / report.DETAILS, described)
    report.try_to_write(workdir, log, part='eval.tmp')


def write_images(
    folder: Path,
    rendered: Iterable[tuple[int, Mapping[str, np.ndarray]]],
    source: Source,
    writes: bool = True,
) -> None:
    """Writes images as `folder`/colorized/NAME.png and `folder`/original/NAME.png.

    NAME is the index of the photograph in its source, with six digits, and its name.

    Args:
        folder: created if missing.
        rendered: result of `evaluator.render`. It is read to its end in every process.
        source: of the photographs.
        writes: whether this process writes.

    Raises:
        UserError: if a file cannot be written.
    """
    for index, images in rendered:
        stem = re.sub(r'[^A-Za-z0-9_.-]+', '_', Path(source.name(index)).stem)[:80]
        for label in ('colorized', 'original') if writes else ():
            pixels = (images[label] * 255).round().astype(np.uint8)
            files.write_png(folder / label / f'{index:06d}_{stem}.png', pixels)


def _scored(workdir: Path) -> set[int]:
    """The steps in metrics_eval.jsonl."""
    return {line['step'] for line in writers.read_metrics(workdir / 'metrics_eval.jsonl')}


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
        if in_any_process(stopping()):
            raise PreemptedError('stopped between two checkpoints: start it again to continue.')
