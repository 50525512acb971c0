"""The curves of one or several runs."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from chromagan_jax.evaluation import metrics
from chromagan_jax.evaluation.report.charts import Line, line_chart
from chromagan_jax.evaluation.report.runs import Curve, RunRecord

_SPEED = {
    'images_per_second': 'images/s',
    'goodput/step': 'goodput, share of the time in steps',
    'waiting_for_data': 'share of the time that waits for data',
}
_SMOOTH = ('learning_rate', 'l1_weight', 'goodput/step')  # ends of names of curves without noise
SECTIONS = ('Generator', 'Discriminator', 'Optimizers', 'Speed', 'Data', 'Other')


def place(name: str) -> tuple[str, str] | None:
    """Section and chart of a training metric in the report of one run; None for no curve.

    Metrics of one chart have the same unit. A metric without a rule has a chart of its own.
    """
    group, _, rest = name.partition('/')
    if name in _SPEED:
        return 'Speed', _SPEED[name]
    if group == 'goodput' or name == 'eval/images':
        return None
    if group == 'data':
        return 'Data', 'records per step that cannot be read'
    if rest in ('gradient_norm', 'learning_rate'):
        return 'Optimizers', rest.replace('_', ' ')
    if rest.startswith('accuracy_'):
        return 'Discriminator', 'accuracy'
    if group in ('generator', 'discriminator'):
        return group.capitalize(), rest.replace('_', ' ')
    return 'Other', name


def training_curves(run: RunRecord) -> Iterator[tuple[str, str]]:
    """Title and charts of each section of the training curves of a run."""
    charts: dict[str, dict[str, list[Line]]] = {}
    for name, curve in run.training.items():
        where = None if name.startswith('eval/') else place(name)
        if where is None or (where[0] == 'Data' and not curve.values.any()):
            continue
        group, _, rest = name.partition('/')
        lines = charts.setdefault(where[0], {}).setdefault(where[1], [])
        label = group if where[0] == 'Optimizers' else rest.replace('_', ' ') or name
        lines.append(Line(label, *curve, noisy=not name.endswith(_SMOOTH), color=len(lines)))
    for section in SECTIONS:
        if section in charts:
            yield section, ''.join(_chart(*item) for item in charts[section].items())


def _chart(title: str, lines: Sequence[Line]) -> str:
    """A chart whose only line needs no label."""
    return line_chart(title, lines if lines[1:] else [lines[0]._replace(label='')])


def metric_curves(scores: Mapping[str, Curve]) -> str:
    """Charts of the evaluation metrics, with the values of the gray or the original images."""
    charts = []
    for name, metric, (reference, of_reference) in _compared(scores):
        own = scores[f'eval/{name}']
        lines = [Line('colorized', *own)]
        if of_reference is not None:
            lines.append(Line(reference, own.steps, of_reference, dashed=True, color=1))
        charts.append(_chart(_titled(name, metric), lines))
    return ''.join(charts)


def run_curves(runs: Sequence[RunRecord]) -> Iterator[tuple[str, str]]:
    """Title and charts of each section; each chart has a line for each run with the metric."""
    charts: dict[str, list[str]] = {}
    evaluations = [run.training if _evaluated(run.training) else run.job for run in runs]
    for name, metric, _ in _compared({n: c for e in evaluations for n, c in e.items()}):
        lines = [
            Line(run.name, *scores[f'eval/{name}'], color=i)
            for i, (run, scores) in enumerate(zip(runs, evaluations, strict=True))
            if f'eval/{name}' in scores
        ]
        charts.setdefault('Evaluation', []).append(line_chart(_titled(name, metric), lines))
    for name in dict.fromkeys(name for run in runs for name in run.training):
        where = None if name.startswith('eval/') else place(name)
        noisy = not name.endswith(_SMOOTH)
        lines = [
            Line(run.name, *run.training[name], noisy=noisy, color=i)
            for i, run in enumerate(runs)
            if name in run.training
        ]
        if where is None or (where[0] == 'Data' and not any(line.y.any() for line in lines)):
            continue
        charts.setdefault(where[0], []).append(line_chart(_SPEED.get(name, name), lines))
    for section in ('Evaluation', *SECTIONS):
        if section in charts:
            yield section, ''.join(charts[section])


def _evaluated(scores: Mapping[str, Curve]) -> bool:
    return any(name.startswith('eval/') for name in scores)


def _titled(name: str, metric: metrics.Metric) -> str:
    better = f'{metric.better} is better' if metric.better else ''
    return ', '.join(filter(None, (name.replace('_', ' '), metric.unit, better)))


def _compared(
    scores: Mapping[str, Curve],
) -> Iterator[tuple[str, metrics.Metric, tuple[str, np.ndarray | None]]]:
    """Name, metric and reference (name, values) of each shown metric with a curve."""
    for name, metric in metrics.METRICS.items():
        if not metric.shown or f'eval/{name}' not in scores:
            continue
        beside = scores.get(f'eval/{name}_{metric.beside}')
        same = beside is not None and len(beside.steps) == len(scores[f'eval/{name}'].steps)
        yield name, metric, (metric.beside or '', beside.values if same and beside else None)
