"""Colorizes photographs, given as arrays, with a trained generator."""

import contextlib
import ctypes
import hashlib
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from chromagan_jax import color, sharding
from chromagan_jax.config.postprocess import OFF, PostProcess
from chromagan_jax.data.decode import resize
from chromagan_jax.errors import UserError
from chromagan_jax.gan import released, steps
from chromagan_jax.gan.released import Trained
from chromagan_jax.inference import layout
from chromagan_jax.inference.hints import parse
from chromagan_jax.inference.layout import Predict, predict_views
from chromagan_jax.utils import paths, programs

PyTree = Any

# Eigen's matrix products are faster here than YNNPACK's. XLA's older emitters vectorise loops over
# bands, unlike the newer ones, and compile faster.
_CPU_OPTIONS: dict[str, str | bool] = {
    'xla_cpu_experimental_ynn_fusion_type': '',
    'xla_cpu_use_fusion_emitters': False,
}


def colorize(
    photographs: Sequence[np.ndarray],
    generator: nn.Module,
    variables: PyTree,
    size: int | Sequence[int],
    batch_size: int = 1,
    sample: int | None = None,
    post: PostProcess = OFF,
    hints: Sequence[Sequence[Any]] | None = None,
) -> list[np.ndarray]:
    """Colorizes photographs at their own resolution, and keeps their lightness.

    The results do not depend on each other. With a `batch_size` above 1 this holds up to rounding:
    the position in the batch may change the last bits of ab.

    Args:
        photographs: sRGB, (H, W), (H, W, 3) or (H, W, 4), uint8 or uint16. Only the
            lightness of colour photographs is used.
        generator: from `load`.
        variables: its 'params' and 'batch_stats', from `load`.
        size: side of the network's input, px. The colours of several sizes are averaged.
        batch_size: inputs of the network at once.
        sample: number of the noise sample, for a network with noise. The noise depends on it and on
            the content of the photograph. 1 by default if `post.sample_noise` is set.
        post: processing before and after the network.
        hints: known colours of each photograph, as `hints.parse` takes them, for a generator with
            `hints`.

    Returns:
        (H, W, 3) uint8 each, (H, W, 4) with the same alpha for RGBA.

    Raises:
        UserError: if the network does not accept `size` or hints, or has no noise to sample.
    """
    if sample is None and post.sample_noise:
        sample = 1
    sizes = (size,) if isinstance(size, int) else tuple(size)
    predict = make_predict(
        generator, variables, sizes, batch_size, sample is not None, bool(hints and any(hints))
    )
    return colorize_with(predict, photographs, max(sizes), batch_size, sample, post, hints)


def colorize_with(
    predict: Predict,
    photographs: Sequence[np.ndarray],
    size: int,
    batch_size: int,
    sample: int | None,
    post: PostProcess,
    hints: Sequence[Sequence[Any]] | None,
) -> list[np.ndarray]:
    """`colorize` with a compiled network of `make_predict`; `size` is its largest one, px."""
    results: list[np.ndarray] = []
    for start in range(0, len(photographs), batch_size):
        given = (hints or [()] * len(photographs))[start : start + batch_size]
        views = [
            layout.prepare(pixels, size, post, parse(one))
            for pixels, one in zip(photographs[start : start + batch_size], given, strict=True)
        ]
        colors = predict_views(predict, [(view, sample) for view in views], batch_size)
        results += [layout.recolor(view, ab, post) for view, ab in zip(views, colors, strict=True)]
    return results


def load(workdir: str | None = None, which: str = 'newest') -> Trained:
    """Loads a generator on one device: that of a run, or the released one without a `workdir`.

    Args:
        workdir: of the run.
        which: checkpoint of the run: newest, best, or the number of a step.

    Raises:
        UserError: if there is no such run or checkpoint, or the released weights are damaged.
    """
    one = sharding.make_mesh(devices=jax.local_devices()[:1])
    if workdir is None:
        return released.load(one)
    from chromagan_jax.gan import (
        checkpoints,  # imports Orbax, which the released weights do not need
    )

    loaded = checkpoints.load_generator(paths.as_path(workdir), which, one)
    return Trained(workdir, *loaded)


