"""What an evaluation job adds to the report: photographs, ab histograms and a table of images."""

import base64
import html
import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from chromagan_jax.config import Config
from chromagan_jax.data.sources import Source
from chromagan_jax.evaluation import metrics
from chromagan_jax.evaluation.measures import AB_BIN, AB_BINS, PSNR_CAP
from chromagan_jax.evaluation.report import charts, curves, parts
from chromagan_jax.evaluation.report.runs import RunRecord
from chromagan_jax.utils import page

EXTREMES = 4  # best and worst photographs, each
_ROWS = 2000  # most rows of the table of images
_SIDE = 512  # px, of a photograph
_QUALITY = 85  # of its JPEG
_HISTOGRAMS = {'ab_histogram': 'colorized', 'ab_histogram_original': 'original'}


def extremes(images: Mapping[str, np.ndarray]) -> list[int]:
    """Indices of the worst images by PSNR, worst first, and then of the best ones.

    Images whose PSNR is not finite are left out, unless no other ones are there.
    """
    finite = np.isfinite(images['psnr'])
    known = finite if finite.any() else ~finite
    order = images['index'][known][np.argsort(images['psnr'][known], kind='stable')].astype(int)
    return list(dict.fromkeys([*order[:EXTREMES].tolist(), *order[-EXTREMES:].tolist()]))


def describe(
    step: int,
    source: Source,
    config: Config,
    scores: Mapping[str, float],
    images: Mapping[str, np.ndarray],
    photographs: Mapping[int, Mapping[str, np.ndarray]],
) -> dict[str, Any]:
    """The content of images_eval.json.

    Args:
        step: of the checkpoint.
        source: of the photographs.
        config: of the evaluation.
        scores: of `evaluator.aggregate_metrics`.
        images: of `evaluator.image_scores`.
        photographs: images of `evaluator.render` by index, for `extremes`.

    Returns:
        JSON values: 'step', 'source', 'size', 'scores', 'images' with a list for each value of an
        image, both with null for a value that is not finite, 'ab_histogram' (pixels in 23 x 23
        bins, see `measures.ab_histogram`) and 'photographs' as JPEG in base64.
    """
    columns = {
        name: [round(v, 6) if (v := _finite(each)) is not None else None for each in values]
        for name, values in images.items()
        if values.ndim == 1 and name != 'index'
    }
    indices = images['index'].astype(int).tolist()
    return {
        'step': step,
        'source': source.location,
        'size': config.eval.size or config.data.size,
        'scores': {name: _finite(value) for name, value in scores.items()},
        'images': {'index': indices, 'name': [source.name(i) for i in indices], **columns},
        'ab_histogram': {
            label: images[name].sum(axis=0, dtype=np.int64).tolist()
            for name, label in _HISTOGRAMS.items()
        },
        'photographs': [
            {'index': i, **{kind: _encoded(image) for kind, image in each.items()}}
            for i, each in photographs.items()
        ],
    }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _encoded(rgb: np.ndarray) -> str:
    """(H, W, 3) RGB in [0, 1] as a JPEG in base64."""
    image, data = Image.fromarray((rgb * 255).round().astype(np.uint8)), io.BytesIO()
    image.thumbnail((_SIDE, _SIDE))
    image.save(data, 'JPEG', quality=_QUALITY)
    return base64.b64encode(data.getvalue()).decode()


def section(run: RunRecord) -> str:
    """The newest evaluation of a job, and the curves of all; '' without one."""
    found = run.details
    if not found:
        return ''
    followed = len(run.job['eval/images'].steps) > 1 if 'eval/images' in run.job else False
    shown = f'<div class="charts">{curves.metric_curves(run.job)}</div>' if followed else ''
    gray = sum(value == PSNR_CAP for value in found['images'].get('psnr_gray', ()))
    note = f' {gray:,} of them are gray and do not count in the PSNR of gray.' if gray else ''
    return (
        f'<p>Step {found["step"]:,}, {len(found["images"]["name"]):,} photographs of '
        f'{html.escape(found["source"])} at {found["size"]} px.{note}</p>\n'
        f'{_scores(found["scores"])}{shown}{_photographs(found)}{_histograms(found)}'
        f'{_table(found["images"])}'
    )


