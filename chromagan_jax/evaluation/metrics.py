"""The table of all metrics, `METRICS`. To add a metric, write a function and add an entry.

The entry defines the per-image values, the value in metrics.jsonl, the log line, the columns in
the tables of tools/, and whether the metric can rank checkpoints.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax

from chromagan_jax import color
from chromagan_jax.evaluation import measures, reductions

Array = jax.Array


class Metric(NamedTuple):
    """How a metric is computed and shown. Its value over all images is 'eval/NAME'."""

    # On the devices, per image: original and image, (B, H, W, 3) each -> (B, ...).
    # None: the metric only combines the values in `reads`.
    measure: Callable[[Array, Array], Array] | None = None
    label: str = ''  # in the log and column headings; '': the metric's name
    format: str = '{:.2f}'
    unit: str = ''
    better: Literal['lower', 'higher'] | None = None  # None: cannot rank checkpoints
    space: Literal['rgb', 'lab'] = 'rgb'  # input of `measure`: sRGB in [0, 1], or L*a*b*
    # Image to compare with: measured as NAME_gray or NAME_original, and shown in the log.
    beside: Literal['gray', 'original'] | None = None
    # On the host, over all images: the values in `reads` -> one value, or None if undefined.
    reduce: Callable[..., float | None] = reductions.mean
    # Per-image values ('psnr_gray') or values of earlier entries ('eval/psnr'). Empty: NAME, and
    # NAME_gray or NAME_original for the image in `beside`.
    reads: tuple[str, ...] = ()
    of_gray: float | str = ''  # value of gray images, or the name of that value; '': NAME_gray
    shown: tuple[Literal['log', 'table', 'card'], ...] = ('log', 'table', 'card')


def alone(measure: Callable[[Array], Array]) -> Callable[[Array, Array], Array]:
    """Turns a measure of one image into a measure that ignores the original."""
    return lambda original, image: measure(image)


METRICS: dict[str, Metric] = {
    'psnr': Metric(measures.psnr, 'PSNR', unit='dB', better='higher', beside='gray'),
    # Excludes gray originals, whose gray image is identical to the original.
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
    # Requires eval.features.
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
    """Values of all `METRICS` for each prediction and for the images in `Metric.beside`.

    Args:
      condition: (B, H, W, 1).
      target: (B, H, W, 2) in `lab` or (B, H, W, 3) in `rgb` (see `color`).
      prediction: the same shape as the target.

    Returns:
      (B, ...) each: NAME of the prediction, and NAME_gray or NAME_original of the gray or original
      image. For a gray original 'psnr_gray' is `PSNR_CAP` and 'blotchiness' is NaN.

    Raises:
      UserError: if a side is shorter than 11 px.
    """
    gray = color.gray_target(condition, target.shape[-1])
    targets = {'original': target, 'colorized': prediction, 'gray': gray}
    images = {
        'rgb': {label: color.to_rgb(condition, t) for label, t in targets.items()},
        'lab': {label: color.to_lab(condition, t) for label, t in targets.items()},
    }
    values = {}
    for name, metric in METRICS.items():
        if metric.measure:
            inputs = images[metric.space]
            values[name] = metric.measure(inputs['original'], inputs['colorized'])
            if metric.beside:
                beside = metric.measure(inputs['original'], inputs[metric.beside])
                values[f'{name}_{metric.beside}'] = beside
    return values


def columns(place: str) -> dict[str, tuple[str, str]]:
    """Heading and format of each metric shown in `place`: 'log', 'table' or 'card'."""
    return {
        name: (', '.join(filter(None, (metric.label or name, metric.unit))), metric.format)
        for name, metric in METRICS.items()
        if place in metric.shown
    }


def gray_figures(scores: Mapping[str, Any]) -> dict[str, float]:
    """Metric values of the gray images.

    Args:
        scores: scores of any generator on the same data, with names without 'eval/'.
    """
    figures: dict[str, float | None] = {}
    for name, metric in METRICS.items():
        if metric.shown and name in scores:
            of_gray = metric.of_gray if metric.of_gray != '' else f'{name}_gray'
            figures[name] = scores.get(of_gray) if isinstance(of_gray, str) else of_gray
    return {name: figure for name, figure in figures.items() if figure is not None}
