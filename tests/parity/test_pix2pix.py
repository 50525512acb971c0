"""The U-Net and the PatchGAN against the same networks written in PyTorch, with the same weights.

Errors are relative to the largest value of an array. Measured: 3e-6 at 256 px, 1e-7 for running
statistics, 1e-5 for gradients.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chromagan_jax.models import layers
from chromagan_jax.models.patch import PatchGAN
from chromagan_jax.models.unet import UNet

torch = pytest.importorskip('torch', reason='needs PyTorch: pip install -e ".[parity]"')
nn, F = torch.nn, torch.nn.functional

OUTPUTS, GRADIENTS = 3e-5, 3e-4  # relative errors that are rounding


class UNetTwin(nn.Module):
    """Encoder and decoder as pix2pix has them, or with a stem as image_colorizer has it."""

    def __init__(self, widths, stem=0, slope=0.0):
        super().__init__()
        self.slope = slope  # LeakyReLU's on the way up; 0: ReLU
        skips = [stem, *widths] if stem else list(widths)
        self.stem = nn.Conv2d(1, stem, 3, 1, 1, bias=False) if stem else None
        self.down, self.down_norm = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            before = widths[level - 1] if level else stem or 1
            normed = (level > 0 or stem) and level < len(widths) - 1
            self.down.append(nn.Conv2d(before, width, 4, 2, 1, bias=False))
            self.down_norm.append(nn.BatchNorm2d(width) if normed else nn.Identity())
        self.up, self.up_norm = nn.ModuleList(), nn.ModuleList()
        below = skips.pop()
        for width in reversed(skips):
            self.up.append(nn.ConvTranspose2d(below, width, 4, 2, 1, bias=False))
            self.up_norm.append(nn.BatchNorm2d(width))
            below = 2 * width
        last = nn.Conv2d(below, 2, 3, 1, 1) if stem else nn.ConvTranspose2d(below, 2, 4, 2, 1)
        self.out = last

    def forward(self, x):
        skips = []
        if self.stem is not None:
            x = self.stem(x)
            skips.append(x)
        for level, (conv, norm) in enumerate(zip(self.down, self.down_norm, strict=True)):
            first = level == 0 and self.stem is None
            x = norm(conv(x if first else F.leaky_relu(x, 0.2)))
            skips.append(x)
        skips.pop()
        for conv, norm in zip(self.up, self.up_norm, strict=True):
            x = norm(conv(F.leaky_relu(x, self.slope)))
            x = torch.cat([x, skips.pop()], 1)
        return torch.tanh(self.out(F.leaky_relu(x, self.slope)))


class PatchTwin(nn.Module):
    """pix2pix's NLayerDiscriminator, or ChromaGAN's with `same` padding and without norm."""

    def __init__(self, width, norm=True, slope=0.2, same=False):
        super().__init__()
        self.slope, self.same = slope, same
        self.conv, self.norm = nn.ModuleList(), nn.ModuleList()
        before = 3
        for level, stride in enumerate((2, 2, 2, 1)):
            features, normed = width * 2**level, norm and level > 0
            padding = 0 if same and stride == 1 else 1
            self.conv.append(nn.Conv2d(before, features, 4, stride, padding, bias=not normed))
            self.norm.append(nn.BatchNorm2d(features) if normed else nn.Identity())
            before = features
        self.out = nn.Conv2d(before, 1, 4, 1, 0 if same else 1)

    def forward(self, x):
        pad = lambda x: F.pad(x, (1, 2, 1, 2)) if self.same else x
        for conv, norm in zip(self.conv, self.norm, strict=True):
            x = conv(x if conv.stride == (2, 2) else pad(x))
            x = F.leaky_relu(norm(x), self.slope)
        return self.out(pad(x))


def randomised(twin, seed=0):
    """`twin` with every parameter and running statistic drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in [*twin.named_parameters(), *twin.named_buffers()]:
        if name.endswith('running_var'):
            value.data.uniform_(0.5, 1.5, generator=generator)
        elif value.ndim == 4:
            taps = value[0, 0].numel()
            fan_in = value.shape[0] if 'up' in name else value.shape[1]
            value.data.normal_(0, (fan_in * taps) ** -0.5, generator=generator)
        elif value.is_floating_point():
            centre = 1.0 if 'norm' in name and name.endswith('weight') else 0.0
            value.data.normal_(centre, 0.1, generator=generator)
    return twin


