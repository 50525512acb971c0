"""Exported networks: ONNX in onnxruntime, StableHLO in a process without this package."""

import functools
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
from chromagan_jax.gan import model as model_lib
from chromagan_jax.gan.released import Trained
from chromagan_jax.inference import export as export_lib
from chromagan_jax.models.chromagan import TwoBranch
from chromagan_jax.models.encoder_decoder import EncoderDecoder
from chromagan_jax.models.lite_unet import LiteUNet
from chromagan_jax.models.pretrained import efficientnet_lite
from chromagan_jax.models.unet import UNet
from tests.inference.test_colorize import make_run
from tests.models.lite import SHALLOW, random_variables

DOCS = Path(__file__).parents[2] / 'docs/export.md'


HINTED = 'hinted'
NETWORKS = {
    'plain': LiteUNet(decoder_widths=(8, 8, 8, 8, 4)),
    HINTED: LiteUNet(decoder_widths=(8, 8, 8, 8, 4), hints=True),
    'encoder-decoder': EncoderDecoder(2, width=4),
}


@pytest.fixture
def make_trained(monkeypatch):
    def make(name):
        monkeypatch.setattr(efficientnet_lite, '_STAGES', SHALLOW)
        generator, channels = NETWORKS[name], 4 if name == HINTED else 1
        like = np.zeros((1, 32, 32, channels), np.float32)
        return Trained(name, Config(), generator, random_variables(generator, like, False), 0)

    return make


@pytest.fixture
def trained(make_trained):
    return make_trained('plain')


def inputs(network, batch, height, width):
    """Random inputs of a network, by name; one pixel in ten is hinted."""
    rng = np.random.default_rng(height)
    given = {'condition': rng.uniform(-1, 1, (batch, height, width, 1)).astype(np.float32)}
    if 'hints' in network.inputs:
        mask = rng.uniform(size=(batch, height, width, 1)) < 0.1
        colors = rng.uniform(-80, 80, (batch, height, width, 2)) * mask
        given['hints'] = np.concatenate([colors, mask], axis=-1).astype(np.float32)
    return given


def expected(trained, given):
    """What the network gives in this package, with hints as it takes them there."""
    condition = jax.numpy.asarray(given['condition'])
    whole = condition
    if 'hints' in given:
        colors, mask = given['hints'][..., :2] / color.AB_SCALE, given['hints'][..., 2:]
        whole = jax.numpy.concatenate([condition, colors, mask], axis=-1)
    predict = jax.jit(functools.partial(model_lib.predict, trained.generator))
    target = predict(trained.variables, whole)
    return np.asarray(color.to_lab(condition, target)[..., 1:])


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'dtype', 'tolerance'),
    [
        ('plain', 'float16', 1.0),
        ('plain', 'float32', 2e-3),
        ('encoder-decoder', 'float32', 2e-3),
    ],
)
def test_onnxruntime_computes_the_ab_of_jax_for_any_batch_height_and_width(
    make_trained, name, dtype, tolerance
):
    pytest.importorskip('jax2onnx')
    runtime = pytest.importorskip('onnxruntime')
    trained = make_trained(name)
    network = export_lib.make_network(trained)
    session = runtime.InferenceSession(export_lib.to_onnx(network, dtype))
    assert [one.name for one in session.get_inputs()] == list(network.inputs)
    for shape in ((3, 64, 96), (1, 96, 32)):
        given = inputs(network, *shape)
        ab = session.run(['ab'], given)[0]
        assert ab.dtype == np.float32
        np.testing.assert_allclose(ab, expected(trained, given), atol=tolerance)


@pytest.mark.slow
def test_hints_are_a_second_input_of_a_model_of_one_size(make_trained):
    pytest.importorskip('jax2onnx')
    runtime = pytest.importorskip('onnxruntime')
    trained = make_trained(HINTED)
    network = export_lib.make_network(trained, 64, hints=True)
    session = runtime.InferenceSession(export_lib.to_onnx(network))
    assert [one.name for one in session.get_inputs()] == ['condition', 'hints']
    given = inputs(network, 2, 64, 64)
    ab = session.run(['ab'], given)[0]
    np.testing.assert_allclose(ab, expected(trained, given), atol=2e-3)
    automatic = session.run(['ab'], {**given, 'hints': 0 * given['hints']})[0]
    assert np.abs(ab - automatic).max() > 1


def test_hints_of_a_network_without_them_are_an_error(make_trained):
    with pytest.raises(UserError, match='plain takes no hints: leave --hints out'):
        export_lib.make_network(make_trained('plain'), hints=True)


@pytest.mark.slow
def test_a_model_of_one_size_has_that_size_and_other_inputs_are_refused(make_trained):
    pytest.importorskip('jax2onnx')
    runtime = pytest.importorskip('onnxruntime')
    trained = make_trained('encoder-decoder')
    network = export_lib.make_network(trained, 64)
    session = runtime.InferenceSession(export_lib.to_onnx(network))
    assert session.get_inputs()[0].shape == ['B', 64, 64, 1]
    given = inputs(network, 2, 64, 64)
    np.testing.assert_allclose(session.run(['ab'], given)[0], expected(trained, given), atol=1e-3)
    with pytest.raises(Exception, match='INVALID_ARGUMENT'):
        session.run(['ab'], inputs(network, 2, 64, 32))


