"""The command line: what a user gets wrong ends in one sentence and the exit code that it has."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

from chromagan_jax import config as config_lib
from chromagan_jax import main
from chromagan_jax.config import Config
from chromagan_jax.errors import UserError
from chromagan_jax.training import loop
from configs import base

ROOT = Path(__file__).parents[2]
TINY = f'--config={ROOT}/configs/base.py:tiny'
SMALL = (
    TINY,
    '--config.data.size=16',
    '--config.discriminator.layers=1',
    '--config.generator.depth=3',
    '--config.discriminator_steps=1',
)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command on one device, with `folder` as the current one."""
    return subprocess.run(
        [sys.executable, '-m', 'chromagan_jax.main', *arguments],
        cwd=folder,
        env=os.environ | {'XLA_FLAGS': '', 'PYTHONPATH': str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope='module')
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a run of two steps, started without --workdir."""
    folder = tmp_path_factory.mktemp('finished')
    process = run(folder, *SMALL, '--config.steps=2')
    assert process.returncode == 0, process.stderr
    assert f'writes to {folder}/runs/base\n' in process.stderr
    return folder / 'runs' / 'base'


# Through a process


def test_a_mistake_exits_with_1_and_one_sentence(tmp_path: Path) -> None:
    process = run(tmp_path, TINY, '--config.generator.name=resnet')
    assert process.stderr == (
        "chromagan_jax: generator.name is 'resnet'; choose one of unet, lite_unet, "
        'encoder_decoder, chromagan.\n'
    )
    assert process.returncode == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_default_workdir_is_runs_and_the_name_of_the_config(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} >= {
        'best',
        'checkpoints',
        'config.json',
        'metrics.jsonl',
        'samples',
    }


@pytest.mark.slow
def test_divergence_exits_with_3_names_step_and_term_and_saves_nothing_bad(tmp_path: Path) -> None:
    process = run(
        tmp_path,
        *SMALL,
        f'--workdir={tmp_path}',
        '--config.steps=20',
        '--config.checkpoint_every=1',
        '--config.generator_optimizer.warmup_steps=3',  # no update at the first step
        '--config.generator_optimizer.learning_rate=1e38',
    )
    assert process.returncode == 3, process.stderr
    assert 'Traceback' not in process.stderr
    sentence = process.stderr.splitlines()[-1]
    match = re.match(r'chromagan_jax: (\w+/\w+) was not finite at step (\d+): ', sentence)
    assert match, sentence
    first = json.loads((tmp_path / 'metrics.jsonl').read_text().splitlines()[0])
    assert match[1] in first

    options = ocp.CheckpointManagerOptions(read_only=True)
    with ocp.CheckpointManager(tmp_path / 'checkpoints', options=options) as manager:
        assert manager.latest_step() == int(match[2]) - 1
        state = manager.restore(manager.latest_step(), args=ocp.args.StandardRestore())
    assert state['first_nonfinite_step'] == -1
    params = jax.tree.leaves([state['generator']['params'], state['discriminator']['params']])
    assert params
    assert all(np.isfinite(leaf).all() for leaf in params)


@pytest.mark.slow
def test_cadences_workers_and_steps_may_change_on_a_resume(finished: Path, tmp_path: Path) -> None:
    workdir = shutil.copytree(finished, tmp_path / 'copy')
    others = ('--config.log_every=2', '--config.data.workers=1', '--config.checkpoint_every=1')
    process = run(tmp_path, *SMALL, f'--workdir={workdir}', '--config.steps=4', *others)
    assert process.returncode == 0, process.stderr
    assert 'resumed from step 2\n' in process.stderr
    assert {path.name for path in (workdir / 'checkpoints').iterdir()} == {'3', '4'}
    assert json.loads((workdir / 'config.json').read_text())['config']['steps'] == 4


# Inside this one


@pytest.mark.parametrize(
    ('field', 'before', 'now'),
    [
        ('seed', 0, 1),
        ('batch_size', 8, 16),
        ('generator.width', 4, 8),
        ('loss.weights.l1', 100.0, 10.0),
        ('generator_optimizer.learning_rate', 2e-4, 1e-3),
    ],
)
def test_a_workdir_of_another_config_is_refused(
    trained: Path, small: Config, field: str, before: object, now: object
) -> None:
    config_lib.set_field(small, field, now)
    with pytest.raises(UserError, match=re.escape(f'{field}={before!r}, not {now!r}: ')):
        loop.train_and_evaluate(small, trained)


def test_a_workdir_of_other_data_is_refused(trained: Path, small: Config, tmp_path: Path) -> None:
    Image.new('RGB', (20, 20)).save(tmp_path / 'a.png')
    small.data.source = str(tmp_path)
    with pytest.raises(UserError, match=r'data\.source has other files .*1 records; 6 then'):
        loop.train_and_evaluate(small, trained)


@pytest.mark.parametrize(
    ('field', 'value', 'words'),
    [
        ('data.size', 48, 'A U-Net of depth 5 .* 48'),
        ('eval.size', 20, '20 x 20 px: change the size'),
        ('discriminator.layers', 5, 'layers needs pictures of 96 px or more, not 32 x 32'),
        ('batch_size', 12, 'batch_size is 12, which 8 devices do not divide'),
        ('grad_accum_steps', 3, '8 devices x 3 micro-batches do not divide'),
        ('mesh.fsdp', 3, 'mesh.fsdp is 3, which does not divide the 8 devices'),
        ('data.source', '', 'data.source is empty'),
        ('data.source', 'missing', 'missing does not exist'),
        ('eval.source', 'missing', 'missing does not exist'),
        ('data.source', 'empty', 'empty holds no images'),
        ('data.source', 'texts', 'texts holds no images'),
        ('data.source', 'texts/a.txt', 'a.txt is a file: name the folder'),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    field: str, value: object, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'texts').mkdir()
    (tmp_path / 'texts' / 'a.txt').write_text('no image')
    monkeypatch.chdir(tmp_path)
    config = base.get_config('tiny')
    config_lib.set_field(config, field, value)
    if (field, value) == ('data.size', 48):
        config.generator = config.generator.clone(depth=5)
    with pytest.raises(UserError, match=words) as raised:
        loop.train_and_evaluate(config, tmp_path / 'run')
    assert len(str(raised.value).splitlines()) == 1
    assert not (tmp_path / 'run').exists()


def test_48_px_without_a_depth_is_refused_with_the_fix(tmp_path: Path) -> None:
    config = base.get_config('tiny')
    config.data.size = 48
    with pytest.raises(UserError, match=r'not 48: set generator\.depth'):
        loop.train_and_evaluate(config, tmp_path / 'run')


@pytest.mark.parametrize('inside', ['', 'run'])
def test_a_file_in_the_place_of_the_workdir_is_named(inside: str, tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('in the way')
    with pytest.raises(UserError, match=re.escape(str(tmp_path / 'file'))):
        loop.train_and_evaluate(base.get_config('tiny'), tmp_path / 'file' / inside)
    assert (tmp_path / 'file').read_text() == 'in the way'


# The sentences about the command line


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        ([], 'No config is named: add --config=configs/base.py.'),
        ([TINY, 'steps=3'], "'steps=3' is not a flag: write --config.FIELD=VALUE."),
        ([TINY, '--config.qqq=3'], "There is no field 'qqq' in the config."),
        (
            [TINY, '--config.widht=3'],
            "There is no field 'widht' in the config: did you mean 'generator.width' or "
            "'generator.widths'?",
        ),
        (
            [TINY, '--config.gen.width=3'],
            "There is no field 'gen.width' in the config: did you mean 'generator.width'?",
        ),
        (
            [TINY, '--config.seed.x=3'],
            "There is no field 'seed.x' in the config: did you mean 'seed'?",
        ),
        (
            [TINY, '--config.generator.widht=3'],
            "There is no field 'generator.widht' in the config: did you mean 'generator.width'?",
        ),
        (
            [TINY, '--config.stesp=3'],
            "There is no field 'stesp' in the config: did you mean 'steps'?",
        ),
        (
            [TINY, '--config.discriminator.name=deep'],
            "discriminator.name is 'deep'; choose one of patch, dense, projected.",
        ),
        ([TINY, '--config.steps=abc'], "--config.steps must be a whole number, not 'abc'."),
        ([TINY, '--config.steps=1.5'], "--config.steps must be a whole number, not '1.5'."),
        ([TINY, '--config.ema_decay=high'], "--config.ema_decay must be a number, not 'high'."),
        ([TINY, '--config.data.flip=5'], "--config.data.flip must be true or false, not '5'."),
        ([TINY, '--config.steps'], '--config.steps has no value: write --config.steps=VALUE.'),
        ([TINY, '--wrkdir=x'], 'There is no flag --wrkdir: did you mean --workdir?'),
        ([TINY, '--unheard=x'], 'There is no flag --unheard; --help lists the flags.'),
        (
            [TINY, '--num_processes=two'],
            "--num_processes must be a whole number, not 'two'.",
        ),
        (['--config.steps=3'], 'No config is named: add --config=configs/base.py.'),
        ([TINY, '--mode=x'], "--mode must be one of train, eval, not 'x'."),
        (
            ['--config=nope.py', '--config.steps=3'],
            'There is no config nope.py: name a file, or one of base, best, chromagan, '
            'chromatic_dreams, hints, image_colorizer, lite_unet, photos, pix2pix, restore, '
            'rgb_colorizer.',
        ),
        (
            [TINY.replace('tiny', 'huge')],
            "configs/base.py takes the argument tiny or none, not 'huge'.",
        ),
    ],
)
def test_a_wrong_flag_ends_in_one_sentence(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main.main(['main', *arguments])
    assert (ended.value.code, capsys.readouterr().err) == (1, f'chromagan_jax: {sentence}\n')
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_disk_that_takes_no_more_ends_in_one_sentence_and_loses_nothing(tmp_path):
    wide = (*SMALL, '--config.generator.width=32', '--config.checkpoint_every=2')
    wide += ('--config.eval_every=0', '--config.sample_every=0', f'--workdir={tmp_path / "run"}')
    assert run(tmp_path, *wide).returncode == 0
    # No file of more than 200 kB can be written: that is, no kernels.
    done = subprocess.run(
        [
            'bash',
            '-c',
            'trap "" XFSZ; ulimit -f 200; exec "$@"',
            'bash',
            sys.executable,
            '-m',
            'chromagan_jax.main',
            *wide,
            '--config.steps=8',
        ],
        cwd=tmp_path,
        env=os.environ | {'XLA_FLAGS': '', 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    assert 'Traceback' not in done.stderr
    assert re.search(r'checkpoints cannot be written \(File too large\): free disk', done.stderr)
    again = run(tmp_path, *wide, '--config.steps=8')
    assert again.returncode == 0, again.stderr
    assert 'resumed from step 4' in again.stderr
    assert sorted(path.name for path in (tmp_path / 'run/checkpoints').iterdir()) == ['6', '8']


def test_a_device_without_enough_memory_ends_in_one_sentence(monkeypatch, capfd):
    def run(argv: Sequence[str]) -> None:
        jax.jit(lambda: jnp.zeros(2**44))().block_until_ready()

    monkeypatch.setattr(main, '_run', run)
    with pytest.raises(SystemExit) as ended:
        main.main(['main'])
    assert ended.value.code == 1
    said = capfd.readouterr().err
    assert said.startswith('chromagan_jax: A device has not enough memory: set grad_accum_steps')
    assert said.count('\n') == 1
