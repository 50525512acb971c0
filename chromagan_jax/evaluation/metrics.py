"""The metrics, in one table: `METRICS`. A new one is a function and an entry there.

Everything else follows from the entry: the values of each image, the figures in metrics.jsonl, the
summary in the log, the tables of tools/, and which metrics can rank checkpoints.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax

from chromagan_jax import color
from chromagan_jax.evaluation import measures, reductions

Array = jax.Array


class Metric(NamedTuple):
    """How a metric is computed and shown. Its figure over all images is 'eval/NAME'."""

    # Of each image, compiled on the devices: original and picture, (B, H, W, 3) twice, -> (B, ...).
    # None: it is made of values that others measure, which `reads` names.
    measure: Callable[[Array, Array], Array] | None = None
    label: str = ''  # in the log, and the heading of its column; '': its name
    format: str = '{:.2f}'
    unit: str = ''
    better: Literal['lower', 'higher'] | None = None  # None: it cannot rank checkpoints
    space: Literal['rgb', 'lab'] = 'rgb'  # what `measure` takes: sRGB in [0, 1], or L*a*b*
    # A picture that is measured too, as NAME_gray or NAME_original, and shown beside it.
    beside: Literal['gray', 'original'] | None = None
    # Of all images, on the host: the values that it reads -> its figure, None where there is none.
    reduce: Callable[..., float | None] = reductions.mean
    # Values of each image ('psnr_gray'), or figures of entries above ('eval/psnr'). Empty: its own,
    # and those of `beside` for a figure NAME_gray or NAME_original.
    reads: tuple[str, ...] = ()
    of_gray: float | str = ''  # a gray picture's figure, or which one it is; '': NAME_gray
    shown: tuple[Literal['log', 'table', 'card'], ...] = ('log', 'table', 'card')


def alone(measure: Callable[[Array], Array]) -> Callable[[Array, Array], Array]:
    """A measure of the picture that does not look at the original."""
    return lambda original, picture: measure(picture)


METRICS: dict[str, Metric] = {
    'psnr': Metric(measures.psnr, 'PSNR', unit='dB', better='higher', beside='gray'),
    # Takes the place of the mean over all: a gray original says nothing about what gray costs.
    'psnr_gray': Metric(reads=('psnr_gray',), reduce=reductions.mean_below_cap, shown=()),
    'ssim': Metric(measures.ssim, 'SSIM', '{:.3f}', better='higher', beside='gray'),
    'ab_mae': Metric(measures.ab_mae, 'ab error', better='lower', space='lab', beside='gray'),
    'colorfulness': Metric(
        alone(measures.colorfulness), 'colorfulness', '{:.1f}', beside='original', of_gray=0.0
    ),
    'colorfulness_gap': Metric(
        label='its gap',
        format='{:.1f}',
        better='lower',
        reads=('eval/colorfulness', 'eval/colorfulness_original'),
        reduce=lambda made, original: abs(made - original),
        of_gray='colorfulness_original',
        shown=('table', 'card'),
    ),
    'ab_histogram': Metric(
        alone(measures.ab_histogram),
        'ab histogram',
        '{:.3f}',
        beside='original',
        reads=('ab_histogram', 'ab_histogram_original'),
        reduce=reductions.histogram_distance,
        of_gray='ab_histogram_gray',
        shown=('table', 'card'),
    ),
    'ab_histogram_gray': Metric(
        reads=('ab_histogram_original',), reduce=reductions.histogram_distance_of_gray, shown=()
    ),
    # Only with eval.features, without which there are no features of the images.
    'frechet': Metric(
        reads=('features_colorized', 'features_original'),
        reduce=reductions.frechet_distance,
        shown=(),
    ),
    'frechet_of_gray': Metric(
        label='Frechet / gray',
        reads=('eval/frechet', 'features_gray', 'features_original', 'psnr_gray'),
        reduce=reductions.share_of_grays_distance,
        of_gray=1.0,
        shown=('table', 'card'),
    ),
    'blotchiness': Metric(
        measures.blotchiness,
        'blotchiness',
        reduce=reductions.mean_of_known,
        of_gray=0.0,
        shown=('table',),
    ),
    'blotchy_share': Metric(
        label='blotchy',
        format='{:.1%}',
        reads=('blotchiness',),
        reduce=reductions.blotchy_share,
        of_gray=0.0,
        shown=('table', 'card'),
    ),
}


def image_metrics(condition: Array, target: Array, prediction: Array) -> dict[str, Array]:
    """What the `METRICS` measure of each prediction, and of the pictures to hold it against.

    Args:
      condition: (B, H, W, 1).
      target: (B, H, W, 2) in `lab` or (B, H, W, 3) in `rgb` (see `color`).
      prediction: the same shape as the target.

    Returns:
      NAME of the prediction, NAME_gray of the gray picture and NAME_original of the original, where
      the metric asks for them; (B, ...) each. 'psnr_gray' is at `PSNR_CAP` where the original is
      gray itself, 'blotchiness' is NaN there.

    Raises:
      UserError: if a side is shorter than 11 px.
    """
    gray = color.gray_target(condition, target.shape[-1])
    targets = {'original': target, 'colorized': prediction, 'gray': gray}
    pictures = {
        'rgb': {label: color.to_rgb(condition, t) for label, t in targets.items()},
        'lab': {label: color.to_lab(condition, t) for label, t in targets.items()},
    }
    values = {}
    for name, metric in METRICS.items():
        if metric.measure:
            seen = pictures[metric.space]
            values[name] = metric.measure(seen['original'], seen['colorized'])
            if metric.beside:
                beside = metric.measure(seen['original'], seen[metric.beside])
                values[f'{name}_{metric.beside}'] = beside
    return values


def columns(place: str) -> dict[str, tuple[str, str]]:
    """Of the metrics shown in the 'table' or on the 'card': NAME -> heading, format."""
    return {
        name: (', '.join(filter(None, (metric.label or name, metric.unit))), metric.format)
        for name, metric in METRICS.items()
        if place in metric.shown
    }


def gray_figures(scores: Mapping[str, Any]) -> dict[str, float]:
    """The gray picture's figures, from the scores of any generator on the same photographs.

    Args:
        scores: by their names without 'eval/'.
    """
    figures: dict[str, float | None] = {}
    for name, metric in METRICS.items():
        if metric.shown and name in scores:
            of_gray = metric.of_gray if metric.of_gray != '' else f'{name}_gray'
            figures[name] = scores.get(of_gray) if isinstance(of_gray, str) else of_gray
    return {name: figure for name, figure in figures.items() if figure is not None}
