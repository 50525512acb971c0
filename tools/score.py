"""Scores colorized photographs by the standard measures: Inception FID, LPIPS, CF and PSNR.

    python -m tools.score COLORIZED ORIGINAL --inception=FILE --lpips=FILE

COLORIZED and ORIGINAL are folders whose photographs have the same names, up to the suffix: those
that --mode=eval writes with --config.eval.write_images=true, or photographs and the output of
chromagan_jax.colorize. The first --first photographs by name are used, their centre squares at
--size px: the protocol of DDColor's Table 1 with the 50,000 photographs of ImageNet's validation
set as ORIGINAL.

The result is a JSON object on standard output: fid (torch-fidelity), lpips, psnr in dB, cf and
cf_original (colorfulness with absolute values, as published tables have it), and delta_cf. Without
a file of weights its score is left out; nothing is downloaded. docs/report.md names the files.

Exit codes: 0 done; 1 user error; 75 stopped.
"""

import argparse
import json
import pickle
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from chromagan_jax.data.decode import UnreadableImage, crop_square, decode, resize
from chromagan_jax.data.sources import Folder
from chromagan_jax.errors import UserError
from chromagan_jax.evaluation import measures
from chromagan_jax.inference import output as output_lib
from chromagan_jax.utils import files, paths
from tools import cli