def conv(module, get):
    """Parameters of a convolution as its counterpart keeps them."""
    up = isinstance(module, nn.ConvTranspose2d)
    hwio = jnp.array(get(module.weight).permute((2, 3, 0, 1) if up else (2, 3, 1, 0)).numpy())
    if up:
        hwio = layers.up_kernel_from_hwio(hwio)
    elif module.stride == (2, 2):
        hwio = layers.down_kernel_from_hwio(hwio)
    return {'kernel': hwio} | ({} if module.bias is None else {'bias': array(get(module.bias))})


def array(tensor):
    """A copy: the twin's training changes its statistics in place."""
    return jnp.array(tensor.detach().numpy())


def named(twin):
    """The blocks of a twin by the names of ours: name -> (convolution, norm)."""
    if isinstance(twin, PatchTwin):
        return {f'conv_{i}': pair for i, pair in enumerate(zip(twin.conv, twin.norm, strict=True))}
    down = zip(twin.down, twin.down_norm, strict=True)
    up = zip(twin.up, twin.up_norm, strict=True)
    blocks = {f'down_{level}': pair for level, pair in enumerate(down)}
    return blocks | {f'up_{len(blocks) - 1 - i}': pair for i, pair in enumerate(up)}


def params(twin, get=lambda parameter: parameter.detach()):
    """The twin's parameters, or their gradients, as our tree."""
    tree = {'out': conv(twin.out, get)}
    if getattr(twin, 'stem', None) is not None:
        tree['stem'] = conv(twin.stem, get)
    for name, (convolution, norm) in named(twin).items():
        tree[name] = {'conv': conv(convolution, get)}
        if isinstance(norm, nn.BatchNorm2d):
            tree[name]['norm'] = {'scale': array(get(norm.weight)), 'bias': array(get(norm.bias))}
    return tree


def batch_stats(twin):
    norms = {name: norm for name, (_, norm) in named(twin).items()}
    return {
        name: {'norm': {'mean': array(norm.running_mean), 'var': array(norm.running_var)}}
        for name, norm in norms.items()
        if isinstance(norm, nn.BatchNorm2d)
    }


def inputs(seed, batch, size, *channels):
    keys = jax.random.split(jax.random.key(seed), len(channels))
    shapes = [(batch, size, size, c) for c in channels]
    return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]


def to_torch(*arrays):
    """NHWC arrays, joined along the channels, as one NCHW tensor."""
    joined = np.concatenate([np.asarray(x) for x in arrays], axis=-1)
    return torch.from_numpy(joined.transpose(0, 3, 1, 2).copy())


def from_torch(tensor):
    return tensor.detach().numpy().transpose(0, 2, 3, 1)


def assert_close(actual, expected, tolerance):
    """Equal up to `tolerance` times the largest value of each array of a tree."""

    def check(path, a, b):
        assert a.shape == b.shape, path
        error = np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(b).max()
        assert error < tolerance, f'{jax.tree_util.keystr(path)}: relative error {error:.1e}'

    jax.tree.map_with_path(check, actual, expected)


def run(module, twin, *arrays, train):
    """(our output, new statistics), both as the twin's parameters make them."""
    variables = {'params': params(twin), 'batch_stats': batch_stats(twin)}
    apply = jax.jit(
        lambda variables, *x: module.apply(variables, *x, train, mutable=['batch_stats'])
    )
    out, new = apply(variables, *arrays)
    return out, new.get('batch_stats', {})


