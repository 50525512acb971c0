"""PyTorch's side of colorizing files: what most tutorials do, with an untrained U-Net of ours.

    python -m tests.parity.torch_colorize FOLDER --size 256 --width 64

Pillow decode -> scikit-image rgb2lab -> L at `size` through the network -> bilinear a*, b* at the
photograph's size -> scikit-image lab2rgb -> PNG, one photograph after another. Prints a JSON line
with images_per_second over 64 files of the folder, after a first pass over four of them.
"""

import argparse
import json
import math
import pathlib
import tempfile
import time
import warnings

import numpy as np
import torch
from PIL import Image
from skimage.color import lab2rgb, rgb2lab

from tests.parity.test_pix2pix import UNetTwin


def colorize(network, path, target, size):
    lab = rgb2lab(np.asarray(Image.open(path).convert('RGB')))
    light = torch.from_numpy(lab[..., 0].astype(np.float32) / 50 - 1)[None, None]
    small = torch.nn.functional.interpolate(light, (size, size), mode='bilinear', antialias=True)
    with torch.inference_mode():
        ab = 110 * network(small)
        ab = torch.nn.functional.interpolate(ab, light.shape[2:], mode='bilinear')
    lab[..., 1:] = ab[0].permute(1, 2, 0).numpy()
    Image.fromarray((255 * lab2rgb(lab)).round().astype(np.uint8)).save(target)


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument('folder', type=pathlib.Path)
    parser.add_argument('--size', type=int, default=256)
    parser.add_argument('--width', type=int, default=64)
    args = parser.parse_args()
    warnings.simplefilter('ignore')  # untrained colours outside sRGB
    levels = int(math.log2(args.size))
    network = UNetTwin([args.width * min(2**level, 8) for level in range(levels)]).eval()
    files = sorted(args.folder.rglob('*.jpg'))[:64]
    with tempfile.TemporaryDirectory() as output:
        for chosen in (files[:4], files):
            began = time.perf_counter()
            for path in chosen:
                colorize(network, path, f'{output}/{path.stem}.png', args.size)
            seconds = time.perf_counter() - began
    print(json.dumps({'images': len(files), 'images_per_second': len(files) / seconds}))


if __name__ == '__main__':
    main()
