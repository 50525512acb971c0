"""Size, speed and exactness of exported networks, beside the network in JAX.

    python -m chromagan_jax.export --output=colorizer.onnx
    python -m benchmarks.export --model=colorizer.onnx --photos=DIR

`--model` files (`.onnx`, or StableHLO) must come from the same network. For JAX and each file, and
each size, a JSON line has the milliseconds of one photograph (the median of `--repeats`, after a
first call) and how far the ab of `--count` photographs lie from those of JAX. JAX runs the program
that `colorize` compiles.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import jax
import numpy as np
from absl import flags

from benchmarks import command
from chromagan_jax import color
from chromagan_jax.data.decode import UnreadableImage, decode
from chromagan_jax.data.listing import Ignored, image_names
from chromagan_jax.errors import UserError
from chromagan_jax.gan.released import Trained
from chromagan_jax.inference import network
from chromagan_jax.inference.predictor import load

_MODELS = flags.DEFINE_multi_string('model', [], 'Exported file.')
_PHOTOS = flags.DEFINE_string('photos', None, 'Folder of photographs.', required=True)
_COUNT = flags.DEFINE_integer('count', 20, 'Photographs.', lower_bound=1)
_SIZES = flags.DEFINE_multi_string('size', ['256x256', '352x256'], 'Width x height, px.')
_REPEATS = flags.DEFINE_integer('repeats', 20, 'Timed calls.', lower_bound=1)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Run of the network (the released one).')

Function = Callable[[np.ndarray], np.ndarray]  # condition -> ab


def main(_: list[str]) -> None:
    """Prints a line for each network and size."""
    sizes = {size: sides(size) for size in _SIZES.value}
    files = [Path(model) for model in _MODELS.value]
    pictures = photographs()
    functions = {path: opened(path) for path in files}
    trained = load(_WORKDIR.value)
    for size, (width, height) in sizes.items():
        inputs = [condition(rgb, width, height) for rgb in pictures]
        expected, took = called(of_jax(trained, width, height), inputs)
        print(json.dumps({'network': 'jax', 'size': size, 'ms': took}), flush=True)
        for path, function in functions.items():
            try:
                found, took = called(function, inputs)
            except Exception as error:  # each runtime has its own
                raise UserError(f'{path} does not run at {size} ({first_line(error)}).') from error
            off = np.abs(np.stack(found) - np.stack(expected))
            megabytes = path.stat().st_size / 1e6
            line = {'network': path.name, 'size': size, 'megabytes': megabytes, 'ms': took}
            difference = {'max_difference': float(off.max()), 'mean_difference': float(off.mean())}
            print(json.dumps(line | difference), flush=True)


def sides(size: str) -> tuple[int, int]:
    """Width and height in px; raises UserError if they are no positive numbers."""
    width, _, height = size.partition('x')
    if not (width.isdecimal() and height.isdecimal() and int(width) * int(height)):
        raise UserError(f'--size must be WIDTHxHEIGHT in px, as 256x256, not {size!r}.')
    return int(width), int(height)


def photographs() -> list[np.ndarray]:
    """The first photographs of the folder, (H, W, 3) uint8; UserError if one cannot be read."""
    folder = Path(_PHOTOS.value)
    names = sorted(image_names(str(folder), Ignored())) if folder.is_dir() else []
    if not names:
        raise UserError(f'{folder} holds no photographs: name another folder with --photos.')
    found = []
    for name in names[: _COUNT.value]:
        try:
            found.append(decode((folder / name).read_bytes()))
        except (OSError, UnreadableImage) as error:
            raise UserError(f'{folder / name} cannot be read ({error}): remove it.') from error
    return found


def condition(rgb: np.ndarray, width: int, height: int) -> np.ndarray:
    """The input of a network, (1, height, width, 1)."""
    pixels = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
    return color.encode(pixels[None], 'lab')[0]


def of_jax(trained: Trained, width: int, height: int) -> Function:
    """The network as `colorize` compiles it, for one photograph."""
    image = jax.ShapeDtypeStruct((1, height, width, 1), np.float32)
    program = network._program(trained.generator, trained.variables, image, noise=False)
    seeds = np.zeros(1, np.uint32)  # without noise they have no effect
    return lambda given: np.asarray(program(given, seeds))


def opened(path: Path) -> Function:
    """The function of an exported file; raises UserError if it cannot be read."""
    try:
        if path.suffix == '.onnx':
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3  # it warns of each float16 constant that it cannot fold
            session = onnxruntime.InferenceSession(path, options, ['CPUExecutionProvider'])
            return lambda given: session.run(['ab'], {'condition': given})[0]
        call = jax.jit(jax.export.deserialize(bytearray(path.read_bytes())).call)
    except ImportError:
        raise UserError(
            f"{path} needs onnxruntime: install it with `pip install 'chromagan_jax[export]'`."
        ) from None
    except Exception as error:  # each runtime has its own
        raise UserError(
            f'{path} is no exported network ({first_line(error)}): write it with '
            '`python -m chromagan_jax.export`.'
        ) from error
    return lambda given: np.asarray(call(given))


def first_line(error: BaseException) -> str:
    """The first line of what an error says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(':.')


def called(function: Function, inputs: Sequence[np.ndarray]) -> tuple[list[np.ndarray], float]:
    """The outputs, and the median milliseconds of a call."""
    outputs, times = [function(given) for given in inputs], []
    for number in range(_REPEATS.value):
        began = time.perf_counter()
        function(inputs[number % len(inputs)])
        times.append(1000 * (time.perf_counter() - began))
    return outputs, float(np.median(times))


if __name__ == '__main__':
    command.start(main)
