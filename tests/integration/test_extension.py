"""A metric and a data source that the package does not have, each added with one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from chromagan_jax.errors import UserError
from chromagan_jax.gan import checkpoints
from chromagan_jax.training import loop

ROOT = Path(__file__).parents[2]
FLAGS = '--xla_backend_optimization_level=0'  # and one device
SCRIPT = '''
import dataclasses, io, json, pathlib, sys

import jax.numpy as jnp
import numpy as np
from absl import app
from PIL import Image

from chromagan_jax import main
from chromagan_jax.data import sources
from chromagan_jax.evaluation import metrics


def red_share(original, picture):
    """Mean of R / (R + G + B), (B, H, W, 3) RGB -> (B,)."""
    return (picture[..., 0] / (picture.sum(-1) + 1e-6)).mean((1, 2))


@dataclasses.dataclass(frozen=True)
class Colors:
    location: str
    count: int
    fingerprint: str = 'drawn'
    num_classes: int = 0

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        pixels = np.random.default_rng(index).integers(0, 255, (4, 4, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).resize((24, 24)).save(buffer, 'PNG')
        return {'image': buffer.getvalue(), 'label': -1}

    def name(self, index):
        return f'colour {index}'


metrics.METRICS['red'] = metrics.Metric(red_share, 'red', '{:.4f}', better='higher', beside='gray')
sources.SOURCES.append(
    sources.SourceKind(
        lambda at: at.startswith('colors:'),
        lambda at, split, labels: Colors(at, int(at.removeprefix('colors:'))),
    )
)


def train_and_tabulate(argv):
    main.main(argv)
    from tools import table

    lines = map(json.loads, pathlib.Path(main._WORKDIR.value, 'metrics.jsonl').open())
    scores = [line for line in lines if 'eval/images' in line][-1]
    row = {name.removeprefix('eval/'): value for name, value in scores.items()}
    rows = [{'system': 'gray', **metrics.gray_figures(row)}, {'system': 'base', **row}]
    print(table.grid(rows, table.COLUMNS))


app.run(train_and_tabulate, flags_parser=main.parse_flags)
'''


@pytest.mark.slow
def test_a_new_metric_and_a_new_source_are_known_to_all_parts(tmp_path: Path) -> None:
    """To metrics.jsonl, the log, the best checkpoint and the tables."""
    process = subprocess.run(
        [
            *(sys.executable, '-c', SCRIPT, f'--config={ROOT}/configs/base.py:tiny'),
            *(f'--workdir={tmp_path}', '--config.checkpoint.best_metric=red'),
            *('--config.data.source=colors:8', '--config.eval.source=colors:5'),
            *('--config.data.size=16', '--config.generator.depth=2'),
            *('--config.discriminator.layers=1', '--config.discriminator_steps=1'),
        ],
        env=os.environ | {'PYTHONPATH': str(ROOT), 'XLA_FLAGS': FLAGS},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert checkpoints.read_run(tmp_path)['data']['records'] == 8

    lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').open()]
    scored = {line['step']: line for line in lines if 'eval/images' in line}
    assert list(scored) == [2, 4]
    assert {line['eval/images'] for line in scored.values()} == {5}
    for step, line in scored.items():
        shown = f'red {line["eval/red"]:.4f} (gray {line["eval/red_gray"]:.4f})'
        summary = next(text for text in process.stderr.splitlines() if f'step {step}: ' in text)
        assert summary.endswith(f', {shown}')

    best = checkpoints.open_best(tmp_path)
    highest = max(scored, key=lambda step: scored[step]['eval/red'])
    assert best.best_step() == highest
    assert best.metrics(highest)['score'] == -scored[highest]['eval/red']

    heading, _, gray, made = (row.split(' | ') for row in process.stdout.splitlines())
    column = heading.index('red |')
    assert gray[column] == f'{scored[4]["eval/red_gray"]:.4f} |'
    assert made[column] == f'{scored[4]["eval/red"]:.4f} |'


@pytest.mark.parametrize('field', ['checkpoint.best_metric', 'plateau.metric'])
def test_a_metric_that_cannot_rank_is_refused_before_the_run_begins(small, field, tmp_path):
    small.update_from_flattened_dict({field: 'red'})
    with pytest.raises(UserError, match=f'^{field} is .red.; choose one of ab_mae, colorfulness_'):
        loop.train_and_evaluate(small, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()
