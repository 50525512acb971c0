"""The projected discriminator against its twin in PyTorch, with equal weights."""

import jax
import numpy as np
import pytest
from flax import traverse_util

torch = pytest.importorskip('torch', reason='needs PyTorch: pip install -e ".[parity]"')

from chromagan_jax.models import layers  # noqa: E402
from chromagan_jax.models.projected import (  # noqa: E402
    STRIDES,
    ProjectedDiscriminator,
    ProjectedFeatures,
)
from tests.parity.test_lite import array, assert_close, drawn, encoder_params, hwio, nchw, nhwc  # noqa: E402
from tools.torch_twin import discriminators, networks  # noqa: E402

TOLERANCE = 5e-5  # of the largest value, in float32


@pytest.fixture(scope='module')
def twin():
    torch.manual_seed(0)
    return drawn(discriminators.Projected(networks.Lite('lite0'))).eval()


def feature_params(twin):
    """The parameters of a `ProjectedFeatures` that does what the twin does."""
    params = {
        f'encoder/{name}': value
        for name, value in encoder_params(twin.features.state_dict()).items()
    }
    for scale, stride in enumerate(STRIDES):
        params[f'mix_{stride}/kernel'] = hwio(twin.mix[scale].weight)[0, 0]
        params[f'mix_{stride}/bias'] = array(twin.mix[scale].bias)
        if scale < 3:
            params[f'fuse_{stride}/kernel'] = hwio(twin.fuse[scale].weight)
            params[f'fuse_{stride}/bias'] = array(twin.fuse[scale].bias)
    return traverse_util.unflatten_dict(params, sep='/')


@pytest.mark.parametrize('size', [(64, 96), (72, 80)])
def test_the_features_are_those_of_pytorch(twin, size):
    rgb = np.random.default_rng(0).random((2, *size, 3)).astype(np.float32)
    with torch.no_grad():
        expected = twin.frozen(nchw(rgb))
    found = jax.jit(ProjectedFeatures().apply)({'params': feature_params(twin)}, rgb)
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, nhwc(theirs), TOLERANCE)


def head_variables(twin):
    """Parameters and singular vectors of a `ProjectedDiscriminator` with the twin's kernels."""
    params, stats = {}, {}
    for scale, stride in enumerate(STRIDES):
        convs = [layer for layer in twin.heads[scale] if hasattr(layer, 'weight')]
        names = [*(f'down_{i}' for i in range(len(convs) - 2)), 'conv', 'out']
        for name, conv in zip(names, convs, strict=True):
            original = conv.parametrizations.weight
            kernel = hwio(original.original)
            if name.startswith('down'):
                kernel = layers.down_kernel_from_hwio(kernel)
            place = f'head_{stride}/{name}'
            params[f'{place}/kernel'], params[f'{place}/bias'] = kernel, array(conv.bias)
            # The vector on the side of the outputs, and the singular value that it gives.
            matrix = np.asarray(kernel).reshape(-1, kernel.shape[-1])
            norm = name.replace('down_', 'down_norm_') if 'down' in name else f'{name}_norm'
            u = np.asarray(array(original[0]._u))
            v = matrix @ u
            v /= np.linalg.norm(v)
            stats[f'head_{stride}', norm, f'{name}/kernel/u'] = u[None]
            stats[f'head_{stride}', norm, f'{name}/kernel/sigma'] = np.float32(v @ matrix @ u)
    return {
        'params': traverse_util.unflatten_dict(params, sep='/'),
        'batch_stats': traverse_util.unflatten_dict(stats),
    }


def test_the_logits_are_those_of_pytorch(twin):
    rng = np.random.default_rng(1)
    maps = [
        rng.normal(size=(2, 96 // stride, 128 // stride, width)).astype(np.float32)
        for stride, width in zip(STRIDES, discriminators.MIXED_WIDTHS, strict=True)
    ]
    with torch.no_grad():
        for _ in range(50):  # the singular vectors converge
            twin.train().judge([nchw(x) for x in maps])
        expected = twin.eval().judge([nchw(x) for x in maps])
    module = ProjectedDiscriminator()
    condition, target = np.zeros((2, 96, 128, 1)), np.zeros((2, 96, 128, 2))
    variables = head_variables(twin)
    judged = module.apply(variables, condition, target, maps, False)
    assert judged.weights == (0.25,) * 4
    for ours, theirs in zip(judged.logits, expected, strict=True):
        assert_close(ours, nhwc(theirs), 1e-3)
