"""Scores over a finite set of photographs, each counted once."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from chromagan_jax import color, sharding
from chromagan_jax.errors import UserError
from chromagan_jax.evaluation import measures, metrics
from chromagan_jax.gan import steps
from chromagan_jax.gan.model import GanModel, gathered
from chromagan_jax.models.pretrained import squeezenet
from chromagan_jax.utils import writers

Array = jax.Array
PyTree = Any

VISIBLE = 128  # px to which smaller pictures are enlarged in a grid
LABELS = ('gray', 'colorized', 'original')


def eval_step(
    model: GanModel,
    variables: PyTree,
    batch: Mapping[str, Array],
    network: squeezenet.Params | None = None,
) -> dict[str, Array]:
    """Metrics of each image, (B, ...), beside the batch's 'mask' (0 where none counts) and 'index'.

    With a network also the features of each of the `LABELS` pictures, 'features_gray' and so on.
    """
    prediction = steps.predict(
        model.generator, gathered(model.replicated, variables), batch['condition']
    )
    values = metrics.image_metrics(batch['condition'], batch['target'], prediction)
    if network is not None:
        pictures = render_step(model, variables, batch)
        for label in LABELS:
            seen = measures.quantize(pictures[label])
            values[f'features_{label}'] = squeezenet.features(network, seen)
    return {**values, 'mask': batch['mask'], 'index': batch['index']}


def render_step(model: GanModel, variables: PyTree, batch: Mapping[str, Array]) -> dict[str, Array]:
    """The pictures 'gray', 'colorized', 'original', (B, H, W, 3), RGB in [0, 1], and the 'mask'."""
    condition, target = batch['condition'], batch['target']
    gray = color.gray_target(condition, target.shape[-1])
    prediction = steps.predict(model.generator, gathered(model.replicated, variables), condition)
    return {
        'gray': color.to_rgb(condition, gray),
        'colorized': color.to_rgb(condition, prediction),
        'original': color.to_rgb(condition, target),
        'mask': batch['mask'],
    }


def compile_step(step: Callable[..., PyTree], model: GanModel, mesh: Mesh) -> Callable[..., PyTree]:
    """`eval_step` or `render_step` under jit, with results whole on every process."""
    return jax.jit(partial(step, model), out_shardings=NamedSharding(mesh, PartitionSpec()))


def make_eval_step(
    features: str, model: GanModel, mesh: Mesh
) -> Callable[[PyTree, Mapping[str, Array]], dict[str, Array]]:
    """`eval_step`, compiled, with SqueezeNet's features if `features` names a file of its weights.

    Raises:
        UserError: if its file cannot be read.
    """
    step = compile_step(eval_step, model, mesh)
    if not features:
        return step
    network = squeezenet.load(features)
    return partial(step, network=jax.device_put(network, NamedSharding(mesh, PartitionSpec())))


def image_scores(
    step: Callable[[PyTree, Mapping[str, Array]], dict[str, Array]],
    variables: PyTree,
    batches: Iterable[Mapping[str, np.ndarray]],
    mesh: Mesh,
    report: Callable[[np.ndarray], None] = lambda unreadable: None,
) -> dict[str, np.ndarray]:
    """The metrics of every readable image, (N, ...), and its 'index' in the source.

    They are gathered on the host, so that what is made of them does not depend on the batch size
    or on the number of devices and processes. The histograms and features of 50,000 images take
    half a gigabyte.

    Args:
        step: `eval_step`, compiled.
        variables: of the generator.
        batches: this process's rows; all batches together hold each image once.
        mesh: where to compute.
        report: told which of this process's records could not be read.

    Raises:
        UserError: if no image could be read.
    """
    collected: list[dict[str, np.ndarray]] = []
    for batch in batches:
        report(batch['unreadable'])
        inputs = {name: batch[name] for name in ('condition', 'target', 'mask')}
        inputs['index'] = batch['index'].astype(np.int32)
        collected.append(jax.device_get(step(variables, sharding.to_global(inputs, mesh))))
    values = {name: np.concatenate([c[name] for c in collected]) for name in collected[0]}
    counted = values.pop('mask') > 0
    if not counted.any():
        raise UserError('No photograph of eval.source could be read: name another folder.')
    return {name: value[counted] for name, value in values.items()}


def aggregate_metrics(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    """'eval/psnr' and so on: the figures of `metrics.METRICS`, and 'eval/images', their number.

    A figure is missing where something that it reads is, or where no image has one:
    'eval/psnr_gray' and 'eval/frechet_of_gray' if all originals are gray, both figures of
    blotchiness if no original has colour where it is smooth, 'eval/frechet' without features.

    Args:
        values: of `image_scores`.
    """
    figures: dict[str, float] = {}
    for name, metric in _figures().items():
        known = {**values, **figures}
        if all(read in known for read in metric.reads):
            figure = metric.reduce(*(known[read] for read in metric.reads))
            if figure is not None:
                figures[f'eval/{name}'] = figure
    return figures | {'eval/images': float(len(values['index']))}


def _figures() -> dict[str, metrics.Metric]:
    """`METRICS` with what each reads, and the figures beside that have no entry of their own."""
    found = {}
    for name, metric in metrics.METRICS.items():
        found[name] = metric._replace(reads=metric.reads or (name,))
        if metric.beside and not metric.reads:
            beside = f'{name}_{metric.beside}'
            found[beside] = metrics.METRICS.get(beside, metric._replace(reads=(beside,)))
    return found


def check_ranking(field: str, name: str) -> None:
    """Checks that a field of the config names a metric that can rank checkpoints.

    Raises:
        UserError: if it does not.
    """
    choices = sorted(name for name, metric in metrics.METRICS.items() if metric.better)
    if name not in choices:
        raise UserError(f'{field} is {name!r}; choose one of {", ".join(choices)}.')


def score(name: str, scores: Mapping[str, float]) -> float:
    """The figure of a metric that can rank, negated if higher is better: the lower the better.

    Raises:
        UserError: if the photographs have no such figure.
    """
    if f'eval/{name}' not in scores:
        raise UserError(
            f'No photograph of eval.source has a {name}: rank checkpoints by another metric.'
        )
    figure = scores[f'eval/{name}']
    return figure if metrics.METRICS[name].better == 'lower' else -figure


def summary(step: int, scores: Mapping[str, float]) -> str:
    """One line for people: each figure of the log beside the gray picture's or the original's."""
    parts = [
        _in_words(name, metric, scores)
        for name, metric in metrics.METRICS.items()
        if 'log' in metric.shown and f'eval/{name}' in scores
    ]
    return f'step {step}: {", ".join(parts)}'


def _in_words(name: str, metric: metrics.Metric, scores: Mapping[str, float]) -> str:
    """'PSNR 22.50 dB (gray 21.10)' or 'colorfulness 31.0 of 42.0'."""
    figure = metric.format.format(scores[f'eval/{name}'])
    text = ' '.join(filter(None, (metric.label or name, figure, metric.unit)))
    beside = scores.get(f'eval/{name}_{metric.beside}')
    shown = 'no colours' if beside is None else metric.format.format(beside)
    if metric.beside == 'gray':
        return f'{text} (gray {shown})'
    return f'{text} of {shown}' if metric.beside == 'original' else text


def sample_grid(
    step: Callable[[PyTree, Mapping[str, Array]], dict[str, Array]],
    variables: PyTree,
    batches: Iterable[Mapping[str, np.ndarray]],
    mesh: Mesh,
    most: int,
) -> np.ndarray | None:
    """The first `most` readable photographs of the batches, each gray | colorized | original.

    Args:
        step: `render_step`, compiled.
        variables: of the generator.
        batches: this process's rows of evaluation batches; only as many are read as it takes.
        mesh: where to compute.
        most: how many photographs to show.

    Returns:
        (H, W, 3) uint8, or None if no photograph can be read.
    """
    rows: list[list[np.ndarray]] = []
    for batch in batches:
        inputs = {name: batch[name] for name in ('condition', 'target', 'mask')}
        pictures = jax.device_get(step(variables, sharding.to_global(inputs, mesh)))
        zoom = max(1, VISIBLE // pictures['gray'].shape[1])
        for i in np.flatnonzero(pictures['mask'])[: most - len(rows)]:
            rows.append([pictures[label][i].repeat(zoom, 0).repeat(zoom, 1) for label in LABELS])
        if len(rows) == most:
            break
    return writers.sample_grid(rows, LABELS) if rows else None