def _scores(scores: Mapping[str, float]) -> str:
    """The metrics beside those of the gray and the original images."""
    own = {name.removeprefix('eval/'): value for name, value in scores.items()}
    gray = metrics.gray_figures(own)
    rows = [
        [
            ('', html.escape(heading)),
            parts.number(form, own[name], 'n best'),
            parts.number(form, gray.get(name)),
            parts.number(form, own.get(f'{name}_original')),
        ]
        for name, (heading, form) in metrics.columns('table').items()
        if name in own
    ]
    return parts.table(['', 'colorized', 'gray', 'original'], rows)


def _photographs(found: Mapping[str, Any]) -> str:
    """The worst and the best photographs, each under a slider."""
    places = {index: place for place, index in enumerate(found['images']['index'])}
    figures = []
    for each in found['photographs']:
        jpegs = {k: base64.b64decode(each[k]) for k in ('colorized', 'original', 'gray')}
        place = places[each['index']]
        psnr, of_gray, error = (
            parts.number('{:.2f}', found['images'][name][place])[1] or '-'
            for name in ('psnr', 'psnr_gray', 'ab_mae')
        )
        name, after = str(found['images']['name'][place]), jpegs.pop('colorized')
        figures.append(
            f'<figure>{page.pair(name, after, jpegs)}<figcaption><b>{html.escape(name)}</b> PSNR '
            f'{psnr} dB (gray {of_gray}), ab error {error}</figcaption></figure>\n'
        )
    choices = ''.join(
        f'<label><input type="radio" name="against" value="{kind}"{" checked" * (not i)}> {kind} '
        '</label>'
        for i, kind in enumerate(('original', 'gray'))
    )
    shown = ''.join(
        f'<h3>{title} photographs by PSNR</h3>\n<div class="pairs">{"".join(some)}</div>\n'
        for title, some in (('Worst', figures[:EXTREMES]), ('Best', figures[EXTREMES:][::-1]))
        if some
    )
    return (
        f'<section class="against-original"><p>Drag over a photograph: colorized on the right, on '
        f'the left {choices}</p>{shown}</section>\n'
    )


def _histograms(found: Mapping[str, Any]) -> str:
    """The shares of pixels by ab: colorized and original as maps, and both over a* and b*."""
    shares = {k: np.array(h) / np.sum(h) for k, h in found['ab_histogram'].items()}
    most = max(share.max() for share in shares.values())
    bins = np.arange(AB_BINS) - AB_BINS // 2
    used = max(np.abs(bins[(s.sum(axis) > 0)]).max() for s in shares.values() for axis in (0, 1))
    half = max(3, int(used))
    maps = [charts.ab_map(name, share, most, half) for name, share in shares.items()]
    for axis, name in ((1, 'a*'), (0, 'b*')):
        lines = [
            charts.Line(label, bins * AB_BIN, 100 * share.sum(axis), color=i)
            for i, (label, share) in enumerate(shares.items())
        ]
        maps.append(charts.line_chart(f'% of pixels by {name}', lines, name))
    return (
        '<h3>Histogram of ab</h3>\n<p>Bins of 10 x 10 units of ab, in their colour. Opacity is the '
        f'logarithm of the share of pixels.</p>\n<div class="charts">{"".join(maps)}</div>\n'
    )


def _table(images: Mapping[str, Any]) -> str:
    """The values of each image, worst first; images without a PSNR last."""
    columns = {
        column: metric.format
        for name, metric in metrics.METRICS.items()
        for column in (name, f'{name}_{metric.beside}')
        if column in images
    }
    psnr = [math.inf if value is None else value for value in images['psnr']]
    order = sorted(range(len(psnr)), key=lambda i: psnr[i])
    rows = [
        [
            ('', html.escape(images['name'][i])),
            *(parts.number(form, images[name][i]) for name, form in columns.items()),
        ]
        for i in order[:_ROWS]
    ]
    heads = ['photograph', *(name.replace('_', ' ') for name in columns)]
    left = f', the {_ROWS:,} worst' if len(order) > _ROWS else ''
    return (
        f'<h3>Photographs{left}</h3>\n<p>A click on a heading sorts. images_eval.json holds all '
        f'values.</p>\n<div class="wide">{parts.table(heads, rows, sortable=True)}</div>\n'
    )
