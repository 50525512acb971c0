"""EfficientNet-Lite and the U-Net on it against the same networks in PyTorch, with equal weights.

Errors are relative to the largest value of an array. Measured: maps 9e-6 (lite0), 2e-5 (lite1) and
3e-5 (lite2), colours 5e-6; in float64 colours and running statistics 3e-6, gradients 3e-6.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

torch = pytest.importorskip('torch', reason='needs PyTorch: pip install -e ".[parity]"')
from torch.nn import functional  # noqa: E402

from chromagan_jax.models.lite_unet import LiteUNet  # noqa: E402
from chromagan_jax.models.pretrained import efficientnet_lite  # noqa: E402
from tests.models import lite  # noqa: E402
from tools import encoder  # noqa: E402
from tools.torch_twin import networks  # noqa: E402

OUTPUTS = 5e-5  # relative errors that are rounding, in float32
OUTPUTS_64, GRADIENTS_64 = 1e-5, 2e-5  # and in float64, with a float32 at the end of the twin
WIDTHS = (24, 20, 16, 12, 8)


@pytest.fixture(autouse=True)
def _one_thread():  # two would wait for each other while other tests use the cores
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def shallow(monkeypatch):
    """Seven small blocks in the place of each encoder, here and there."""
    monkeypatch.setattr(efficientnet_lite, '_STAGES', lite.SHALLOW)
    monkeypatch.setattr(networks, 'STAGES', tuple(networks.Stage(*s) for s in lite.SHALLOW))


def assert_close(found, expected, tolerance, name=''):
    expected = np.asarray(expected)
    assert np.abs(expected).max() > 0, name
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
        found / scale, expected / scale, rtol=0, atol=tolerance, err_msg=name
    )


@pytest.mark.parametrize('variant', efficientnet_lite.VARIANTS)
def test_an_encoder_with_the_weights_of_the_package_has_the_maps_of_pytorch(
    variant, tmp_path, monkeypatch
):
    state = {key: torch.from_numpy(v) for key, v in lite.published_state(variant).items()}
    torch.save(state, tmp_path / 'encoder.pth')
    lite.install_package(monkeypatch, variant, tmp_path / 'encoder.pth')
    made = tmp_path / 'encoder.safetensors'
    encoder.main([f'--variant={variant}', f'--output={made}'])
    rgb = np.random.default_rng(0).random((2, 67, 96, 3)).astype(np.float32)
    twin = networks.Lite(variant).load(tmp_path / 'encoder.pth')
    with torch.no_grad():
        expected = twin(nchw((255 * rgb - 127) / 128))
    apply = jax.jit(efficientnet_lite.Encoder(variant).apply)
    maps = apply({'params': efficientnet_lite.load(made)}, rgb)
    for ours, theirs in zip(maps, expected, strict=True):
        assert_close(ours, nhwc(theirs), OUTPUTS)


def test_a_picture_gets_the_colours_of_pytorch():
    twin, lightness = drawn_twin(), draw_lightness(64, 96)
    with torch.no_grad():
        coarse = twin.eval()(nchw(lightness))
    expected = functional.interpolate(coarse, scale_factor=2, mode='bilinear')
    assert expected.std() > 0.1
    apply = jax.jit(LiteUNet(decoder_widths=WIDTHS).apply, static_argnums=2)
    assert_close(apply(variables_of(twin), lightness, False), nhwc(expected), OUTPUTS)


@pytest.mark.slow
@pytest.mark.parametrize('size', ['shallow', 'lite0'])
def test_training_has_the_colours_statistics_and_gradients_of_pytorch(size, monkeypatch):
    """In float64: in float32 a few activations round to the other side of the kink of a ReLU."""
    if size == 'shallow':
        shallow(monkeypatch)
    twin, lightness = drawn_twin().double(), draw_lightness(64, 64).astype(np.float64)
    weights = np.random.default_rng(2).normal(size=(2, 32, 32, 2))
    module = LiteUNet(decoder_widths=WIDTHS, dtype=jnp.float64)

    def trained(variables):
        def loss(params):
            _, state = module.apply(
                {**variables, 'params': params},
                lightness,
                True,
                mutable=['batch_stats', 'intermediates'],
                capture_intermediates=lambda module, _: module.name == 'out',
            )
            coarse = jnp.tanh(state['intermediates']['out']['__call__'][0])
            return (coarse * weights).mean(), (coarse, state['batch_stats'])

        return jax.grad(loss, has_aux=True)(variables['params'])

    with jax.enable_x64(True):
        before = variables_of(twin)
        gradients, (colours, statistics) = jax.jit(trained)(before)
        coarse = twin.train()(nchw(lightness))
        (coarse * nchw(weights)).mean().backward()
        assert_close(colours, nhwc(coarse.detach()), OUTPUTS_64)
        assert_trees_close(statistics, variables_of(twin)['batch_stats'], OUTPUTS_64)
        expected = params_of({name: leaf.grad for name, leaf in twin.named_parameters()})
        assert_trees_close(gradients, expected, GRADIENTS_64)
        pairs = zip(*map(jax.tree.leaves, (before['batch_stats'], statistics)), strict=True)
        assert not any(jnp.array_equal(old, new) for old, new in pairs)


def assert_trees_close(found, expected, tolerance):
    found, expected = (traverse_util.flatten_dict(tree, sep='/') for tree in (found, expected))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(found[name], value, tolerance, name)


def draw_lightness(*size):
    return np.random.default_rng(1).uniform(-1, 1, (2, *size, 1)).astype(np.float32)


def drawn_twin():
    """The generator in PyTorch with every parameter and running statistic drawn at random."""
    return drawn(networks.Generator('lite0', WIDTHS))


def drawn(twin):
    """A network in PyTorch with every parameter and running statistic drawn at random."""
    rng = torch.Generator().manual_seed(0)
    for name, value in [*twin.named_parameters(), *twin.named_buffers()]:
        if name.endswith('running_var'):
            value.data.uniform_(0.5, 1.5, generator=rng)
        elif value.ndim > 1:
            value.data.normal_(0, (2 / value[0].numel()) ** 0.5, generator=rng)
        elif value.is_floating_point():
            norm = 'bn' in name and name.endswith('weight')
            value.data.normal_(1.0 if norm else 0.0, 0.1, generator=rng)
    return twin


def variables_of(twin):
    """The variables of a `LiteUNet` that does what the twin does."""
    state = {name: value.clone() for name, value in twin.state_dict().items()}
    statistics = {}
    for level, layers in LEVELS.items():
        for index, (_, norm) in enumerate(layers):
            statistics[level, f'norm_{index}', 'mean'] = array(state[f'{norm}.running_mean'])
            statistics[level, f'norm_{index}', 'var'] = array(state[f'{norm}.running_var'])
    return {'params': params_of(state), 'batch_stats': traverse_util.unflatten_dict(statistics)}


LEVELS = {  # of ours, by the names of the twin's convolutions and norms
    'level_32': [('mid', 'bn')],
    **{f'level_{s}': [(f'up{s}.conv{i}', f'up{s}.bn{i}') for i in (0, 1)] for s in (16, 8, 4, 2)},
}


def params_of(tensors):
    """The twin's parameters, or their gradients, as ours has them."""
    params = {}
    for level, layers in LEVELS.items():
        for index, (conv, norm) in enumerate(layers):
            params[level, f'kernel_{index}'] = hwio(tensors[f'{conv}.weight'])
            params[level, f'norm_{index}', 'scale'] = array(tensors[f'{norm}.weight'])
            params[level, f'norm_{index}', 'bias'] = array(tensors[f'{norm}.bias'])
    params['out', 'kernel'] = hwio(tensors['out.weight'])
    params['out', 'bias'] = array(tensors['out.bias'])
    params['context', 'kernel'] = array(tensors['context.weight'].T)
    params['context', 'bias'] = array(tensors['context.bias'])
    encoder = {
        k.removeprefix('encoder.'): v for k, v in tensors.items() if k.startswith('encoder.')
    }
    for name, value in encoder_params(encoder).items():
        params['encoder', *name.split('/')] = value
    return traverse_util.unflatten_dict(params)


def encoder_params(tensors):
    """The parameters of an `Encoder`, by their paths, from those of the twin's `Lite`."""
    params = {}
    for name, tensor in tensors.items():
        *place, layer, kind = name.split('.')
        path = '/'.join([*['_'.join(place).replace('blocks', 'block')] * bool(place), layer])
        if kind == 'bias':
            params[f'{path}/bias'] = array(tensor)
            continue
        kernel = hwio(tensor)
        if layer == 'depthwise':
            kernel = kernel[:, :, 0]
        elif layer != 'stem':
            kernel = kernel[0, 0]
        params[f'{path}/kernel'] = kernel
    return params


def array(tensor):
    return jnp.asarray(tensor.detach().numpy().copy())


def hwio(tensor):
    return array(tensor.permute(2, 3, 1, 0))


def nchw(x):
    return torch.from_numpy(x.transpose(0, 3, 1, 2).copy())


def nhwc(x):
    return x.numpy().transpose(0, 2, 3, 1)