def test_a_network_of_one_size_is_exported_at_that_size(trained):
    variables = trained.variables
    chromagan = Trained('', Config(), TwoBranch(size=24), variables, 0)
    assert export_lib.make_network(chromagan).size == 24
    with pytest.raises(UserError, match='--size must be 24 for this network, not 48'):
        export_lib.make_network(chromagan, 48)
    squeezenet = Trained('', Config(), UNet(depth=5, encoder='squeezenet'), variables, 0)
    assert export_lib.make_network(squeezenet).size == squeezenet.size


@pytest.mark.parametrize(
    ('generator', 'size', 'multiple'), [(LiteUNet(), 100, 32), (UNet(depth=6), 96, 64)]
)
def test_a_size_that_the_network_does_not_take_is_refused(trained, generator, size, multiple):
    with pytest.raises(UserError, match=f'a multiple of {multiple}, not {size}'):
        export_lib.make_network(trained._replace(generator=generator), size)


@pytest.mark.slow
@pytest.mark.parametrize('space', ['lab', 'rgb'])
def test_the_network_of_a_run_is_exported_by_the_command(space, tmp_path, capsys):
    pytest.importorskip('jax2onnx')
    runtime = pytest.importorskip('onnxruntime')
    generator, variables = make_run(tmp_path / 'run', space)
    output = tmp_path / 'colorizer.onnx'
    assert export.main(['export', f'--workdir={tmp_path}/run', f'--output={output}']) == 0
    assert 'H and W: any multiples of' in capsys.readouterr().err
    session = runtime.InferenceSession(output)
    trained = Trained('', Config(), generator, variables, 0)
    given = inputs(export_lib.make_network(trained), 2, 32, 64)
    np.testing.assert_allclose(session.run(['ab'], given)[0], expected(trained, given), atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['plain', HINTED])
def test_stablehlo_runs_without_this_package_for_any_batch_height_and_width(
    make_trained, name, tmp_path
):
    pytest.importorskip('flatbuffers')
    trained = make_trained(name)
    network = export_lib.make_network(trained, hints=name == HINTED)
    (tmp_path / 'network').write_bytes(export_lib.to_stablehlo(network))
    given = inputs(network, 3, 64, 96)
    np.savez(tmp_path / 'given.npz', *given.values())
    program = (
        'import sys, jax, numpy as np\n'
        'from jax import export\n'
        "network = export.deserialize(bytearray(open('network', 'rb').read()))\n"
        "given = list(np.load('given.npz').values())\n"
        'one, all = (np.asarray(network.call(*x)) for x in ([g[:1] for g in given], given))\n'
        'np.testing.assert_allclose(one, all[:1], atol=1e-3)\n'
        "np.save('ab.npy', all)\n"
        "assert not [name for name in sys.modules if name.startswith(('chromagan', 'flax'))]\n"
    )
    subprocess.run([sys.executable, '-c', program], cwd=tmp_path, check=True)
    ab = np.load(tmp_path / 'ab.npy')
    np.testing.assert_allclose(ab, expected(trained, given), atol=1e-3)


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        ((), 'No output is named'),
        (('--output=x', '--checkpoint=best'), 'add --workdir'),
        (('--output=no/folder/x',), 'does not exist'),
        (('--output=/proc/x',), '/proc cannot be written'),
        (('--output=/tmp',), '/tmp is a folder: name a file'),
        (('--output=x', '--format=tflite'), "must be one of onnx, stablehlo, not 'tflite'"),
        (('x',), 'is not a flag'),
        (('--output=x', '--format=stablehlo', '--size=64'), 'leave them out'),
        (('--output=x.stablehlo', '--dtype=float16'), 'leave them out'),
        (('--output=a/x.stablehlo', '--format=onnx'), 'name the file a/x.onnx'),
        (('--output=x.onnx', '--format=stablehlo'), 'name the file x.stablehlo'),
    ],
)
def test_an_error_is_one_sentence(arguments, sentence, capsys):
    assert export.main(['export', *arguments]) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ('name', 'wanted', 'expected'),
    [
        ('x.onnx', None, 'onnx'),
        ('x.stablehlo', None, 'stablehlo'),
        ('X.StableHLO', None, 'stablehlo'),
        ('x', None, 'onnx'),
        ('x', 'stablehlo', 'stablehlo'),
        ('x.bin', 'onnx', 'onnx'),
    ],
)
def test_the_format_is_the_one_that_the_name_of_the_file_ends_in(name, wanted, expected):
    assert export._format(Path(name), wanted) == expected


def test_help_shows_the_flags(capsys):
    assert export.main(['export', '--help']) == 0
    assert '--format' in capsys.readouterr().out


@pytest.mark.slow
def test_the_documented_script_keeps_the_lightness_and_adds_colours(trained, tmp_path):
    pytest.importorskip('jax2onnx')
    pytest.importorskip('onnxruntime')
    model = export_lib.to_onnx(export_lib.make_network(trained))
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
