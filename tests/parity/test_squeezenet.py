"""torchvision's SqueezeNet 1.1, written out in PyTorch, against ours with weights from its file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='needs PyTorch: pip install -e ".[parity]"')
import safetensors.torch  # noqa: E402
from torch import nn  # noqa: E402

from chromagan_jax.models.pretrained import squeezenet, weights  # noqa: E402


class Fire(nn.Module):
    def __init__(self, inputs, squeezed, expanded):
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x):
        x = torch.relu(self.squeeze(x))
        return torch.cat([torch.relu(self.expand1x1(x)), torch.relu(self.expand3x3(x))], 1)


class Twin(nn.Module):
    """torchvision.models.squeezenet1_1 without its classifier, children by their names there."""

    def __init__(self):
        super().__init__()
        pool = lambda: nn.MaxPool2d(3, 2, ceil_mode=True)
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 64, 3, stride=2), nn.ReLU(), pool()),
            *(Fire(64, 16, 64), Fire(128, 16, 64), pool()),
            *(Fire(128, 32, 128), Fire(256, 32, 128), pool()),
            *(Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256)),
        )

    def forward(self, x):
        return self.features[:-1](x).mean((2, 3))


@pytest.mark.parametrize('shape', [(128, 128), (67, 100), (224, 225)])
def test_the_features_are_those_of_pytorch(shape, tmp_path):
    torch.manual_seed(0)
    twin = Twin().eval()
    safetensors.torch.save_file(twin.state_dict(), tmp_path / 'squeezenet1_1.safetensors')
    params = squeezenet.load(tmp_path / 'squeezenet1_1.safetensors')
    rgb = np.random.default_rng(0).random((2, *shape, 3)).astype(np.float32)
    normalized = ((rgb - weights.MEAN) / weights.STD).astype(np.float32)
    with torch.no_grad():
        expected = twin(torch.from_numpy(normalized.transpose(0, 3, 1, 2).copy())).numpy()
    got = jax.jit(squeezenet.features)(params, jnp.asarray(rgb))
    assert expected.std() > 0.01
    np.testing.assert_allclose(got, expected, atol=1e-5 * expected.max())
