"""The program of docs/extending.md: every extension point, through the command."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from chromagan_jax import config as config_lib
from chromagan_jax.errors import UserError
from chromagan_jax.gan import checkpoints
from chromagan_jax.gan.workdir import read_run
from chromagan_jax.training import loop

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / 'docs/extending.md').read_text()
BLOCKS = re.findall(r'^```python\n(.*?)^```$', TEXT, re.M | re.S)
(COMMAND,) = re.findall(r'^```bash\n(.*?)^```$', TEXT, re.M | re.S)
FLAGS = '--xla_backend_optimization_level=0'  # and one device


def test_each_block_is_short():
    assert len(BLOCKS) == 8
    for block in BLOCKS:
        written = [
            line for line in block.splitlines() if line and not line.startswith(('import', 'from'))
        ]
        assert len(written) < 20


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """The program's folder, workdir and standard error."""
    folder = tmp_path_factory.mktemp('extended')
    (folder / 'extended.py').write_text('\n'.join(BLOCKS))
    kernel = np.random.default_rng(0).normal(size=(5, 5, 1, 8)).astype(np.float32)
    np.savez(folder / 'stem.npz', kernel=kernel, bias=np.zeros(8, np.float32))
    python, *arguments = shlex.split(COMMAND.replace('\\\n', ' '))
    assert python == 'python'
    arguments += ['--workdir=run', '--config.generator_optimizer.learning_rate=0']
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {'PYTHONPATH': str(ROOT), 'XLA_FLAGS': FLAGS},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder, folder / 'run', done.stderr


def lines_of(workdir):
    return [json.loads(line) for line in (workdir / 'metrics.jsonl').open()]


@pytest.mark.slow
def test_a_new_loss_term_is_weighed_and_logged(run):
    trained = [line for line in lines_of(run[1]) if 'generator/loss' in line]
    assert len(trained) == 4
    assert all(line['generator/adversarial'] < 0 for line in trained)  # minimax, and no other loss
    for line in trained:
        parts = line['generator/adversarial'] + 100 * line['generator/l1']
        assert line['generator/charbonnier'] > line['generator/l1']
        whole = parts + 50 * line['generator/charbonnier']
        assert line['generator/loss'] == pytest.approx(whole, rel=1e-5)


@pytest.mark.slow
def test_a_new_metric_is_written_shown_and_ranks_checkpoints(run):
    _, workdir, said = run
    scored = {line['step']: line for line in lines_of(workdir) if 'eval/redness' in line}
    assert list(scored) == [2, 4]
    for line in scored.values():
        shown = f'redness {line["eval/redness"]:.4f} (gray {line["eval/redness_gray"]:.4f})'
        assert shown in said
    best = checkpoints.open_best(workdir)
    assert best.best_step() == max(scored, key=lambda step: scored[step]['eval/redness'])


@pytest.mark.slow
def test_new_networks_are_described_in_the_workdir(run):
    config = read_run(run[1])['config']
    assert config['generator'] == {'name': 'shallow', 'width': 8}
    assert config['discriminator'] == {'name': 'pixels', 'width': 8}


@pytest.mark.slow
def test_a_generator_starts_from_new_pretrained_weights(run):
    _, _, said = run
    assert "the generator's stem network starts from stem.npz" in said


@pytest.mark.slow
def test_a_new_source_is_trained_on(run):
    data = read_run(run[1])['data']
    assert data == {'records': 8, 'fingerprint': 'noise'}


TABLE = """
import json, sys
from tools import table

lines = map(json.loads, open(sys.argv[1]))
scores = [line for line in lines if 'eval/images' in line][-1]
row = {name.removeprefix('eval/'): value for name, value in scores.items()}
rows = [{'system': 'gray', **metrics.gray_figures(row)}, {'system': 'base', **row}]
print(table.grid(rows, table.COLUMNS))
"""


@pytest.mark.slow
def test_a_new_metric_has_a_column_in_tables(run):
    folder, workdir, _ = run
    program = '\n'.join([*BLOCKS[:-1], TABLE])
    done = subprocess.run(
        [sys.executable, '-c', program, str(workdir / 'metrics.jsonl')],
        cwd=folder,
        env=os.environ | {'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    heading, _, gray, made = (row.split(' | ') for row in done.stdout.splitlines())
    column = next(i for i, cell in enumerate(heading) if cell.startswith('redness'))
    last = [line for line in lines_of(workdir) if 'eval/redness' in line][-1]
    assert gray[column].startswith(f'{last["eval/redness_gray"]:.4f}')
    assert made[column].startswith(f'{last["eval/redness"]:.4f}')


@pytest.mark.parametrize('field', ['checkpoint.best_metric', 'reduce_lr_on_plateau.metric'])
def test_a_metric_that_cannot_rank_is_refused_before_the_run_begins(small, field, tmp_path):
    config_lib.set_field(small, field, 'red')
    with pytest.raises(UserError, match=f'^{field} is .red.; choose one of ab_mae, colorfulness_'):
        loop.train_and_evaluate(small, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()
