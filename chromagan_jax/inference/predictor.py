"""Colorizes photographs, given as arrays, with a trained generator."""

import contextlib
import ctypes
import hashlib
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from flax import linen as nn

from chromagan_jax import sharding
from chromagan_jax.config.postprocess import OFF, PostProcess
from chromagan_jax.data.decode import resize
from chromagan_jax.errors import UserError
from chromagan_jax.gan import released
from chromagan_jax.gan.released import Trained
from chromagan_jax.inference import layout, network
from chromagan_jax.inference.hints import parse
from chromagan_jax.inference.layout import Predict, predict_views
from chromagan_jax.utils import paths

PyTree = Any


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
        workdir: of the run, or the folder of another release.
        which: checkpoint of the run: newest, best, or the number of a step.

    Raises:
        UserError: if there is no such run or checkpoint, or a release is damaged.
    """
    one = sharding.make_mesh(devices=sharding.find_devices(local=True)[:1])
    if workdir is None:
        return released.load(one)
    folder = paths.as_path(workdir)
    if (folder / released.ARRAYS).exists():
        if which != 'newest':
            raise UserError(
                f'{workdir} is a release and has no checkpoints: leave out --checkpoint.'
            )
        return released.load(one, folder)._replace(title=workdir)
    from chromagan_jax.gan import (
        checkpoints,  # imports Orbax, which the released weights do not need
    )

    loaded = checkpoints.load_generator(folder, which, one)
    return Trained(workdir, *loaded)


def make_predict(
    generator: nn.Module,
    variables: PyTree,
    sizes: Sequence[int],
    batch_size: int,
    noise: bool = False,
    hints: bool = False,
    quick: bool = False,
) -> Predict:
    """Compiles the network for each size.

    Args:
        generator: from `load`.
        variables: its 'params' and 'batch_stats', from `load`.
        sizes: sides of the network's inputs, px.
        batch_size: inputs of the network at once.
        noise: whether the function takes numbers of noise samples.
        hints: whether the function takes hints.
        quick: compiles in a third of the time, for a network that takes longer on a CPU. The ab
            differ by rounding.

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
        size: network.compile_at(generator, variables, size, batch_size, noise, hints, quick)
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
        for size, colorize_at in networks.items():
            same = size == largest
            seen = small if same else [resize(image, size, size) for image in small]
            nearest = [cv2.resize(p, (size, size), interpolation=cv2.INTER_NEAREST) for p in points]
            ab = colorize_at(seen, seeds, nearest)
            total += ab if same else np.stack([cv2.resize(x, (largest, largest)) for x in ab])
        return total / len(networks)

    if noise:
        _check_noise(predict, largest)
    return predict


def _check_noise(predict: Predict, size: int) -> None:
    """Raises UserError if two samples of a gray square of `size` px are the same."""
    gray = np.full((size, size, 3), 128, np.uint8)
    no_hints = np.zeros((size, size, 3), np.float32)
    first, second = (predict([gray], [sample], [no_hints]) for sample in (1, 2))
    if np.array_equal(first, second):
        raise UserError(
            'The network has no noise, so all samples would be the same: leave --samples and '
            '--sample_noise (colorize.sample_noise in a config) out, or train one with '
            'generator.dropout.'
        )


def _return_freed_memory() -> None:
    """Returns what compiling or loading has freed to the kernel, 160 MB; only glibc retains it."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _seed(small: np.ndarray, sample: int | None) -> int:
    """Of the noise: a hash of the photograph's content and the sample's number."""
    content = small.tobytes() + str(sample).encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=4).digest(), 'little')
