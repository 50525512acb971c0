"""The commands with a small `lite_unet`, in processes of their own."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from skimage import data

from tests.integration.saved import newest
from tests.integration.test_distributed import assert_same_lines
from tests.integration.test_resume import ROOT, assert_same_run, wait_for

pytestmark = pytest.mark.cluster  # test_configs_run.py trains the same networks in CI

STEPS = 12
FLAGS = [
    '--config=configs/lite_unet.py',
    '--config.data.source=sample',
    '--config.eval.source=sample',
    '--config.data.size=64',
    '--config.generator.decoder_widths=(8,8,8,8,8)',
    '--config.generator.dropout=0.5',
    '--config.discriminator.width=4',
    '--config.discriminator.layers=1',
    f'--config.steps={STEPS}',
    '--config.batch_size=4',
    '--config.eval.batch_size=8',
    '--config.log_every=1',
    '--config.eval_every=4',
    '--config.sample_every=4',
    '--config.checkpoint_every=2',
]


def start(module, *flags, devices=1):
    xla = f'--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0'
    return subprocess.Popen(
        [sys.executable, '-m', f'chromagan_jax.{module}', *flags],
        cwd=ROOT,
        env=os.environ | {'XLA_FLAGS': xla},
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*arguments, **options):
    process = start(*arguments, **options)
    said = process.communicate()[1]
    assert process.returncode == 0, said
    return said


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """The workdir of a run with rematerialisation on one device."""
    workdir = tmp_path_factory.mktemp('run')
    finish('main', *FLAGS, '--config.remat=True', f'--workdir={workdir}')
    return workdir


def test_a_run_killed_between_checkpoints_ends_in_the_same_bits(run, tmp_path):
    flags = ['main', *FLAGS, '--config.remat=True', f'--workdir={tmp_path}']
    process = start(*flags)
    wait_for(process, 'step 8/')
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.stderr.close()
    saved = newest(tmp_path)
    assert 2 <= saved < STEPS
    assert f'resumed from step {saved}\n' in finish(*flags)
    assert_same_run(run, tmp_path)


def test_shared_out_over_four_devices_and_without_remat_it_follows_the_same_trajectory(
    run, tmp_path
):
    finish('main', *FLAGS, '--config.mesh.fsdp=2', f'--workdir={tmp_path}', devices=4)
    # Adam's first updates amplify rounding, so the trajectories part in the end.
    for path in (tmp_path / 'ours.jsonl', tmp_path / 'theirs.jsonl'):
        whole = (tmp_path if path.stem == 'ours' else run) / 'metrics.jsonl'
        path.write_text(''.join(whole.read_text().splitlines(keepends=True)[: STEPS // 2]))
    assert_same_lines(tmp_path / 'ours.jsonl', tmp_path / 'theirs.jsonl')


def test_its_checkpoint_is_evaluated_and_colorizes(run, tmp_path):
    finish('main', *FLAGS, '--config.remat=True', f'--workdir={run}', '--mode=eval')
    during, after = (
        json.loads((run / file).read_text().splitlines()[-1])
        for file in ('metrics.jsonl', 'metrics_eval.jsonl')
    )
    assert after['eval/psnr'] == pytest.approx(during['eval/psnr'], rel=1e-6)
    photograph, output = tmp_path / 'coffee.png', tmp_path / 'out'
    Image.fromarray(data.coffee()[:101, :150]).convert('L').save(photograph)
    finish('colorize', f'--workdir={run}', f'--output={output}', str(photograph))
    with Image.open(output / 'coffee.png') as result:
        assert (result.mode, result.size) == ('RGB', (150, 101))
        assert np.ptp(np.asarray(result, np.int16), axis=-1).max() > 5
