"""Scores over a finite set of photographs, each counted once."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from chromagan_jax import color, metrics, sharding, steps, writers
from chromagan_jax.state import System

Array = jax.Array
PyTree = Any

# Metrics that can rank checkpoints, and the sign that makes the lower score the better one.
VISIBLE = 128  # px to which smaller pictures are enlarged in a grid
LABELS = ('gray', 'colorized', 'original')
RANKING = {'ab_mae': 1, 'colorfulness_gap': 1, 'psnr': -1, 'ssim': -1}


def eval_step(system: System, variables: PyTree, batch: Mapping[str, Array]) -> dict[str, Array]:
    """Metrics of each image, (B,), and the batch's 'mask', which is 0 where none counts."""
    prediction = steps.predict(system, variables, batch['condition'])
    values = metrics.image_metrics(batch['condition'], batch['target'], prediction)
    return {**values, 'mask': batch['mask']}


def render_step(system: System, variables: PyTree, batch: Mapping[str, Array]) -> dict[str, Array]:
    """The pictures 'gray', 'colorized', 'original', (B, H, W, 3), RGB in [0, 1], and the 'mask'."""
    condition, target = batch['condition'], batch['target']
    gray = color.gray_target(condition, target.shape[-1])
    prediction = steps.predict(system, variables, condition)
    return {
        'gray': color.to_rgb(condition, gray),
        'colorized': color.to_rgb(condition, prediction),
        'original': color.to_rgb(condition, target),
        'mask': batch['mask'],
    }


def compile_step(
    step: Callable[..., PyTree], system: System, mesh: Mesh
) -> Callable[[PyTree, Mapping[str, Array]], PyTree]:
    """`eval_step` or `render_step` under jit, with results whole on every process."""
    return jax.jit(partial(step, system), out_shardings=NamedSharding(mesh, PartitionSpec()))


def evaluate(
    step: Callable[[PyTree, Mapping[str, Array]], dict[str, Array]],
    variables: PyTree,
    batches: Iterable[Mapping[str, np.ndarray]],
    mesh: Mesh,
) -> dict[str, float]:
    """Means over all images of `batches`, which hold each image once.

    The values of single images are gathered and averaged in float64 on the host, so that the
    figures do not depend on the batch size or on the number of devices and processes.

    Args:
      step: `eval_step`, compiled.
      variables: of the generator.
      batches: this process's rows: 'condition', 'target' and 'mask'.
      mesh: where to compute.

    Returns:
      'eval/psnr' and so on, 'eval/colorfulness_gap', and 'eval/images', how many were counted.
    """
    collected: list[dict[str, np.ndarray]] = []
    for batch in batches:
        inputs = {name: batch[name] for name in ('condition', 'target', 'mask')}
        collected.append(jax.device_get(step(variables, sharding.to_global(inputs, mesh))))
    values = {k: np.concatenate([c[k] for c in collected]).astype(np.float64) for k in collected[0]}
    counted = values.pop('mask') > 0
    # A gray original is no evidence of what gray costs, and its PSNR would be infinite.
    colored = counted & (values['psnr_gray'] < metrics.PSNR_CAP)
    means = {
        name: float(value[colored if name == 'psnr_gray' else counted].mean())
        for name, value in values.items()
        if (colored if name == 'psnr_gray' else counted).any()
    }
    if counted.any():
        gap = abs(means['colorfulness'] - means['colorfulness_original'])
        means['colorfulness_gap'] = gap
    return {f'eval/{name}': value for name, value in means.items()} | {
        'eval/images': float(counted.sum())
    }


def score(metric: str, scores: Mapping[str, float]) -> float:
    """The lower the better, whatever the metric (a key of `RANKING`)."""
    return RANKING[metric] * scores[f'eval/{metric}']


def summary(step: int, scores: Mapping[str, float]) -> str:
    """One line for people: each figure beside the gray image's."""
    return (
        f'step {step}: PSNR {scores["eval/psnr"]:.2f} dB (gray {scores["eval/psnr_gray"]:.2f}), '
        f'SSIM {scores["eval/ssim"]:.3f} (gray {scores["eval/ssim_gray"]:.3f}), '
        f'ab error {scores["eval/ab_mae"]:.2f} (gray {scores["eval/ab_mae_gray"]:.2f}), '
        f'colorfulness {scores["eval/colorfulness"]:.1f} '
        f'of {scores["eval/colorfulness_original"]:.1f}'
    )


def sample_grid(
    step: Callable[[PyTree, Mapping[str, Array]], dict[str, Array]],
    variables: PyTree,
    batch: Mapping[str, np.ndarray],
    mesh: Mesh,
    most: int,
) -> np.ndarray:
    """A picture of up to `most` photographs of a batch: gray | colorized | original.

    Args:
        step: `render_step`, compiled.
        variables: of the generator.
        batch: this process's rows of an evaluation batch.
        mesh: where to compute.
        most: how many photographs to show.

    Returns:
        (H, W, 3) uint8.
    """
    inputs = {name: batch[name] for name in ('condition', 'target', 'mask')}
    pictures = jax.device_get(step(variables, sharding.to_global(inputs, mesh)))
    shown = np.flatnonzero(pictures['mask'])[:most]
    zoom = max(1, VISIBLE // pictures['gray'].shape[1])
    rows = [[pictures[label][i].repeat(zoom, 0).repeat(zoom, 1) for label in LABELS] for i in shown]
    return writers.sample_grid(rows, LABELS)
