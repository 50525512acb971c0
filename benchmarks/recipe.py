r"""Images/s of the train step of configs/best.py, or of its PyTorch twin.

    python -m benchmarks.recipe --size=128 --batch=16
    python -m benchmarks.ratio --rounds=5 --ours='python -m benchmarks.recipe' \
        --theirs='python -m benchmarks.recipe --twin'

Weights and images are random. Both sides train the generator, the projected discriminator and the
PatchGAN on given batches; crops and grain are not part of the twin's step. Prints the median over
--steps as JSON. The twin needs PyTorch (the extra `[parity]`) and runs in channels-last format.
"""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from benchmarks import command
from chromagan_jax import sharding
from chromagan_jax.config import Config, load, set_field
from chromagan_jax.gan import state as state_lib
from chromagan_jax.gan import steps
from chromagan_jax.gan.model import make_model
from chromagan_jax.training.loop import compile_step

_SIZE = flags.DEFINE_integer('size', 128, 'Side of an image, px.', lower_bound=1)
_BATCH = flags.DEFINE_integer('batch', 16, 'Images in a batch.', lower_bound=1)
_STEPS = flags.DEFINE_integer('steps', 8, 'Measured steps, after two of warm-up.', lower_bound=1)
_DTYPE = flags.DEFINE_enum(
    'dtype', 'float32', ['float32', 'bfloat16'], 'Of the computation; the twin computes in float32.'
)
_CHANGES = flags.DEFINE_string('changes', '', 'Changes of configs/best.py, joined by +.')
_TWIN = flags.DEFINE_bool('twin', False, 'Measure the PyTorch twin.')


def main(argv: Sequence[str]) -> None:
    """Measures one of the two steps and prints its rate."""
    del argv
    step = _twin() if _TWIN.value else _here()
    seconds = []
    for number in range(2 + _STEPS.value):
        began = time.perf_counter()
        step()
        if number >= 2:
            seconds.append(time.perf_counter() - began)
    rate = _BATCH.value / statistics.median(seconds)
    side = 'PyTorch' if _TWIN.value else 'chromagan_jax'
    dtype = 'float32' if _TWIN.value else _DTYPE.value
    shape = {'size': _SIZE.value, 'batch': _BATCH.value, 'dtype': dtype}
    print(json.dumps({'name': side, **shape, 'images_per_second': rate}))


def _images() -> tuple[np.ndarray, np.ndarray]:
    """Random condition (B, H, W, 1) and target (B, H, W, 2)."""
    rng, shape = np.random.default_rng(0), (_BATCH.value, _SIZE.value, _SIZE.value)
    condition = rng.uniform(-1, 1, (*shape, 1)).astype(np.float32)
    return condition, rng.uniform(-0.5, 0.5, (*shape, 2)).astype(np.float32)


def _config() -> Config:
    config = load(f'best:{_CHANGES.value}' if _CHANGES.value else 'best')
    config.data.source, config.data.size, config.batch_size = 'sample', _SIZE.value, _BATCH.value
    set_field(config, 'dtype', _DTYPE.value)
    return config


def _here() -> Callable[[], Any]:
    config = _config()
    mesh = sharding.make_mesh()
    model = make_model(config, mesh)
    state = state_lib.create_state(model, config, mesh)
    features: Any = model.features
    image = jax.ShapeDtypeStruct((1, _SIZE.value, _SIZE.value, 3), np.float32)
    shapes = jax.eval_shape(features.init, jax.random.key(0), image)['params']
    rng = np.random.default_rng(1)
    draw = lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(leaf.dtype)
    frozen = {'features': jax.tree.map(draw, shapes)}
    frozen = jax.device_put(frozen, sharding.state_shardings(frozen, mesh))
    condition, target = _images()
    batch = sharding.to_global({'condition': condition, 'target': target}, mesh, 1)
    compiled = compile_step(model, config, mesh, lambda text: None, steps.train_step)

    def step() -> None:
        nonlocal state
        state, metrics = compiled(state, batch, frozen)
        jax.block_until_ready((state, metrics))

    return step


def _twin() -> Callable[[], Any]:
    import torch

    from tools.torch_twin.data import Batch
    from tools.torch_twin.model import make_model as make_twin
    from tools.torch_twin.step import LossWeights, train_step

    def tensor(images: np.ndarray) -> torch.Tensor:
        nchw = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        return nchw.contiguous(memory_format=torch.channels_last)

    twin = make_twin('lite0', '', torch.device('cpu'))
    condition, target = _images()
    batch = Batch(tensor(condition), tensor(target), tensor(condition))
    weights = LossWeights(l1=30.0, patch=0.2, perceptual=2.0)
    return lambda: train_step(twin, batch, weights)


if __name__ == '__main__':
    command.start(main)
