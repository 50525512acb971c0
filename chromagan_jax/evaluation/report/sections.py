"""The page of one run: facts, scores, samples, curves, photographs, config and versions."""

import html
from collections.abc import Mapping

from chromagan_jax.evaluation import metrics
from chromagan_jax.evaluation.report import charts, curves, details, parts
from chromagan_jax.evaluation.report.runs import Curve, RunRecord


def page_of_run(run: RunRecord) -> bytes:
    """The page of a run."""
    samples = {f'step {step:,}': jpeg for step, jpeg in run.samples.items()}
    sections = {
        'Scores': _scores(run),
        'Samples': parts.frames(samples, '(gray, colorized, original; the arrow keys step)'),
        'Training': parts.plots(curves.training_curves(run)) + _time(run),
        'Evaluation job': details.section(run),
        'Config': _config(run),
        'Versions and data': _versions(run),
    }
    return parts.document(run.name, _facts(run), sections)


def _facts(run: RunRecord) -> str:
    """Boxes with the progress of the run and its setup."""
    newest = max((int(curve.steps[-1]) for curve in run.training.values()), default=0)
    batch = run.config['batch_size']
    facts = {
        'step': f'{newest:,} of {run.config["steps"]:,}',
        'photographs seen': charts.number(newest * batch),
        'batch size': f'{batch}',
        'size': f'{run.config["data.size"]} px',
        'generator': run.config['generator.name'],
        'discriminator': run.config['discriminator.name'],
        'device': f'{run.versions["device_count"]} x {run.versions["device"]}',
    }
    for name, label, form in (
        ('images_per_second', 'images/s', '{:.4g}'),
        ('goodput/step', 'goodput', '{:.1%}'),
    ):
        if name in run.training:
            facts[label] = form.format(run.training[name].values[-1])
    boxes = ''.join(
        f'<div><b>{html.escape(str(value))}</b>{label}</div>' for label, value in facts.items()
    )
    return f'<div class="facts">{boxes}</div>'


def _scores(run: RunRecord) -> str:
    """The table and the curves of the evaluations during training."""
    scores, best_metric = run.training, run.config['checkpoint.best_metric']
    if 'eval/images' not in scores:
        return ''
    steps = [int(step) for step in scores['eval/images'].steps]
    best = _best_step(scores, best_metric)
    shown = [steps[0]] if best is None else [steps[0], best]
    ends = {name.removeprefix('eval/'): curve.values[-1] for name, curve in scores.items()}
    gray = metrics.gray_figures(ends)
    rows = []
    for name, (heading, form) in metrics.columns('table').items():
        if name not in ends:
            continue
        values = dict(zip(*scores[f'eval/{name}'], strict=True))
        better = metrics.METRICS[name].better
        rows.append(
            [
                ('', html.escape(heading)),
                ('', f'{better} is better' if better else ''),
                *(parts.number(form, values.get(step)) for step in shown),
                parts.number(form, values.get(steps[-1]), 'n best'),
                parts.number(form, gray.get(name)),
                parts.number(form, ends.get(f'{name}_original')),
            ]
        )
    heads = ['', '', f'step {steps[0]:,}', f'step {steps[-1]:,}']
    if best is not None:
        heads.insert(3, f'best, step {best:,}')
    note = (
        f'<p>Evaluations during training, on {ends["images"]:,.0f} photographs of '
        f'{html.escape(run.config["eval.source"])}. The best step has the best '
        f'{html.escape(best_metric)}.</p>'
    )
    drawn = f'<div class="charts">{curves.metric_curves(scores)}</div>' if steps[1:] else ''
    return parts.table([*heads, 'gray', 'original'], rows) + note + drawn


def _best_step(scores: Mapping[str, Curve], metric: str) -> int | None:
    """The evaluated step with the best value; None for a metric without values or of elsewhere."""
    curve = scores.get(f'eval/{metric}')
    if curve is None or metric not in metrics.METRICS:  # a config file added it
        return None
    sign = 1 if metrics.METRICS[metric].better == 'lower' else -1
    return int(curve.steps[(sign * curve.values).argmin()])


def _time(run: RunRecord) -> str:
    """A bar of the share of each phase in the time since the newest start."""
    phases = sorted(
        (-float(curve.values[-1]), name.partition('/')[2])
        for name, curve in run.training.items()
        if name.startswith('goodput/') and curve.values[-1] >= 0.0005
    )
    if not phases:
        return ''
    bar = ''.join(
        f'<div class="part c{i % 8}" style="flex: {-share:.4f}" title="{html.escape(name)}"></div>'
        for i, (share, name) in enumerate(phases)
    )
    keys = ' '.join(
        f'<span class="key c{i % 8}">{html.escape(name)} {-share:.1%}</span>'
        for i, (share, name) in enumerate(phases)
    )
    return f'<h3>Time since the newest start</h3><div class="bar">{bar}</div><p>{keys}</p>\n'


def _config(run: RunRecord) -> str:
    """The fields that differ from the defaults, then all."""
    weights = [f for f in run.defaults if f.startswith('loss.weights.')]
    differ = [f for f in [*run.config, *weights] if run.config.get(f) != run.defaults.get(f)]
    rows = [
        [
            ('', html.escape(field)),
            ('best', parts.text(run.config.get(field))),
            ('', parts.text(run.defaults.get(field))),
        ]
        for field in dict.fromkeys(differ)
    ]
    every = [[('', html.escape(f)), ('', parts.text(v))] for f, v in run.config.items()]
    changed = parts.table(['field', 'value', 'default'], rows) if rows else '<p>Defaults.</p>'
    return (
        f'{changed}<details><summary>All {len(every)} fields</summary>'
        f'{parts.table(["field", "value"], every)}</details>\n'
    )


def _versions(run: RunRecord) -> str:
    described = {**run.data, **run.versions}
    return parts.table(
        ['', ''], [[('', html.escape(n)), ('', parts.text(v))] for n, v in described.items()]
    )
