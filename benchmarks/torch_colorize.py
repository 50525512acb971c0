r"""Photographs/s of colorizing files in PyTorch, to compare `colorize` with.

    python -m benchmarks.torch_colorize --photos=DIR --in_flight=8
    python -m benchmarks.ratio --theirs='python -m benchmarks.torch_colorize --photos=DIR' \
        --ours='python -m benchmarks.benchmark --config=configs/lite_unet.py --only=colorize \
            --config.data.source=DIR --config.data.size=256'

The networks are those that tests/parity/ holds against ours with the same weights: that of
configs/lite_unet.py, or with --width the U-Net of configs/base.py. Weights are random. OpenCV
reads a file, converts it to Lab in float32, resizes and writes a PNG. --plain does this with Pillow
and scikit-image, as most tutorials do. Prints the median over --runs as JSON, after a first pass
over eight files. Needs PyTorch (the extra `[parity]`).
"""

import importlib
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from absl import flags
from PIL import Image
from skimage.color import lab2rgb, rgb2lab

from benchmarks import command
from chromagan_jax import color
from chromagan_jax.errors import UserError

_PHOTOS = flags.DEFINE_string('photos', None, 'Folder with .jpg files.', required=True)
_FILES = flags.DEFINE_integer('files', 64, 'Files of a run.', lower_bound=1)
_SIZE = flags.DEFINE_integer('size', 256, "Side of the network's input, px.", lower_bound=32)
_WIDTH = flags.DEFINE_integer('width', 0, 'Width of the U-Net; 0: the released network.')
_IN_FLIGHT = flags.DEFINE_integer('in_flight', 1, 'Files at once, a thread each.', lower_bound=1)
_PLAIN = flags.DEFINE_bool('plain', False, 'Pillow and scikit-image instead of OpenCV.')
_RUNS = flags.DEFINE_integer('runs', 3, 'Measured runs.', lower_bound=1)
WARM_UP = 8  # files

Predict = Callable[[np.ndarray], np.ndarray]


def main(argv: Sequence[str]) -> None:
    """Measures the runs and prints their rate."""
    del argv
    import torch

    warnings.simplefilter('ignore')  # random colours lie outside sRGB
    if _IN_FLIGHT.value > 1:
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
    predict = make_predict()
    work = plain if _PLAIN.value else with_opencv
    paths = sorted(Path(_PHOTOS.value).rglob('*.jpg'))[: _FILES.value]
    if not paths:
        raise UserError(f'{_PHOTOS.value} holds no .jpg files: name another with --photos.')
    seconds = []
    with tempfile.TemporaryDirectory() as output, ThreadPoolExecutor(_IN_FLIGHT.value) as pool:
        for chosen in (paths[:WARM_UP], *[paths] * _RUNS.value):
            began = time.perf_counter()
            list(pool.map(lambda path: work(predict, path, f'{output}/{path.stem}.png'), chosen))
            seconds.append(time.perf_counter() - began)
    line = {
        'name': f'torch_colorize {"plain" if _PLAIN.value else "opencv"}',
        **{'size': _SIZE.value, 'width': _WIDTH.value, 'in_flight': _IN_FLIGHT.value},
        'source': _PHOTOS.value,
        'images_per_second': len(paths) / statistics.median(seconds[1:]),
        **command.describe(),
    }
    print(json.dumps({**line, 'torch': torch.__version__}))


def make_predict() -> Predict:
    """The network as a function from L* (size, size) to a*, b* (size', size', 2), float32."""
    import torch

    network: Any
    if _WIDTH.value:
        twins: Any = importlib.import_module('tests.parity.test_pix2pix')
        levels = range(_SIZE.value.bit_length() - 1)  # down to 1x1
        network = twins.UNetTwin([_WIDTH.value * min(2**level, 8) for level in levels]).eval()
    else:
        from tools.torch_twin.networks import Generator

        network = Generator().eval().to(memory_format=torch.channels_last)

    def predict(light: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            ab = network(torch.from_numpy(light / 50 - 1)[None, None])
        return color.AB_SCALE * ab[0].permute(1, 2, 0).numpy()

    return predict


def with_opencv(predict: Predict, path: Path, target: str) -> None:
    """Colorizes a file with OpenCV."""
    pixels: Any = cv2.imread(str(path))
    lab = cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_BGR2Lab)
    size = (_SIZE.value, _SIZE.value)
    ab = predict(cv2.resize(lab[..., 0], size, interpolation=cv2.INTER_AREA))
    lab[..., 1:] = cv2.resize(ab, (lab.shape[1], lab.shape[0]))
    result = cv2.cvtColor(lab, cv2.COLOR_Lab2BGR)
    cv2.imwrite(target, (255 * result + 0.5).clip(0, 255).astype(np.uint8))


def plain(predict: Predict, path: Path, target: str) -> None:
    """Colorizes a file with Pillow and scikit-image."""
    lab = rgb2lab(np.asarray(Image.open(path).convert('RGB')))
    light = Image.fromarray(lab[..., 0].astype(np.float32))
    ab = predict(np.asarray(light.resize((_SIZE.value, _SIZE.value), Image.Resampling.BILINEAR)))
    for channel in range(2):
        lab[..., 1 + channel] = Image.fromarray(ab[..., channel]).resize(light.size)
    Image.fromarray((255 * lab2rgb(lab)).round().astype(np.uint8)).save(target)


if __name__ == '__main__':
    command.start(main)
