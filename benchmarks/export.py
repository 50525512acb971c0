"""Size, speed and exactness of exported networks, beside the network in JAX.

    python -m chromagan_jax.export --output=colorizer.onnx
    python -m benchmarks.export --model=colorizer.onnx --photos=DIR

`--model` files (`.onnx`, or StableHLO) must come from the same network. For JAX and each file, and
each size, a JSON line has the milliseconds of one photograph (the median of `--repeats`, after a
first call) and how far the ab of `--count` photographs lie from those of JAX.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import jax
import numpy as np
from absl import app, flags

from chromagan_jax import color
from chromagan_jax.data.decode import decode
from chromagan_jax.data.listing import Ignored, image_names
from chromagan_jax.gan import steps
from chromagan_jax.gan.released import Trained
from chromagan_jax.inference.predictor import load

_MODELS = flags.DEFINE_multi_string('model', [], 'Exported file.')
_PHOTOS = flags.DEFINE_string('photos', None, 'Folder of photographs.', required=True)
_COUNT = flags.DEFINE_integer('count', 20, 'Photographs.')
_SIZES = flags.DEFINE_multi_string('size', ['256x256', '352x256'], 'Width x height, px.')
_REPEATS = flags.DEFINE_integer('repeats', 20, 'Timed calls.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'Run of the network (the released one).')

Function = Callable[[np.ndarray], np.ndarray]  # condition -> ab


def main(_: list[str]) -> None:
    """Prints a line for each network and size."""
    reference = of_jax(load(_WORKDIR.value))
    files = [Path(model) for model in _MODELS.value]
    for size in _SIZES.value:
        width, height = map(int, size.split('x'))
        inputs = [condition(data, width, height) for data in photographs()]
        expected, took = called(reference, inputs)
        print(json.dumps({'network': 'jax', 'size': size, 'ms': took}), flush=True)
        for path in files:
            found, took = called(opened(path), inputs)
            off = np.abs(np.stack(found) - np.stack(expected))
            megabytes = path.stat().st_size / 1e6
            line = {'network': path.name, 'size': size, 'megabytes': megabytes, 'ms': took}
            difference = {'max_difference': float(off.max()), 'mean_difference': float(off.mean())}
            print(json.dumps(line | difference), flush=True)


def photographs() -> list[bytes]:
    """The first photographs of the folder."""
    names = sorted(image_names(_PHOTOS.value, Ignored()))[: _COUNT.value]
    return [Path(_PHOTOS.value, name).read_bytes() for name in names]


def condition(data: bytes, width: int, height: int) -> np.ndarray:
    """The input of a network, (1, height, width, 1)."""
    pixels = cv2.resize(decode(data), (width, height), interpolation=cv2.INTER_AREA)
    return color.encode(pixels[None], 'lab')[0]


def of_jax(trained: Trained) -> Function:
    """The network in this package, not its exported formulation."""

    @jax.jit
    def network(condition: jax.Array) -> jax.Array:
        target = steps.predict(trained.generator, trained.variables, condition)
        return color.to_lab(condition, target)[..., 1:]

    return lambda given: np.asarray(network(given))


def opened(path: Path) -> Function:
    """The function of an exported file."""
    if path.suffix == '.onnx':
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
        return lambda given: session.run(['ab'], {'condition': given})[0]
    call = jax.jit(jax.export.deserialize(bytearray(path.read_bytes())).call)
    return lambda given: np.asarray(call(given))


def called(function: Function, inputs: Sequence[np.ndarray]) -> tuple[list[np.ndarray], float]:
    """The outputs, and the median milliseconds of a call."""
    outputs, times = [function(given) for given in inputs], []
    for number in range(_REPEATS.value):
        began = time.perf_counter()
        function(inputs[number % len(inputs)])
        times.append(1000 * (time.perf_counter() - began))
    return outputs, float(np.median(times))


if __name__ == '__main__':
    app.run(main)
