"""torchvision's VGG16, written out in PyTorch, against the Flax one with weights from its file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='needs PyTorch: pip install -e ".[parity]"')
import safetensors.torch  # noqa: E402
from torch import nn  # noqa: E402

from chromagan_jax.models.chromagan import TwoBranch  # noqa: E402
from chromagan_jax.models.pretrained import vgg, weights  # noqa: E402

PLAN = (64, 64, 'M', 128, 128, 'M', 256, 256, 256, 'M', 512, 512, 512, 'M', 512, 512, 512, 'M')
BLOCK_4 = 23  # the layers up to the last ReLU of block 4


class Twin(nn.Module):
    """torchvision.models.vgg16, its children by their names there."""

    def __init__(self):
        super().__init__()
        layers, inputs = [], 3
        for outputs in PLAN:
            if outputs == 'M':
                layers.append(nn.MaxPool2d(2, 2))
            else:
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)]
                inputs = outputs
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            *(nn.Linear(512 * 7 * 7, 4096), nn.ReLU(True), nn.Dropout()),
            *(nn.Linear(4096, 4096), nn.ReLU(True), nn.Dropout()),
            nn.Linear(4096, 1000),
        )

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


@pytest.fixture(scope='module')
def twin():
    """Random weights of He's scale, of half precision, so that a file of either type holds them.

    They repeat one stretch of noise whose length is prime: drawing 138 million takes seconds.
    """
    with torch.device('meta'):
        twin = Twin().eval()
    twin.to_empty(device='cpu')
    noise = torch.randn(99_991, generator=torch.Generator().manual_seed(0))
    for parameter in twin.parameters():
        fan_in = parameter[0].numel()
        stretch = (noise.roll(fan_in) * (2 / fan_in) ** 0.5).bfloat16().float()
        parameter.data = torch.from_numpy(np.resize(stretch.numpy(), parameter.shape))
    return twin


@pytest.fixture(scope='module')
def params(twin, tmp_path_factory):
    """From an .npz file in float32."""
    path = tmp_path_factory.mktemp('npz') / 'vgg16.npz'
    np.savez(path, **{key: value.numpy() for key, value in twin.state_dict().items()})
    params = vgg.load(path)
    path.unlink()
    return jax.tree.map(jnp.asarray, params)


def pictures(size):
    x = np.random.default_rng(size).standard_normal((1, size, size, 3)).astype(np.float32)
    return x, torch.from_numpy(x.transpose(0, 3, 1, 2).copy())


@pytest.mark.slow
def test_a_bfloat16_safetensors_file_holds_the_same(twin, params, tmp_path):
    path = tmp_path / 'vgg16.safetensors'
    state = {key: value.bfloat16() for key, value in twin.state_dict().items()}
    safetensors.torch.save_file(state, path)
    loaded = vgg.load(path)
    path.unlink()
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(params), strict=True):
        assert a.dtype == np.float32
        assert np.array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize('size', [64, 224])
def test_the_logits_are_those_of_pytorch(twin, params, size):
    ours, theirs = pictures(size)
    with torch.no_grad():
        expected = twin(theirs).numpy()
    logits = jax.jit(vgg.VGG16().apply)({'params': params}, ours)
    assert expected.std() > 0.1
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize('size', [64, 224])
def test_the_backbone_starts_from_the_same_file(twin, params, size):
    ours, theirs = pictures(size)
    with torch.no_grad():
        expected = twin.features[:BLOCK_4](theirs).numpy().transpose(0, 2, 3, 1)
    module = vgg.Backbone()
    names = jax.eval_shape(module.init, jax.random.key(0), ours)['params']
    features = jax.jit(module.apply)({'params': {name: params[name] for name in names}}, ours)
    assert features.shape == (1, size // 8, size // 8, 512)
    np.testing.assert_allclose(features, expected, atol=1e-4 * expected.max())


def test_the_generator_sees_a_gray_photograph_as_pytorch_does(twin, params):
    """A gray photograph, tripled and normalised as torchvision does it, is the condition's twin."""
    gray = np.random.default_rng(0).uniform(0, 1, (1, 32, 32, 1)).astype(np.float32)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (weights.MEAN, weights.STD))
    with torch.no_grad():
        theirs = (torch.from_numpy(gray.transpose(0, 3, 1, 2)).expand(1, 3, 32, 32) - mean) / std
        expected = twin.features[:BLOCK_4](theirs).numpy().transpose(0, 2, 3, 1)
    module = TwoBranch(size=32, channels=3, classes=0)
    variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=True), gray)
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), variables)
    backbone = {name: params[name] for name in variables['params']['backbone']}
    variables['params']['backbone'] = backbone

    @jax.jit
    def features(variables):
        _, seen = module.apply(
            variables,
            gray,
            train=False,
            capture_intermediates=lambda layer, _: layer.name == 'backbone',
            mutable=['intermediates'],
        )
        return seen['intermediates']['backbone']['__call__'][0]

    np.testing.assert_allclose(features(variables), expected, atol=1e-4 * expected.max())
