"""The comparison of the systems of tools/compare.py: its tables, figure and report."""

import io
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from chromagan_jax import color
from chromagan_jax.config import Config, from_dict
from chromagan_jax.data.decode import resize
from chromagan_jax.errors import UserError
from chromagan_jax.evaluation import metrics, report
from chromagan_jax.gan import state as state_lib
from chromagan_jax.gan.model import make_model
from chromagan_jax.gan.workdir import read_run
from chromagan_jax.utils import files, writers

SYSTEMS = (
    *('base', 'chromatic_dreams', 'image_colorizer', 'rgb_colorizer'),
    *('pix2pix', 'restore', 'chromagan'),
)
CELL = 128  # px, maximum side of an image in table.jpg
GAP = 8  # px between images
PICTURE_BYTES = 400_000  # target size of table.jpg
COLUMNS = {  # of table.md: name in table.json -> heading, format
    'system': ('system', '{}'),
    'generator_parameters': ('G', '{:,}'),
    'discriminator_parameters': ('D', '{:,}'),
    'images_per_second': ('images/s', '{:.2f}'),
    'minutes': ('minutes', '{:.1f}'),
    'updates': ('updates', '{:,}'),
    'images_seen': ('images', '{:,}'),
    'weights': ('weights', '{}'),
    **metrics.columns('table'),
}
NOTE = (
    'G, D: parameters. Images/s: of the train step, measured before the training. Minutes: of '
    'training, without compilation, evaluation and saving, of {minutes:g} planned, at {size} px, '
    'batch {batch}, on {photographs:,} photographs. Scores: on {images:.0f} other photographs at '
    '{size} px. {processors}; jax {jax}.'
)


def say(text: str) -> None:
    """Shows a line on standard error."""
    print(f'compare: {text}', file=sys.stderr, flush=True)


def read_json(path: Path) -> Any:
    """The content of a JSON file, of a .jsonl file a list of its lines; [] if there is no file."""
    if not path.exists():
        return []
    text = path.read_text()
    return json.loads(f'[{",".join(text.splitlines())}]' if path.suffix == '.jsonl' else text)


def last_scores(folder: Path, steps: int) -> dict[str, Any]:
    """The last line of metrics_eval.jsonl if its step is `steps`, else {}."""
    lines = read_json(folder / 'run' / 'metrics_eval.jsonl')
    return lines[-1] if lines and lines[-1]['step'] == steps else {}


def colorized(out: Path, name: str) -> list[Path]:
    """Paths of the photographs of table.jpg, colorized by a system; [] if one is missing."""
    squares = sorted((out / 'photographs').glob('*.png'))
    paths = [out / name / 'colorized' / path.name for path in squares]
    return paths if all(path.exists() for path in paths) else []


def write_table(out: Path) -> None:
    """Compares the systems in `out`; raises UserError if none is trained and scored."""
    names = {path.parent.name for path in out.glob('*/log.txt')}
    ordered = [name for name in SYSTEMS if name in names] + sorted(names - set(SYSTEMS))
    rows = [row for name in ordered if (row := make_row(name, out / name))]
    done = [row['system'] for row in rows]
    if not rows:
        raise UserError(f'{out} holds no trained and scored system: run without --table.')
    if missing := [name for name in ordered if name not in done]:
        say(f'not finished, so not in the table: {", ".join(missing)}')
    settings = read_json(out / 'compare.json')
    rows = [{'system': 'gray', **metrics.gray_figures(rows[0])}, *rows]
    files.write_json(out / 'table.json', {'settings': settings, 'rows': rows})
    files.write_atomically(out / 'table.md', markdown(rows, settings).encode())
    files.write_atomically(out / 'table.jpg', draw(out, done))
    report.write_runs(out / 'report.html', {name: out / name / 'run' for name in done})
    say(f'wrote table.md, table.json, table.jpg and report.html in {out}')


def minutes(lines: Sequence[Mapping[str, Any]], batch_size: int) -> float:
    """Minutes of training in the lines of metrics.jsonl, without evaluation and saving."""
    seconds, before = 0.0, 0
    for line in lines:
        if line.get('images_per_second'):
            seconds += (line['step'] - before) * batch_size / line['images_per_second']
            before = line['step']
    return seconds / 60


def make_row(name: str, folder: Path) -> dict[str, Any]:
    """The row of a system in table.json; {} if it is not finished."""
    rate = read_json(folder / 'rate.json')
    if not rate or not (scores := last_scores(folder, rate['steps'])):
        return {}
    described = read_run(folder / 'run')
    config = from_dict(Config, described['config'])
    lines = read_json(folder / 'run' / 'metrics.jsonl')
    model, shape = make_model(config), state_lib.target_shape(config)
    state = jax.eval_shape(lambda: state_lib.init_state(model, jax.random.key(0), shape))
    return {
        'system': name,
        'generator_parameters': count(state.generator.params),
        'discriminator_parameters': count(state.discriminator.params),
        'images_per_second': rate['images_per_second'],
        'minutes': minutes(lines, config.batch_size),
        'updates': rate['steps'],
        'images_seen': rate['steps'] * config.batch_size,
        'photographs': described['data']['records'],
        'processor': rate['processor'],
        'jax': described['versions']['jax'],
        'weights': 'EMA' if config.ema_decay else 'raw',
        **{name.removeprefix('eval/'): value for name, value in scores.items()},
    }


def finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with None for NaN and infinity, which JSON does not have."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }


def count(params: Any) -> int:
    """The number of elements in a tree of arrays or shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def markdown(rows: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> str:
    """table.md: the rows, and a note on how they were measured."""
    processors = ' or '.join(dict.fromkeys(row['processor'] for row in rows[1:]))
    batch = settings['batch_size'] or 'of each config'
    note = NOTE.format(**{**rows[-1], **settings, 'batch': batch, 'processors': processors})
    return f'{grid(rows, COLUMNS)}\n\n{note}\n'


def grid(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, tuple[str, str]]) -> str:
    """A Markdown table, without the columns that no row has."""
    columns = {
        name: column
        for name, column in columns.items()
        if any(row.get(name) is not None for row in rows)
    }
    lines = [[heading for heading, _ in columns.values()], ['---', *['---:'] * (len(columns) - 1)]]
    for row in rows:
        cells = ((form, row.get(name)) for name, (_, form) in columns.items())
        lines.append(['' if value is None else form.format(value) for form, value in cells])
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)


def draw(out: Path, names: Sequence[str]) -> bytes:
    """table.jpg: each row is a photograph: gray, colorized by each system, original."""
    paths = sorted((out / 'photographs').glob('*.png'))
    originals = np.stack([np.asarray(Image.open(path)) for path in paths])
    lightness, _ = color.encode(originals, 'lab')
    gray = color.to_rgb(lightness, color.gray_target(lightness, 2))
    columns = {'gray': (gray * 255).round().astype(np.uint8)}
    for name in names:
        if done := colorized(out, name):
            columns[name] = np.stack([np.asarray(Image.open(path)) for path in done])
    columns['original'] = originals
    cell = min(CELL, originals.shape[1])
    below = ((0, GAP), (0, 0), (0, 0))
    strips = [
        np.concatenate([np.pad(resize(p, cell, cell), below, constant_values=255) for p in column])
        for column in columns.values()
    ]
    table = Image.fromarray(writers.sample_grid([strips], list(columns)))
    for quality in (92, 85, 75, 65, 55):
        buffer = io.BytesIO()
        table.save(buffer, 'JPEG', quality=quality)
        if buffer.tell() <= PICTURE_BYTES:
            break
    return buffer.getvalue()
