"""Every config, whole, at the smallest size that its networks take.

The RGB networks never reduce their pictures, and are made narrow here.
"""

import contextlib
import functools
import json
from pathlib import Path

import jax
import pytest
import safetensors.numpy
from PIL import Image
from skimage import data

import chromagan_jax.colorize as colorize
from chromagan_jax import sharding
from chromagan_jax.errors import PreemptedError
from chromagan_jax.evaluation import job
from chromagan_jax.models.pretrained import efficientnet_lite
from chromagan_jax.training import loop, setup
from tests.config.test_configs import runnable
from tests.models import lite

SMALLEST = {  # px
    'base': 32,
    'best': 64,
    'chromagan': 24,
    'chromatic_dreams': 92,
    'hints': 32,
    'image_colorizer': 128,
    'lite_unet': 32,
    'pix2pix': 32,
    'restore': 32,
    'rgb_colorizer': 92,
}
SHALLOW = 'best, with a shallow encoder'
LONG = ('best', 'lite_unet')  # minutes to compile


@pytest.fixture
def one_device(monkeypatch):
    """So that two photographs are a batch."""
    mesh = functools.partial(sharding.make_mesh, devices=jax.devices()[:1])
    monkeypatch.setattr(sharding, 'make_mesh', lambda *args, **kwargs: mesh(*args[:1]))


@contextlib.contextmanager
def at_once(agreed):
    """In the place of stop_requests: asks to stop after the first step."""
    del agreed
    yield lambda: True


@pytest.mark.usefixtures('one_device')
@pytest.mark.parametrize(
    'name',
    [
        pytest.param(name, marks=pytest.mark.cluster if name in LONG else pytest.mark.slow)
        for name in ('small', SHALLOW, *SMALLEST)
    ],
)
def test_a_config_trains_resumes_evaluates_and_colorizes(name, small, tmp_path, monkeypatch, capfd):
    config = small
    if name == SHALLOW:
        monkeypatch.setattr(efficientnet_lite, '_STAGES', lite.SHALLOW)
        name = 'best'
    if name != 'small':
        config = runnable(name)
        config.data.size = SMALLEST[name]
    if name == 'best':  # its discriminator needs features
        file = tmp_path / 'lite0.safetensors'
        safetensors.numpy.save_file(lite.encoder_arrays('lite0', seed=1), file)
        config.pretrained['efficientnet_lite'] = str(file)
    if config.color_space == 'rgb':
        config.generator = config.generator.clone(width=4)
        config.discriminator = config.discriminator.clone(widths=(8, 16, 32, 64))
    config.steps = config.batch_size = config.eval.batch_size = 2
    config.data.workers = 0
    workdir = tmp_path / 'run'
    with monkeypatch.context() as patch:
        patch.setattr(setup, 'stop_requests', at_once)
        with pytest.raises(PreemptedError, match='stopped at step 1'):
            loop.train_and_evaluate(config, workdir)
    state = loop.train_and_evaluate(config, workdir)
    assert 'resumed from step 1' in capfd.readouterr().err
    assert (state.step, state.first_nonfinite_step) == (2, -1)
    assert (workdir / 'samples/step_00000002.png').exists()

    job.evaluate_checkpoints(config, workdir)
    during, after = (
        json.loads((workdir / file).read_text().splitlines()[-1])
        for file in ('metrics.jsonl', 'metrics_eval.jsonl')
    )
    assert after['eval/images'] == 6
    assert after['eval/psnr'] == pytest.approx(during['eval/psnr'], rel=1e-6)

    photograph = tmp_path / 'coffee.jpg'
    Image.fromarray(data.coffee()).convert('L').save(photograph)
    flags = [f'--workdir={workdir}', f'--output={tmp_path / "out"}', str(photograph)]
    assert colorize.main(['colorize', *flags]) == 0
    with Image.open(tmp_path / 'out' / 'coffee.png') as result:
        assert (result.mode, result.size) == ('RGB', (600, 400))


def test_every_config_is_run_but_the_ones_that_are_an_overlay_for_other_photographs():
    names = {path.stem for path in Path('configs').glob('*.py')} - {'photos'}
    assert names == SMALLEST.keys()
