"""The networks of rgb_colorizer and image_colorizer's D against PyTorch twins with their weights.

Errors are relative to the largest value of an array. Measured: 5e-6 at 200 px, 1e-6 for gradients.
"""

import jax
import numpy as np
import pytest

from chromagan_jax.models.dense import DenseDiscriminator
from chromagan_jax.models.encoder_decoder import EncoderDecoder

torch = pytest.importorskip('torch', reason='needs PyTorch: pip install -e ".[parity]"')
nn, F = torch.nn, torch.nn.functional

OUTPUTS, GRADIENTS = 3e-5, 3e-4  # relative errors that are rounding


class EncoderDecoderTwin(nn.Module):
    """The valid-convolution encoder-decoder, layer by layer."""

    def __init__(self, channels, w, slope=0.3):
        super().__init__()
        self.slope = slope
        down, up = nn.Conv2d, nn.ConvTranspose2d
        self.encoder = nn.ModuleList(
            nn.ModuleList([down(c, f, 5), down(f, 2 * f, 3), down(2 * f, 2 * f, 3)])
            for c, f in ((1, w), (2 * w, 2 * w), (4 * w, 4 * w))
        )
        self.bottleneck = nn.Conv2d(8 * w, 8 * w, 3, padding='same')
        self.decoder = nn.ModuleList(
            nn.ModuleList([up(2 * f, f, 3), up(f, f, 3), up(f, last, 5)])
            for f, last in ((8 * w, 4 * w), (4 * w, 2 * w), (2 * w, channels))
        )
        self.last = torch.relu if channels == 3 else torch.tanh

    def forward(self, x):
        skips = []
        for block in self.encoder:
            for conv in block:
                x = F.leaky_relu(conv(x), self.slope)
            skips.append(x)
        x = torch.tanh(self.bottleneck(x))
        for block in self.decoder:
            x = torch.cat([x, skips.pop()], 1)
            for conv in block:
                final = conv is self.decoder[-1][-1]
                x = self.last(conv(x)) if final else torch.relu(conv(x))
        return x


class DenseTwin(nn.Module):
    """Convolutions, max-pools and dense layers, as either reference has them."""

    def __init__(self, module, size):
        super().__init__()
        self.module = module
        self.conv, self.norm = nn.ModuleList(), nn.ModuleList()
        before = {False: 3, True: 1 + 2}[module.conditional]
        for width, kernel in zip(module.widths, module.kernels, strict=True):
            for _ in range(module.convolutions):
                normed = module.norm == 'batch'
                self.conv.append(
                    nn.Conv2d(before, width, kernel, padding=module.padding, bias=not normed)
                )
                self.norm.append(nn.BatchNorm2d(width) if normed else nn.Identity())
                before = width
                size -= kernel - 1 if module.padding == 'valid' else 0
            size //= 2
        before *= size * size
        self.dense = nn.ModuleList()
        for width in (*module.hidden, 1):
            self.dense.append(nn.Linear(before, width))
            before = width

    def forward(self, condition, target):
        x = torch.cat([condition, target], 1) if self.module.conditional else target
        activate = lambda x: F.leaky_relu(x, self.module.slope)
        for i, (conv, norm) in enumerate(zip(self.conv, self.norm, strict=True)):
            x = activate(norm(conv(x)))
            if i % self.module.convolutions == self.module.convolutions - 1:
                x = F.max_pool2d(x, 2)
        x = x.permute(0, 2, 3, 1).flatten(1)  # Keras flattens channels last
        for dense in self.dense[:-1]:
            x = activate(dense(x))
        return self.dense[-1](x)


def names(module):
    """(path in our parameters, attribute of the twin) of each layer, in order."""
    if isinstance(module, EncoderDecoder):
        for level in range(3):
            for i in range(3):
                yield (f'encoder_{level}', f'conv_{i}'), f'encoder.{level}.{i}'
        yield ('bottleneck',), 'bottleneck'
        for level in range(3):
            for i in range(3):
                last = (level, i) == (2, 2)
                ours = ('out',) if last else (f'decoder_{2 - level}', f'conv_{i}')
                yield ours, f'decoder.{level}.{i}'
        return
    for level in range(len(module.widths)):
        for i in range(module.convolutions):
            yield (f'block_{level}', f'conv_{i}'), f'conv.{level * module.convolutions + i}'
            if module.norm == 'batch':
                yield (f'block_{level}', f'norm_{i}'), f'norm.{level * module.convolutions + i}'
    for i in range(len(module.hidden)):
        yield (f'dense_{i}',), f'dense.{i}'
    yield ('out',), f'dense.{len(module.hidden)}'


def weights(module, twin, params):
    """The values of `params`, or their gradients, by the twin's names and in its layout."""
    values = {}
    for path, name in names(module):
        leaves = params
        for key in path:
            leaves = leaves[key]
        layer = twin.get_submodule(name)
        if 'bias' in leaves:
            values[f'{name}.bias'] = leaves['bias']
        if 'scale' in leaves:
            values[f'{name}.weight'] = leaves['scale']
            continue
        kernel = leaves['kernel']
        if isinstance(layer, nn.ConvTranspose2d):  # a transposed kernel runs the other way
            kernel = kernel[::-1, ::-1].transpose(2, 3, 0, 1)
        elif isinstance(layer, nn.Conv2d):
            kernel = kernel.transpose(3, 2, 0, 1)
        else:
            kernel = kernel.T
        values[f'{name}.weight'] = kernel
    return {name: np.asarray(value) for name, value in values.items()}


