import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from chromagan_jax.errors import UserError
from chromagan_jax.evaluation import job
from chromagan_jax.training import loop

ROOT = pathlib.Path(__file__).parents[2]


def scores_of(path):
    lines = [json.loads(line) for line in path.open()]
    return {line['step']: line for line in lines if 'eval/psnr' in line}


@pytest.fixture
def workdir(trained, tmp_path):
    """A copy of a finished run."""
    return pathlib.Path(shutil.copytree(trained, tmp_path / 'run'))


@pytest.mark.slow
@pytest.mark.parametrize('which', ['newest', 'best', '2'])
def test_the_job_finds_the_figures_that_training_found(small, workdir, which):
    small.eval.checkpoint = which
    small.eval.batch_size = 16  # which changes no figure
    job.evaluate_checkpoints(small, workdir)
    ((step, scores),) = scores_of(workdir / 'metrics_eval.jsonl').items()
    trained = scores_of(workdir / 'metrics.jsonl')
    expected = {
        'newest': 4,
        'best': min(trained, key=lambda step: trained[step]['eval/ab_mae']),
        '2': 2,
    }
    assert step == expected[which]
    assert scores == pytest.approx(trained[step], rel=1e-5)
    with Image.open(workdir / f'samples_eval/step_{step:08d}.png') as grid:
        assert grid.width > 3 * 128


@pytest.mark.slow
def test_following_scores_every_checkpoint_of_a_run_beside_it_and_ends_with_it(small, tmp_path):
    small.checkpoint.max_to_keep = 4
    small.eval_every = small.sample_every = 0
    loop.train_and_evaluate(small, tmp_path / 'run')  # so that there is a workdir to follow
    small.steps = 8
    command = [sys.executable, '-m', 'chromagan_jax.main', '--mode=eval']
    command += [
        '--config=configs/base.py',
        f'--workdir={tmp_path / "run"}',
        '--config.eval.follow=True',
    ]
    (tmp_path / 'run/config.json').write_text(
        (tmp_path / 'run/config.json').read_text().replace('"steps": 4', '"steps": 8')
    )
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ, stderr=subprocess.PIPE, text=True
    ) as job:
        loop.train_and_evaluate(small, tmp_path / 'run')
        errors = job.communicate(timeout=120)[1]
    assert job.returncode == 0, errors
    assert 'not held out' in errors
    assert list(scores_of(tmp_path / 'run/metrics_eval.jsonl')) == [2, 4, 6, 8]


@pytest.mark.slow
def test_following_a_run_that_stands_still_ends_with_a_sentence(small, workdir):
    run = json.loads((workdir / 'config.json').read_text())
    run['config']['steps'] = 100  # as if it had been killed
    (workdir / 'config.json').write_text(json.dumps(run))
    small.eval.follow = True
    small.eval.timeout = 0
    with pytest.raises(UserError, match=r'No new checkpoint in .* for 0 s'):
        job.evaluate_checkpoints(small, workdir)
    assert list(scores_of(workdir / 'metrics_eval.jsonl')) == [2, 4]


@pytest.mark.slow
def test_following_passes_over_a_checkpoint_that_training_deletes_meanwhile(
    small, workdir, monkeypatch
):
    load = job.checkpoints.load

    def deleted_first(folder, which, mesh):
        if which == '2':
            shutil.rmtree(folder / 'checkpoints/2')
        return load(folder, which, mesh)

    monkeypatch.setattr(job.checkpoints, 'load', deleted_first)
    small.eval.follow = True
    job.evaluate_checkpoints(small, workdir)
    assert list(scores_of(workdir / 'metrics_eval.jsonl')) == [4]


@pytest.mark.parametrize(
    ('field', 'value'), [('stall_timeout', -1), ('eval.batch_size', 0), ('eval.timeout', 'x')]
)
def test_a_wrong_field_is_named_before_anything_is_read(small, tmp_path, field, value):
    group, _, name = field.rpartition('.')
    setattr(getattr(small, group) if group else small, name, value)
    with pytest.raises(UserError, match=f'^{field} must be '):
        job.evaluate_checkpoints(small, tmp_path / 'none')


@pytest.mark.slow
def test_a_missing_run_or_checkpoint_is_named(small, workdir, tmp_path):
    with pytest.raises(UserError, match=r'holds no config\.json'):
        job.evaluate_checkpoints(small, tmp_path / 'none')
    small.eval.checkpoint = '3'
    with pytest.raises(UserError, match=r"no checkpoint '3'; choose newest, best or 2, 4"):
        job.evaluate_checkpoints(small, workdir)
    shutil.rmtree(workdir / 'best')
    small.eval.checkpoint = 'best'
    with pytest.raises(UserError, match='holds no checkpoint yet'):
        job.evaluate_checkpoints(small, workdir)


@pytest.mark.slow
def test_a_training_writes_a_report_and_the_job_adds_its_photographs(tmp_path):
    small = [
        '--config.generator.depth=2',
        '--config.discriminator.layers=1',
        '--config.data.size=16',
    ]
    command = [sys.executable, '-m', 'chromagan_jax.main', '--config=configs/base.py:tiny', *small]
    command.append(f'--workdir={tmp_path}')
    run = functools.partial(subprocess.run, cwd=ROOT, check=True, capture_output=True, text=True)
    run([*command, '--config.steps=2'])
    first = (tmp_path / 'report.html').read_text()
    assert 'step 2' in first
    assert 'Worst photographs' not in first
    run([*command, '--mode=eval', '--config.eval.write_images=true'])
    second = (tmp_path / 'report.html').read_text()
    assert 'Worst photographs' in second
    assert 'astronaut.png' in second
    details = json.loads((tmp_path / 'images_eval.json').read_text())
    pairs = [
        sorted((tmp_path / 'images_eval/step_00000002' / kind).iterdir())
        for kind in ('colorized', 'original')
    ]
    assert [p.name for p in pairs[0]] == [p.name for p in pairs[1]]
    assert pairs[0][0].name == '000000_astronaut.png'
    for made, original, psnr in zip(*pairs, details['images']['psnr'], strict=True):
        images = [np.asarray(Image.open(path)) for path in (original, made)]
        assert peak_signal_noise_ratio(*images) == pytest.approx(psnr, abs=1e-3)
