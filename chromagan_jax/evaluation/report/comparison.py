"""The page that compares runs: curves over each other, tables beside each other."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from chromagan_jax.evaluation import metrics
from chromagan_jax.evaluation.report import curves, parts
from chromagan_jax.evaluation.report.runs import RunRecord


def page_of_runs(runs: Sequence[RunRecord]) -> bytes:
    """The page of several runs with different names."""
    newest = {run.name: list(run.samples.values())[-1] for run in runs if run.samples}
    sections = {
        'Scores': _scores(runs),
        'Samples': parts.frames(newest, '(the newest grid: gray, colorized, original)'),
        'Training': parts.plots(curves.run_curves(runs)),
        'Config': _differences({run.name: run.config for run in runs}),
        'Versions and data': _differences({run.name: {**run.data, **run.versions} for run in runs}),
    }
    return parts.document(' / '.join(run.name for run in runs), '', sections)


def _scores(runs: Sequence[RunRecord]) -> str:
    """A row for each run: its newest evaluation, of a job if there is one."""
    newest = {run.name: _newest(run) for run in runs}
    scored = [scores for scores in newest.values() if scores]
    shown = {
        name: column
        for name, column in metrics.columns('table').items()
        if any(name in scores for scores in scored)
    }
    best = {}
    for name in shown:
        pick = {'lower': min, 'higher': max}.get(metrics.METRICS[name].better or '')
        best[name] = pick(scores[name] for scores in scored if name in scores) if pick else None
    rows = []
    for run in runs:
        scores, rate = newest[run.name], run.training.get('images_per_second')
        rows.append(
            [
                ('', html.escape(run.name)),
                parts.number('{:,}', scores.get('step')),
                ('', ('job' if run.job else 'training') if scores else ''),
                *(
                    parts.number(
                        form,
                        scores.get(name),
                        'n best' if name in scores and scores[name] == best[name] else 'n',
                    )
                    for name, (_, form) in shown.items()
                ),
                parts.number('{:.4g}', None if rate is None else rate.values[-1]),
            ]
        )
    if scored:
        gray = metrics.gray_figures(scored[0])
        cells = [parts.number(form, gray.get(name)) for name, (_, form) in shown.items()]
        rows.append([('', 'gray'), ('n', ''), ('', ''), *cells, ('n', '')])
    heads = ['run', 'step', 'scored by', *(heading for heading, _ in shown.values()), 'images/s']
    return (
        f'<div class="wide">{parts.table(heads, rows)}</div><p>The newest evaluation of each run; '
        'the gray row belongs to the data of the first one. Compare only scores on the same '
        'photographs at the same size.</p>'
    )


def _newest(run: RunRecord) -> dict[str, Any]:
    """The newest scores of a run without 'eval/', and their 'step'; {} without an evaluation."""
    scores = run.job or run.training
    ends = {n.removeprefix('eval/'): c for n, c in scores.items() if n.startswith('eval/')}
    if not ends:
        return {}
    step = max(int(curve.steps[-1]) for curve in ends.values())
    return {'step': step} | {name: curve.values[-1] for name, curve in ends.items()}


def _differences(values: Mapping[str, Mapping[str, Any]]) -> str:
    """A table of the names whose values differ between runs."""
    rows = []
    for name in dict.fromkeys(name for each in values.values() for name in each):
        found = [each.get(name) for each in values.values()]
        if any(value != found[0] for value in found):
            rows.append([('', html.escape(name)), *(('', parts.text(value)) for value in found)])
    return parts.table(['', *values], rows) if rows else '<p>The same in all runs.</p>'