def make_predict(
    generator: nn.Module,
    variables: PyTree,
    sizes: Sequence[int],
    batch_size: int,
    noise: bool = False,
    hints: bool = False,
) -> Predict:
    """Compiles the network for each size.

    Returns:
        A function of up to `batch_size` photographs at the largest of `sizes`. It returns the mean
        ab over the sizes.

    Raises:
        UserError: if the network does not accept a size or `hints`, or has no `noise`.
    """
    if hints and not getattr(generator, 'hints', False):
        raise UserError(
            'The network takes no hints: leave them out, or train one with generator.hints.'
        )
    largest = max(sizes)
    networks = {
        size: _make_predict_at(generator, variables, size, batch_size, noise, hints)
        for size in sizes
    }
    _return_freed_memory()

    def predict(
        small: Sequence[np.ndarray],
        samples: Sequence[int | None],
        points: Sequence[np.ndarray] = (),
    ) -> np.ndarray:
        pairs = zip(small, samples, strict=True)
        seeds = [_seed(*pair) for pair in pairs] if noise else [0] * len(small)
        if len(networks) == 1:
            return networks[largest](small, seeds, points)
        total = np.zeros((len(small), largest, largest, 2), np.float32)
        for size, network in networks.items():
            same = size == largest
            seen = small if same else [resize(image, size, size) for image in small]
            nearest = [cv2.resize(p, (size, size), interpolation=cv2.INTER_NEAREST) for p in points]
            ab = network(seen, seeds, nearest)
            total += ab if same else np.stack([cv2.resize(x, (largest, largest)) for x in ab])
        return total / len(networks)

    if noise:
        gray = np.full((largest, largest, 3), 128, np.uint8)
        if np.array_equal(predict([gray], [1]), predict([gray], [2])):
            raise UserError(
                'The network has no noise, so all samples would be the same: leave --samples and '
                '--sample_noise (colorize.sample_noise in a config) out, or train one with '
                'generator.dropout.'
            )
    return predict


def _make_predict_at(
    generator: nn.Module,
    variables: PyTree,
    size: int,
    batch_size: int,
    noise: bool,
    hints: bool,
) -> Callable[[Sequence[np.ndarray], Sequence[int], Sequence[np.ndarray]], np.ndarray]:
    """Compiles (n, size, size, 3) uint8 images, seeds and hints -> ab, (n, size, size, 2)."""
    shape = jax.ShapeDtypeStruct((batch_size, size, size, 4 if hints else 1), jnp.float32)
    space = _color_space(generator, variables, shape)
    weights = programs.digest(variables)

    # The weights are constants of the program. So the compiler computes the transformed kernels of
    # Winograd's convolutions once.
    @jax.jit
    def colors(condition: jax.Array, seeds: jax.Array) -> jax.Array:
        if noise:  # one stream for each photograph, so that the results do not depend on each other
            target = jax.vmap(
                lambda one, seed: steps.predict(
                    generator, variables, one[None], jax.random.key(seed)
                )
            )(condition, seeds)[:, 0]
        else:
            target = steps.predict(generator, variables, condition)
        return color.to_lab(condition[..., :1], target)[..., 1:]

    def compiled(number: int) -> jax.stages.Compiled:
        image = jax.ShapeDtypeStruct((number, *shape.shape[1:]), jnp.float32)
        seeds = jax.ShapeDtypeStruct((number,), jnp.uint32)
        made_from = generator, weights, image, noise
        one = jax.local_devices()[:1]
        return programs.cached(
            'network', [generator], made_from, one, lambda: _compile(colors.lower(image, seeds))
        )

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


def _color_space(generator: nn.Module, variables: PyTree, condition: Any) -> str:
    """The color space of the target, by its channels: the field of that name, or those traced."""
    channels = getattr(generator, 'channels', None)
    if not channels:
        predict = partial(steps.predict, generator)
        channels = jax.eval_shape(predict, variables, condition).shape[-1]
    return {n: name for name, n in color.TARGET_CHANNELS.items()}[channels]


def _condition(images: np.ndarray, space: str) -> np.ndarray:
    """That of `color.encode`, (B, size, size, 1), of (B, size, size, 3) photographs."""
    if space != 'lab':
        return color.encode(images, space)[0]
    lightness = color.lightness(images.reshape(-1, *images.shape[2:]))
    return (lightness / 50 - 1).reshape(*images.shape[:3], 1)


def _compile(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """Compiles for this back end; without the options that make it fast where XLA lacks one."""
    if jax.default_backend() != 'cpu':
        return lowered.compile()
    try:
        return lowered.compile(_CPU_OPTIONS)
    except jax.errors.JaxRuntimeError:
        return lowered.compile()


def _return_freed_memory() -> None:
    """Returns what compiling or loading has freed to the kernel, 160 MB; only glibc retains it."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _seed(small: np.ndarray, sample: int | None) -> int:
    """Of the noise: a hash of the photograph's content and the sample's number."""
    content = small.tobytes() + str(sample).encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=4).digest(), 'little')