_MISSING = "the package {} is missing: install it with `pip install 'chromagan_jax[scores]'`."


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return cli.exit_code('score', lambda: print(json.dumps(score(parse(argv)), indent=2)))


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The flags; raises UserError if one is missing or impossible."""
    parser = cli.Parser('python -m tools.score [FLAG...] COLORIZED ORIGINAL', __doc__)
    add = parser.add_argument
    add('folders', nargs='*', help='folders of the colorized photographs and of the originals')
    add('--inception', default='', help="Inception's weights for FID, as torch-fidelity reads them")
    add('--lpips', default='', help="torchvision's weights of the network of --net, for LPIPS")
    add('--net', default='alex', choices=('alex', 'vgg', 'squeeze'), help='network of LPIPS (alex)')
    add(
        '--first',
        default=5000,
        type=int,
        help='number of photographs, the first by name (5000); 0: all',
    )
    add('--size', default=256, type=int, help='px, side of the centre square (256)')
    add('--output', default='', help='also write the result to this file')
    args = parser.parse_args(argv)
    if len(args.folders) != 2:
        raise UserError('Name two folders: the colorized photographs, and the originals.')
    for name, least in (('first', 0), ('size', measures.SSIM_WINDOW)):
        if getattr(args, name) < least:
            raise UserError(f'--{name} must be {least} or more, not {getattr(args, name)}.')
    return args


def score(args: argparse.Namespace) -> dict[str, Any]:
    """The scores of a command line."""
    for file in filter(None, (args.inception, args.lpips)):
        if not paths.expand(file).is_file():
            raise UserError(f'There is no file {file}: name a file of weights.')
    output = paths.expand(args.output) if args.output else None
    if output:
        if output.is_dir():
            raise UserError(f'{output} is a folder: name a file with --output.')
        output_lib.check_writable(output.parent)
    colorized, original = map(paths.expand, args.folders)
    pairs = find_pairs(colorized, original, args.first)
    scores: dict[str, Any] = {'images': len(pairs), 'size': args.size}
    scores |= plain_scores(pairs, args.size)
    if args.inception:
        scores['fid'] = fid(pairs, args.size, paths.expand(args.inception))
    if args.lpips:
        scores['lpips'] = lpips_distance(pairs, args.size, paths.expand(args.lpips), args.net)
        scores['lpips_net'] = args.net
    if output:
        files.write_json(output, scores)
    return scores


def find_pairs(colorized: Path, original: Path, first: int = 0) -> list[tuple[Path, Path]]:
    """The first photographs by name, and their colorized versions, as (colorized, original).

    Raises:
        UserError: if a folder holds no photographs, two have one name, or one is missing.
    """
    found = []
    for folder in (colorized, original):
        if not folder.is_dir():
            raise UserError(f'{folder} is no folder: name a folder of photographs.')
        names = Folder.scan(str(folder), folder).names
        by_stem = {str(Path(name).with_suffix('')): folder / name for name in names}
        if len(by_stem) < len(names):
            raise UserError(f'Two photographs in {folder} differ only in their suffix: remove one.')
        found.append(by_stem)
    stems = list(found[1])[: first or None]
    if missing := next((stem for stem in stems if stem not in found[0]), None):
        raise UserError(f'{colorized} lacks {missing}: colorize it too, or lower --first.')
    return [(found[0][stem], found[1][stem]) for stem in stems]


def read(path: Path, size: int) -> np.ndarray:
    """The centre square of a photograph, (size, size, 3) uint8."""
    try:
        pixels = decode(path.read_bytes())
    except (OSError, UnreadableImage) as error:
        raise UserError(f'{path} cannot be read ({error}): replace it.') from error
    return resize(crop_square(pixels, min(pixels.shape[:2])), size, size)


def colorfulness(rgb: np.ndarray) -> float:
    """CF of (H, W, 3) uint8, with the absolute values of rg and yb.

    This is the variant of published tables, as of DDColor's. `measures.colorfulness` is the
    original of Hasler & Suesstrunk 2003.
    """
    red, green, blue = np.moveaxis(rgb.astype(np.float64), -1, 0)
    rg, yb = np.abs(red - green), np.abs((red + green) / 2 - blue)
    return float(np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean()))


def plain_scores(pairs: Sequence[tuple[Path, Path]], size: int) -> dict[str, float]:
    """The means of PSNR and CF over the pairs."""
    psnr = jax.jit(lambda a, b: measures.psnr(a[None] / 255, b[None] / 255)[0])
    rows = []
    for pair in pairs:
        made, original = (read(path, size) for path in pair)
        decibels = float(psnr(made.astype(np.float32), original.astype(np.float32)))
        rows.append((decibels, colorfulness(made), colorfulness(original)))
    decibels, made_cf, original_cf = np.mean(rows, axis=0).tolist()
    delta = abs(made_cf - original_cf)
    return {'psnr': decibels, 'cf': made_cf, 'cf_original': original_cf, 'delta_cf': delta}


class Images:
    """The photographs at `paths` as (3, size, size) uint8 tensors: a data set of PyTorch."""

    def __init__(self, paths: Sequence[Path], size: int):
        self._paths, self._size = paths, size

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Any:
        import torch

        return torch.from_numpy(read(self._paths[index], self._size).transpose(2, 0, 1).copy())


def load_state(path: Path) -> dict[str, Any]:
    """The tensors in a file of PyTorch; raises UserError if it holds anything else."""
    try:
        import torch
    except ImportError:
        raise UserError(_MISSING.format('torch')) from None
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
        return {name: tensor.detach() for name, tensor in state.items()}
    except (OSError, RuntimeError, pickle.UnpicklingError, AttributeError, EOFError) as error:
        # PyTorch's own words advise to run the code in the file.
        unsafe = isinstance(error, pickle.UnpicklingError)
        reason = 'it holds more than tensors, or is damaged' if unsafe else _first_line(error)
        raise UserError(
            f'{path} cannot be read ({reason}): name a state dict of PyTorch.'
        ) from error


def fid(pairs: Sequence[tuple[Path, Path]], size: int, weights: Path, layer: str = '2048') -> float:
    """The Frechet Inception distance by torch-fidelity.

    Args:
        pairs: at least two.
        size: px.
        weights: of the Inception network of 2015, in torch-fidelity's format.
        layer: of the features: 64, 192, 768 or 2048.

    Raises:
        UserError: if torch-fidelity is missing, or the weights are others.
    """
    load_state(weights)  # torch-fidelity would run the code in a file of another kind
    try:
        import torch
        import torch_fidelity
        from torch.utils.data import Dataset
    except ImportError:
        raise UserError(_MISSING.format('torch-fidelity')) from None
    if len(pairs) < 2:
        raise UserError('FID needs two photographs or more: leave out --inception.')
    kind = type('Photographs', (Images, Dataset), {})  # PyTorch is loaded only here
    inputs = [kind(side, size) for side in zip(*pairs, strict=True)]
    try:
        found = torch_fidelity.calculate_metrics(
            **{'input1': inputs[0], 'input2': inputs[1], 'fid': True, 'feature_layer_fid': layer},
            **{'feature_extractor_weights_path': str(weights), 'cuda': torch.cuda.is_available()},
            **{'batch_size': 32, 'save_cpu_ram': True, 'cache': False, 'verbose': False},
        )
    except RuntimeError as error:
        if 'state_dict' not in str(error):
            raise
        raise UserError(
            f'{weights} does not fit the Inception network ({_first_line(error)}): name '
            'weights-inception-2015-12-05-6726825d.pth of torch-fidelity.'
        ) from error
    return float(found['frechet_inception_distance'])


def lpips_distance(
    pairs: Sequence[tuple[Path, Path]], size: int, weights: Path, net: str = 'alex'
) -> float:
    """The mean of LPIPS 0.1 (Zhang et al. 2018) over the pairs.

    Args:
        pairs: at least one.
        size: px.
        weights: torchvision's state dict of AlexNet, VGG16 or SqueezeNet 1.1. The weights of the
            linear layers come with the package.
        net: 'alex', 'vgg' or 'squeeze'.

    Raises:
        UserError: if lpips is missing, or the weights are others.
    """
    state = load_state(weights)
    try:
        import lpips
        import torch
    except ImportError:
        raise UserError(_MISSING.format('lpips')) from None
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of torchvision, about the way lpips calls it
        model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    own = model.net.state_dict()  # 'slice2.3.weight' is torchvision's 'features.3.weight'
    names = {name: f'features.{name.partition(".")[2]}' for name in own}
    wrong = [n for n, t in names.items() if t not in state or state[t].shape != own[n].shape]
    if wrong:
        raise UserError(
            f'{weights} does not fit --net={net} (it has no fitting {names[wrong[0]]}): name '
            "torchvision's weights of that network."
        )
    model.net.load_state_dict({name: state[theirs] for name, theirs in names.items()})
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    model = model.to(device).eval()
    distances = []
    with torch.no_grad():
        for made, original in zip(
            *(Images(s, size) for s in zip(*pairs, strict=True)), strict=True
        ):
            inputs = (image[None].to(device) / 127.5 - 1 for image in (made, original))
            distances.append(float(model(*inputs)))
    return float(np.mean(distances))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(':.')


if __name__ == '__main__':
    logging.set_verbosity(logging.ERROR)
    sys.exit(main(sys.argv[1:]))