PIX2PIX_WIDTHS = (64, 128, 256, 512, 512, 512, 512, 512)


@pytest.mark.slow
def test_unet_256_at_test_time_equals_its_twin():
    twin = randomised(UNetTwin(PIX2PIX_WIDTHS)).eval()
    assert sum(p.numel() for p in twin.parameters()) == 54_409_858
    (x,) = inputs(1, 1, 256, 1)
    out, _ = run(UNet(size=256), twin, x, train=False)
    with torch.no_grad():
        expected = from_torch(twin(to_torch(x)))
    assert 0.1 < expected.std() < 0.9  # neither flat nor saturated
    # 3e-6 as a rule; twice in a hundred runs on a busy machine one of the two came out 9e-5 away.
    assert_close(out, expected, 2e-4)


def test_patch_gan_at_256_px_equals_its_twin():
    twin = randomised(PatchTwin(64)).eval()
    assert sum(p.numel() for p in twin.parameters()) == 2_765_633
    pair = inputs(1, 1, 256, 1, 2)
    out, _ = run(PatchGAN(), twin, *pair, train=False)
    with torch.no_grad():
        expected = from_torch(twin(to_torch(*pair)))
    assert expected.shape == (1, 30, 30, 1)
    assert_close(out, expected, OUTPUTS)


# The networks, small, as (ours, twin, size in px, channels of the inputs).
SMALL = {
    'pix2pix': (
        lambda: UNet(width=4, depth=6, dropout=0.0),
        lambda: UNetTwin((4, 8, 16, 32, 32, 32)),
        (64, 1),
    ),
    'image_colorizer': (
        lambda: UNet(widths=(4, 6, 8, 10), stem=5, activation='leaky_relu', dropout=0.0),
        lambda: UNetTwin((4, 6, 8, 10), stem=5, slope=0.2),
        (48, 1),
    ),
    'patch': (lambda: PatchGAN(width=4), lambda: PatchTwin(4), (48, 1, 2)),
    'chromagan': (
        lambda: PatchGAN(width=4, norm='none', slope=0.3, same=True),
        lambda: PatchTwin(4, norm=False, slope=0.3, same=True),
        (56, 1, 2),
    ),
}


@pytest.mark.parametrize('name', SMALL)
@pytest.mark.parametrize('train', [False, True])
def test_outputs_and_running_statistics_equal_the_twins(name, train):
    make, make_twin, shape = SMALL[name]
    twin, arrays = randomised(make_twin()).train(train), inputs(1, 2, *shape)
    out, stats = run(make(), twin, *arrays, train=train)
    with torch.no_grad():
        expected = from_torch(twin(to_torch(*arrays)))  # and moves the statistics on
    assert_close(out, expected, OUTPUTS)
    assert_close(stats, batch_stats(twin), OUTPUTS)


@pytest.mark.parametrize('name', SMALL)
def test_gradients_of_the_input_and_of_every_parameter_equal_the_twins(name):
    make, make_twin, shape = SMALL[name]
    module, twin, arrays = make(), randomised(make_twin()).train(), inputs(1, 2, *shape)
    variables = {'params': params(twin), 'batch_stats': batch_stats(twin)}

    @jax.jit
    def gradients(params, x):
        def loss(params, x):
            full = variables | {'params': params}
            out, _ = module.apply(full, *arrays[:-1], x, True, mutable=['batch_stats'])
            return jnp.square(out - 0.5).sum()

        return jax.grad(loss, argnums=(0, 1))(params, x)

    of_params, of_input = gradients(variables['params'], arrays[-1])
    x = to_torch(*arrays).requires_grad_()
    torch.square(twin(x) - 0.5).sum().backward()
    assert_close(of_params, params(twin, lambda parameter: parameter.grad), GRADIENTS)
    assert_close(of_input, from_torch(x.grad)[..., -shape[-1] :], GRADIENTS)
