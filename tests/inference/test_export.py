"""Exported networks: ONNX in onnxruntime, StableHLO in a process without this package."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from skimage import data
from skimage.color import rgb2lab

from chromagan_jax import color, export
from chromagan_jax.config import Config
from chromagan_jax.errors import UserError
from chromagan_jax.gan import steps
from chromagan_jax.gan.released import Trained
from chromagan_jax.inference import export as export_lib
from chromagan_jax.models.lite_unet import LiteUNet
from chromagan_jax.models.pretrained import efficientnet_lite
from tests.models.lite import SHALLOW, random_variables

SIZE = 64
DOCS = Path(__file__).parents[2] / 'docs/export.md'


@pytest.fixture
def trained(monkeypatch):
    monkeypatch.setattr(efficientnet_lite, '_STAGES', SHALLOW)
    generator = LiteUNet(decoder_widths=(8, 8, 8, 8, 4))
    variables = random_variables(generator, np.zeros((1, 32, 32, 1), np.float32), False)
    return Trained('a network', Config(), generator, variables, 0)


@pytest.fixture
def condition():
    return np.random.default_rng(0).uniform(-1, 1, (3, SIZE, SIZE, 1)).astype(np.float32)


def expected(trained, condition):
    target = steps.predict(trained.generator, trained.variables, jax.numpy.asarray(condition))
    return np.asarray(color.to_lab(jax.numpy.asarray(condition), target)[..., 1:])


@pytest.mark.slow
@pytest.mark.parametrize(('dtype', 'tolerance'), [('float32', 1e-3), ('float16', 1.0)])
def test_onnxruntime_computes_the_ab_of_jax_for_any_batch(trained, condition, dtype, tolerance):
    pytest.importorskip('jax2onnx')
    runtime = pytest.importorskip('onnxruntime')
    model = export_lib.to_onnx(export_lib.make_network(trained), SIZE, dtype)
    session = runtime.InferenceSession(model)
    for images in (condition, condition[:1]):
        ab = session.run(['ab'], {'condition': images})[0]
        assert ab.dtype == np.float32
        np.testing.assert_allclose(ab, expected(trained, images), atol=tolerance)


@pytest.mark.slow
def test_stablehlo_runs_without_this_package_for_any_batch(trained, condition, tmp_path):
    pytest.importorskip('flatbuffers')
    network = export_lib.make_network(trained)
    (tmp_path / 'network').write_bytes(export_lib.to_stablehlo(network))
    np.save(tmp_path / 'condition.npy', condition)
    program = (
        'import sys, jax, numpy as np\n'
        'from jax import export\n'
        "network = export.deserialize(bytearray(open('network', 'rb').read()))\n"
        "x = np.load('condition.npy')\n"
        'one, all = (np.asarray(network.call(y)) for y in (x[:1], x))\n'
        'np.testing.assert_allclose(one, all[:1], atol=1e-3)\n'
        "np.save('ab.npy', all)\n"
        "assert not [name for name in sys.modules if name.startswith(('chromagan', 'flax'))]\n"
    )
    subprocess.run([sys.executable, '-c', program], cwd=tmp_path, check=True)
    ab = np.load(tmp_path / 'ab.npy')
    np.testing.assert_allclose(ab, expected(trained, condition), atol=1e-3)


def test_a_network_with_hints_is_refused_in_a_sentence(trained):
    hinted = trained._replace(generator=trained.generator.clone(hints=True))
    with pytest.raises(UserError, match='hints cannot be exported'):
        export_lib.make_network(hinted)


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        ((), 'No output is named'),
        (('--output=x', '--checkpoint=best'), 'add --workdir'),
        (('--output=no/folder/x',), 'does not exist'),
        (('x',), 'is not a flag'),
        (('--output=x', '--format=stablehlo', '--size=64'), 'leave them out'),
    ],
)
def test_an_error_is_one_sentence(arguments, sentence, capsys):
    assert export.main(['export', *arguments]) == 1
    assert sentence in capsys.readouterr().err


def test_help_shows_the_flags(capsys):
    assert export.main(['export', '--help']) == 0
    assert '--format' in capsys.readouterr().out


@pytest.mark.slow
def test_the_documented_script_keeps_the_lightness_and_adds_colours(trained, tmp_path):
    pytest.importorskip('jax2onnx')
    pytest.importorskip('onnxruntime')
    model = export_lib.to_onnx(export_lib.make_network(trained), SIZE)
    (tmp_path / 'colorizer.onnx').write_bytes(model)
    Image.fromarray(data.camera()[:200, :150]).save(tmp_path / 'photo.png')
    blocks = re.findall(r'```python\n(.*?)```', DOCS.read_text(), re.S)
    command = [sys.executable, '-c', blocks[0], 'photo.png', 'colorized.png']
    subprocess.run(command, cwd=tmp_path, check=True)
    result = np.asarray(Image.open(tmp_path / 'colorized.png'))
    assert result.shape == (200, 150, 3)
    assert np.ptp(result.astype(int), axis=-1).mean() > 1
    gray = rgb2lab(result)[..., 0] - rgb2lab(np.dstack([data.camera()[:200, :150]] * 3))[..., 0]
    assert np.median(np.abs(gray)) < 0.5
