"""Compiles a generator for inference: from small photographs to ab."""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from chromagan_jax import color
from chromagan_jax.gan import model as model_lib
from chromagan_jax.models.ops import backend
from chromagan_jax.utils import programs

PyTree = Any

# Eigen's matrix products are faster here than YNNPACK's. XLA's older emitters vectorise loops over
# bands, unlike the newer ones, and compile faster.
_CPU_OPTIONS: dict[str, str | bool] = {
    'xla_cpu_experimental_ynn_fusion_type': '',
    'xla_cpu_use_fusion_emitters': False,
}
_QUICK_OPTIONS = _CPU_OPTIONS | {'xla_backend_optimization_level': '1'}


def compile_at(
    generator: nn.Module,
    variables: PyTree,
    size: int,
    batch_size: int,
    noise: bool,
    hints: bool,
    quick: bool,
) -> Callable[[Sequence[np.ndarray], Sequence[int], Sequence[np.ndarray]], np.ndarray]:
    """Compiles (n, size, size, 3) uint8 images, seeds and hints -> ab, (n, size, size, 2).

    The arguments are those of `predictor.make_predict`.
    """
    shape = jax.ShapeDtypeStruct((batch_size, size, size, 4 if hints else 1), jnp.float32)
    space = _color_space(generator, variables, shape)
    quick = quick and jax.default_backend() == 'cpu'

    def compiled(number: int) -> Callable[..., jax.Array]:
        image = jax.ShapeDtypeStruct((number, *shape.shape[1:]), jnp.float32)
        make = _quick_program if quick else _program
        return make(generator, variables, image, noise)

    # Compiled here and under a lock, since threads that call it at once would each compile it.
    networks, lock = {batch_size: compiled(batch_size)}, threading.Lock()

    def run(
        images: Sequence[np.ndarray], seeds: Sequence[int], points: Sequence[np.ndarray]
    ) -> np.ndarray:
        with lock:
            if len(images) not in networks:
                networks[len(images)] = compiled(len(images))
        condition = _condition(np.stack(images), space)
        if hints:
            condition = np.concatenate([condition, np.stack(points)], axis=-1)
        return np.array(networks[len(images)](condition, np.array(seeds, np.uint32)))

    def predict(
        small: Sequence[np.ndarray], seeds: Sequence[int], points: Sequence[np.ndarray]
    ) -> np.ndarray:
        if len(small) in networks:
            return run(small, seeds, points)
        # One at a time: another program for each number would take longer to compile.
        ones = [slice(index, index + 1) for index in range(len(small))]
        return np.concatenate([run(small[one], seeds[one], points[one]) for one in ones])

    return predict


def _program(
    generator: nn.Module, variables: PyTree, image: jax.ShapeDtypeStruct, noise: bool
) -> Callable[..., jax.Array]:
    """The compiled `_colors` of conditions like `image` and seeds.

    The weights are constants of it. So the compiler computes the transformed kernels of Winograd's
    convolutions once.
    """
    function = jax.jit(partial(_colors, generator, noise, variables))
    return programs.cached(
        'network',
        [generator],
        (generator, programs.digest(variables), image, noise),
        jax.local_devices()[:1],
        lambda: _compile(function.lower(image, _seeds(image)), _CPU_OPTIONS),
    )


def _quick_program(
    generator: nn.Module, variables: PyTree, image: jax.ShapeDtypeStruct, noise: bool
) -> Callable[..., jax.Array]:
    """As `_program`, of plain convolutions, with the weights as an argument.

    It is small, and the compiler folds no constants.
    """

    def make() -> jax.stages.Compiled:
        with backend.plain():
            lowered = jax.jit(partial(_colors, generator, noise)).lower(
                variables, image, _seeds(image)
            )
        return _compile(lowered, _QUICK_OPTIONS)

    one = jax.local_devices()[:1]
    compiled = programs.cached('quick', [generator], (generator, image, noise), one, make)
    return partial(compiled, variables)


def _colors(
    generator: nn.Module, noise: bool, variables: PyTree, condition: jax.Array, seeds: jax.Array
) -> jax.Array:
    """The ab of a condition (B, H, W, 1 or 4) and seeds (B,)."""
    if noise:  # one stream for each photograph, so that the results do not depend on each other
        target = jax.vmap(
            lambda one, seed: model_lib.predict(
                generator, variables, one[None], jax.random.key(seed)
            )
        )(condition, seeds)[:, 0]
    else:
        target = model_lib.predict(generator, variables, condition)
    return color.to_lab(condition[..., :1], target)[..., 1:]


def _seeds(image: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(image.shape[:1], jnp.uint32)


def _color_space(generator: nn.Module, variables: PyTree, condition: Any) -> str:
    """The color space of the target, by its channels: the field of that name, or those traced."""
    channels = getattr(generator, 'channels', None)
    if not channels:
        predict = partial(model_lib.predict, generator)
        channels = jax.eval_shape(predict, variables, condition).shape[-1]
    return {n: name for name, n in color.TARGET_CHANNELS.items()}[channels]


def _condition(images: np.ndarray, space: str) -> np.ndarray:
    """That of `color.encode`, (B, size, size, 1), of (B, size, size, 3) photographs."""
    if space != 'lab':
        return color.encode(images, space)[0]
    lightness = color.lightness(images.reshape(-1, *images.shape[2:]))
    return (lightness / 50 - 1).reshape(*images.shape[:3], 1)


def _compile(
    lowered: jax.stages.Lowered, cpu_options: dict[str, str | bool]
) -> jax.stages.Compiled:
    """Compiles for this back end; without the options that make it fast where XLA lacks one."""
    if jax.default_backend() != 'cpu':
        return lowered.compile()
    try:
        return lowered.compile(cpu_options)
    except jax.errors.JaxRuntimeError:
        return lowered.compile()
