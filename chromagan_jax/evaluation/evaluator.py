"""Scores over a finite set of images. Each image is counted once."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from chromagan_jax import color, sharding
from chromagan_jax.errors import UserError
from chromagan_jax.evaluation import measures, metrics
from chromagan_jax.gan.model import GanModel, gathered, predict
from chromagan_jax.models.pretrained import squeezenet
from chromagan_jax.utils import writers

Array = jax.Array
PyTree = Any

VISIBLE = 128  # px; smaller images are enlarged to about this width in a grid
LABELS = ('gray', 'colorized', 'original')


def eval_step(
    model: GanModel,
    variables: PyTree,
    batch: Mapping[str, Array],
    network: squeezenet.Params | None = None,
) -> dict[str, Array]:
    """Metrics of each image, (B, ...), and the batch's 'mask' and 'index', (B,).

    The mask is 0 for rows that do not count. With `network`, SqueezeNet's parameters, the result
    also has 'features_gray', 'features_colorized' and 'features_original', (B, F).
    """
    prediction = predict(model.generator, gathered(model.replicated, variables), batch['condition'])
    values = metrics.image_metrics(batch['condition'], batch['target'], prediction)
    if network is not None:
        images = render_step(model, variables, batch)
        for label in LABELS:
            quantized = measures.quantize(images[label])
            values[f'features_{label}'] = squeezenet.features(network, quantized)
    return {**values, 'mask': batch['mask'], 'index': batch['index']}


def render_step(
    model: GanModel, variables: PyTree, batch: Mapping[str, Array], *, rows: int | None = None
) -> dict[str, Array]:
    """Images 'gray', 'colorized' and 'original', (B, H, W, 3) RGB in [0, 1].

    The result also has the batch's 'mask' and 'index', (B,). With `rows` it has the first rows
    only: each device gets all of it, and a batch has at least one image for each device.
    """
    condition, target = batch['condition'], batch['target']
    gray = color.gray_target(condition, target.shape[-1])
    prediction = predict(model.generator, gathered(model.replicated, variables), condition)
    rendered = {
        'gray': color.to_rgb(condition, gray),
        'colorized': color.to_rgb(condition, prediction),
        'original': color.to_rgb(condition, target),
        'mask': batch['mask'],
        'index': batch['index'],
    }
    return {name: value[:rows] for name, value in rendered.items()}


def jit_step(
    step: Callable[..., PyTree], model: GanModel, mesh: Mesh, **options: Any
) -> Callable[..., PyTree]:
    """`eval_step` or `render_step` under jit; results are replicated on all devices."""
    replicated = NamedSharding(mesh, PartitionSpec())
    return jax.jit(partial(step, model, **options), out_shardings=replicated)


def make_eval_step(
    features: str, model: GanModel, mesh: Mesh
) -> Callable[[PyTree, Mapping[str, Array]], dict[str, Array]]:
    """`eval_step` under jit; with SqueezeNet features if `features` names a weight file.

    Raises:
        UserError: if the file cannot be read.
    """
    step = jit_step(eval_step, model, mesh)
    if not features:
        return step
    network = squeezenet.load(features)
    return partial(step, network=jax.device_put(network, NamedSharding(mesh, PartitionSpec())))


def image_scores(
    step: Callable[[PyTree, Mapping[str, Array]], dict[str, Array]],
    variables: PyTree,
    batches: Iterable[Mapping[str, np.ndarray]],
    mesh: Mesh,
    on_unreadable: Callable[[np.ndarray], None] = lambda unreadable: None,
) -> dict[str, np.ndarray]:
    """The metrics of every readable image, (N, ...), and its 'index' in the source, (N,).

    All values are gathered on the host, so that their means do not depend on the batch size or the
    number of devices and processes.

    Args:
        step: compiled `eval_step`.
        variables: variables of the generator.
        batches: rows of this process; all batches together hold each image once.
        mesh: devices to compute on.
        on_unreadable: called with each batch's unreadable records of this process.

    Raises:
        UserError: if no image could be read.
    """
    collected: list[dict[str, np.ndarray]] = []
    for batch in batches:
        on_unreadable(batch['unreadable'])
        collected.append(_computed(step, variables, batch, mesh))
    values = {name: np.concatenate([c[name] for c in collected]) for name in collected[0]}
    counted = values.pop('mask') > 0
    if not counted.any():
        raise UserError('No photograph in eval.source could be read: choose another folder.')
    return {name: value[counted] for name, value in values.items()}


def aggregate_metrics(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The values of `metrics.METRICS` over all images, such as 'eval/psnr', and 'eval/images'.

    A value is missing if one of its inputs is missing or no image has it: 'eval/psnr_gray' and
    'eval/frechet_of_gray' if all originals are gray, 'eval/blotchiness' and 'eval/blotchy_share' if
    no original has colour in its smooth parts, 'eval/frechet' without features.

    Args:
        values: result of `image_scores`.

    Raises:
        UserError: if there are features of fewer than two images.
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
    """`METRICS` with all `reads` filled in, plus the comparison metrics without an entry."""
    found = {}
    for name, metric in metrics.METRICS.items():
        found[name] = metric._replace(reads=metric.reads or (name,))
        if metric.beside and not metric.reads:
            beside = f'{name}_{metric.beside}'
            found[beside] = metrics.METRICS.get(beside, metric._replace(reads=(beside,)))
    return found


def check_ranking(field: str, name: str) -> None:
    """Checks that `name`, the value of a config field, is a metric that can rank checkpoints.

    Raises:
        UserError: if it is not.
    """
    choices = sorted(name for name, metric in metrics.METRICS.items() if metric.better)
    if name not in choices:
        raise UserError(f'{field} is {name!r}; choose one of {", ".join(choices)}.')


def score(name: str, scores: Mapping[str, float]) -> float:
    """The value of a ranking metric, negated if higher is better. A lower score is better.

    Raises:
        UserError: if the metric has no value for these images.
    """
    if f'eval/{name}' not in scores:
        raise UserError(
            f'No photograph in eval.source has a {name}: rank checkpoints by another metric.'
        )
    figure = scores[f'eval/{name}']
    return figure if metrics.METRICS[name].better == 'lower' else -figure


def summary(step: int, scores: Mapping[str, float]) -> str:
    """One log line: each metric, compared with the gray or the original images."""
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


def render(
    step: Callable[[PyTree, Mapping[str, Array]], dict[str, Array]],
    variables: PyTree,
    batches: Iterable[Mapping[str, np.ndarray]],
    mesh: Mesh,
    on_unreadable: Callable[[np.ndarray], None] = lambda unreadable: None,
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yields each readable image: its index in the source, and its images for `LABELS`.

    All processes get all images, and have to read equally many.

    Args:
        step: compiled `render_step`.
        variables: variables of the generator.
        batches: rows of this process; all batches together hold each image once.
        mesh: devices to compute on.
        on_unreadable: called with each batch's unreadable records of this process.

    Yields:
        The index, and (H, W, 3) RGB in [0, 1] by label.
    """
    for batch in batches:
        on_unreadable(batch['unreadable'])
        images = _computed(step, variables, batch, mesh)
        for i in np.flatnonzero(images['mask']):
            yield int(images['index'][i]), {label: images[label][i] for label in LABELS}


def _computed(
    step: Callable[[PyTree, Mapping[str, Array]], dict[str, Array]],
    variables: PyTree,
    batch: Mapping[str, np.ndarray],
    mesh: Mesh,
) -> dict[str, np.ndarray]:
    """The result of a step for the rows of all processes, on the host."""
    inputs = {name: batch[name] for name in ('condition', 'target', 'mask')}
    inputs['index'] = batch['index'].astype(np.int32)
    return jax.device_get(step(variables, sharding.to_global(inputs, mesh)))


def sample_grid(images: Iterable[Mapping[str, np.ndarray]]) -> np.ndarray | None:
    """A grid of images of `render`, as columns gray, colorized and original.

    Returns:
        (H, W, 3) uint8, or None without images.
    """
    rows: list[list[np.ndarray]] = []
    for each in images:
        zoom = max(1, VISIBLE // each['gray'].shape[1])
        rows.append([each[label].repeat(zoom, 0).repeat(zoom, 1) for label in LABELS])
    return writers.sample_grid(rows, LABELS) if rows else None
