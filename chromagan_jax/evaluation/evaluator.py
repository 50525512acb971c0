"""Scores over a finite set of photographs, each counted once."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from chromagan_jax import color, sharding
from chromagan_jax.errors import UserError
from chromagan_jax.evaluation import metrics
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
            seen = metrics.quantize(pictures[label])
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


def averages(scores: Mapping[str, np.ndarray]) -> dict[str, float]:
    """'eval/psnr' and so on: means over the images of `image_scores`, and distances of the sets.

    'eval/colorfulness_gap' is the distance of the two mean colorfulnesses, 'eval/images' how many
    images there are, 'eval/ab_histogram' the total variation between the ab of all pixels and the
    originals'. Where there are features, 'eval/frechet' is their Frechet distance from the
    originals', 'eval/frechet_of_gray' that as a share of the gray pictures'. Gray originals say
    nothing about what gray costs: they are left out of 'eval/psnr_gray', and this and
    'eval/frechet_of_gray' are missing if all of them are gray. 'eval/blotchiness' is the mean over
    the images that have one, 'eval/blotchy_share' the share of them above `metrics.BLOTCHY`; both
    are missing if none has one.
    """
    colored = scores['psnr_gray'] < metrics.PSNR_CAP
    single = {name: value for name, value in scores.items() if value.ndim == 1 and name != 'index'}
    means = {name: float(value.mean(dtype=np.float64)) for name, value in single.items()}
    if colored.any():
        means['psnr_gray'] = float(scores['psnr_gray'][colored].mean(dtype=np.float64))
    else:
        del means['psnr_gray']
    del means['blotchiness']
    if (ratios := scores['blotchiness'][~np.isnan(scores['blotchiness'])]).size:
        means['blotchiness'] = float(ratios.mean(dtype=np.float64))
        means['blotchy_share'] = float((ratios > metrics.BLOTCHY).mean())
    means['colorfulness_gap'] = abs(means['colorfulness'] - means['colorfulness_original'])
    means['images'] = float(len(colored))
    names = ('ab_histogram', 'ab_histogram_original')
    made, original = (scores[name].sum(axis=0, dtype=np.int64) for name in names)
    means['ab_histogram'] = metrics.total_variation(made, original)
    means['ab_histogram_gray'] = metrics.total_variation(metrics.AB_OF_GRAY, original)
    if 'features_original' in scores:
        gray, made, original = (scores[f'features_{label}'] for label in LABELS)
        means['frechet'] = metrics.frechet_distance(made, original)
        if colored.any():
            of_gray = metrics.frechet_distance(gray, original)
            means['frechet_of_gray'] = means['frechet'] / of_gray
    return {f'eval/{name}': value for name, value in means.items()}


def score(metric: str, scores: Mapping[str, float]) -> float:
    """The lower the better, whatever the metric (a key of `metrics.RANKING`)."""
    return metrics.RANKING[metric] * scores[f'eval/{metric}']


def summary(step: int, scores: Mapping[str, float]) -> str:
    """One line for people: each figure beside the gray image's."""
    gray_psnr = f'{scores["eval/psnr_gray"]:.2f}' if 'eval/psnr_gray' in scores else 'no colours'
    return (
        f'step {step}: PSNR {scores["eval/psnr"]:.2f} dB (gray {gray_psnr}), '
        f'SSIM {scores["eval/ssim"]:.3f} (gray {scores["eval/ssim_gray"]:.3f}), '
        f'ab error {scores["eval/ab_mae"]:.2f} (gray {scores["eval/ab_mae_gray"]:.2f}), '
        f'colorfulness {scores["eval/colorfulness"]:.1f} '
        f'of {scores["eval/colorfulness_original"]:.1f}'
    )


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