def twins(module, twin, inputs):
    """Our variables, drawn at random, and the twin with the same ones."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        values, fan_in = rng.standard_normal(leaf.shape, np.float32), np.prod(leaf.shape[:-1])
        if path[-1].key == 'kernel':
            return values * np.sqrt(2 / fan_in, dtype=np.float32)
        return 0.1 * values + (path[-1].key in ('scale', 'var'))

    init = lambda *x: module.init(jax.random.key(0), *x, train=True)
    variables = jax.tree_util.tree_map_with_path(draw, jax.eval_shape(init, *inputs))
    ours = weights(module, twin, variables['params'])
    parameters = dict(twin.named_parameters())
    assert ours.keys() == parameters.keys()  # none is left as PyTorch initialised it
    with torch.no_grad():
        for name, value in ours.items():
            parameters[name].copy_(torch.tensor(value.copy()))
    return variables


def to_torch(x, grad=False):
    return torch.tensor(np.asarray(x).transpose(0, 3, 1, 2).copy(), requires_grad=grad)


def error(ours, theirs):
    theirs = theirs.detach().numpy()
    if theirs.ndim == 4:
        theirs = theirs.transpose(0, 2, 3, 1)
    assert ours.shape == theirs.shape
    assert np.abs(theirs).max() > 0
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


def images(size, channels, batch=1):
    rng = np.random.default_rng(1)
    return (
        rng.random((batch, size, size, 1), np.float32),
        rng.random((batch, size, size, channels), np.float32),
    )


def check_equal(module, twin, inputs):
    """Outputs, and gradients of their weighted sum by the last input and by all parameters."""
    variables = twins(module, twin, inputs)
    last = to_torch(inputs[-1], grad=True)
    theirs = twin(*map(to_torch, inputs[:-1]), last)
    cotangent = np.random.default_rng(2).standard_normal(theirs.shape, np.float32)
    (theirs * torch.tensor(cotangent)).sum().backward()
    if cotangent.ndim == 4:
        cotangent = cotangent.transpose(0, 2, 3, 1)

    def total(params, last):
        out = apply(module, {**variables, 'params': params}, (*inputs[:-1], last))
        return (out * cotangent).sum(), out

    differentiate = jax.jit(jax.grad(total, (0, 1), has_aux=True))
    (by_params, by_input), out = differentiate(variables['params'], inputs[-1])
    assert error(out, theirs) < OUTPUTS
    assert error(by_input, last.grad) < GRADIENTS
    ours = weights(module, twin, jax.tree.map(np.asarray, by_params))
    for name, parameter in twin.named_parameters():
        scale = parameter.grad.abs().max()
        assert scale > 0, name
        assert np.abs(ours[name] - parameter.grad.numpy()).max() / scale < GRADIENTS, name


def apply(module, variables, inputs):
    """The output in training, without the running statistics that it leaves."""
    return module.apply(variables, *inputs, train=True, mutable=['batch_stats'])[0]


@pytest.mark.slow
def test_the_generator_equals_its_twin_at_200_pixels():
    module, twin = EncoderDecoder(), EncoderDecoderTwin(3, 16)
    inputs = images(200, 3)[:1]
    variables = twins(module, twin, inputs)
    ours = jax.jit(lambda x: module.apply(variables, x, train=False))(*inputs)
    with torch.no_grad():
        assert error(ours, twin(*map(to_torch, inputs))) < OUTPUTS


@pytest.mark.slow
def test_the_discriminator_equals_its_twin_at_200_pixels():
    module = DenseDiscriminator()
    twin = DenseTwin(module, 200)
    inputs = images(200, 3)
    variables = twins(module, twin, inputs)
    ours = jax.jit(lambda *x: module.apply(variables, *x, train=False))(*inputs)
    with torch.no_grad():
        assert error(ours, twin(*map(to_torch, inputs))) < OUTPUTS


@pytest.mark.parametrize('channels', [3, 2])
def test_the_generator_has_the_gradients_of_its_twin(channels):
    module, twin = EncoderDecoder(channels=channels, width=2), EncoderDecoderTwin(channels, 2)
    inputs = images(36, channels, batch=2)[:1]
    check_equal(module, twin, inputs)


def test_the_discriminator_has_the_gradients_of_its_twin():
    module = DenseDiscriminator(widths=(4, 8, 8, 8), hidden=(16, 8, 4))
    twin = DenseTwin(module, 96)
    inputs = images(96, 3, batch=2)
    check_equal(module, twin, inputs)


@pytest.mark.parametrize('hidden', [(), (8,)])
def test_the_discriminator_of_image_colorizer_equals_its_twin(hidden):
    module = DenseDiscriminator(
        widths=(4, 8, 8),
        kernels=(3, 3, 3),
        convolutions=1,
        padding='same',
        hidden=hidden,
        norm='batch',
        slope=0.2,
        conditional=True,
    )
    twin = DenseTwin(module, 32)
    inputs = images(32, 2, batch=3)
    check_equal(module, twin, inputs)
