"""Training data: packs, random crops, and inputs degraded like old photographs.

A pack is two files. NAME.bin holds encoded images one after the other. NAME.npy holds their N + 1
byte offsets, int64. `tools.torch_twin.pack` makes one from a folder.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from chromagan_jax.errors import UserError
from tools.torch_twin.color import rgb_to_lab

CHUNK = 250  # images that one job decodes

Item = TypeVar('Item')
Result = TypeVar('Result')


class Job(NamedTuple):
    """Some consecutive images of a pack."""

    path: str  # of NAME.bin
    offsets: np.ndarray  # (n + 1,) int64
    side: int
    seed: int


class Batch(NamedTuple):
    """Images for one step."""

    lightness: Tensor  # (B, 1, H, W), L* / 50 - 1
    ab: Tensor  # (B, 2, H, W), ab / 110
    degraded: Tensor  # (B, 1, H, W): `lightness` with grain and blur, the generator's input


def load_packs(packs: Sequence[str], side: int, workers: int) -> Tensor:
    """Decodes packs into (N, side, side, 3) uint8 RGB.

    Takes one random square of each image, with the side of its short side, and resizes it to
    `side`. The square depends only on the position in the pack. `workers` processes decode.

    Raises:
        UserError: if a pack is missing or damaged.
    """
    jobs = [job for pack in packs for job in jobs_of(pack, side)]
    return torch.from_numpy(np.concatenate(list(parallel_map(decode_squares, jobs, workers))))


def parallel_map(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, chunk: int = 1
) -> Iterator[Result]:
    """Yields `function` of each item in order, computed by `workers` processes if above 1.

    The processes are spawned, since a fork is unsafe with the threads of PyTorch.
    """
    if workers < 2:
        yield from map(function, items)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context('spawn')) as pool:
        yield from pool.map(function, items, chunksize=chunk)


def jobs_of(pack: str, side: int) -> list[Job]:
    """The jobs that decode a pack; raises UserError if its files do not fit together."""
    index, data = Path(f'{pack}.npy'), Path(f'{pack}.bin')
    for path in (index, data):
        if not path.is_file():
            raise UserError(
                f'{path} does not exist: name a pack NAME that has NAME.bin and NAME.npy.'
            )
    try:
        offsets = np.load(index, allow_pickle=False)
    except (ValueError, EOFError):
        raise UserError(f'{index} is no NumPy array: make the pack again.') from None
    if offsets.ndim != 1 or len(offsets) < 2 or offsets[-1] != data.stat().st_size:
        raise UserError(f'{index} does not match {data}: make the pack again.')
    starts = range(0, len(offsets) - 1, CHUNK)
    return [Job(str(data), offsets[k : k + CHUNK + 1], side, seed=k) for k in starts]


def decode_squares(job: Job) -> np.ndarray:
    """The images of a job as (n, side, side, 3) uint8; raises UserError if one is damaged."""
    rng = np.random.default_rng(job.seed)
    with open(job.path, 'rb') as file:
        file.seek(job.offsets[0])
        data = file.read(job.offsets[-1] - job.offsets[0])
    bounds = job.offsets - job.offsets[0]
    squares = np.empty((len(bounds) - 1, job.side, job.side, 3), np.uint8)
    for number, (start, end) in enumerate(pairwise(bounds)):
        try:
            image = Image.open(io.BytesIO(data[start:end])).convert('RGB')
        except OSError:
            place = job.seed + number
            raise UserError(f'Image {place} of {job.path} is damaged: make it again.') from None
        side = min(image.size)
        left, top = (int(rng.integers(0, length - side + 1)) for length in image.size)
        image = image.crop((left, top, left + side, top + side))
        if side != job.side:
            image = image.resize((job.side, job.side), Image.Resampling.BICUBIC)
        squares[number] = np.asarray(image)
    return squares


def draw_batch(
    images: Tensor, count: int, size: int, min_scale: float, rng: torch.Generator
) -> Batch:
    """Draws `count` random crops of `images`, (N, side, side, 3) uint8, resized to `size`.

    A crop covers `min_scale` to 1 of the side; every second one is mirrored. Lightness is raised to
    a random power.
    """
    chosen = torch.randint(len(images), (count,), generator=rng, device=images.device)
    rgb = images[chosen].permute(0, 3, 1, 2).float() / 255
    lightness, ab = rgb_to_lab(random_crops(rgb, size, min_scale, rng).clamp(0, 1))
    noise = torch.randn(count, 1, 1, 1, generator=rng, device=images.device)
    power = torch.exp(0.25 * noise).clamp(0.7, 1.4)
    lightness = 100 * (lightness / 100).clamp(0, 1) ** power
    lightness = (lightness / 50 - 1).contiguous(memory_format=torch.channels_last)
    ab = (ab / 110).contiguous(memory_format=torch.channels_last)
    return Batch(lightness, ab, degrade(lightness, rng))


def random_crops(rgb: Tensor, size: int, min_scale: float, rng: torch.Generator) -> Tensor:
    """(B, 3, H, W) -> (B, 3, size, size): one bilinear crop of each, every second one mirrored."""
    count, device = len(rgb), rgb.device
    scale = min_scale + (1 - min_scale) * torch.rand(count, generator=rng, device=device)
    shift = 2 * torch.rand(count, 2, generator=rng, device=device) - 1
    mirrored = torch.rand(count, generator=rng, device=device) < 0.5
    theta = torch.zeros(count, 2, 3, device=device)
    theta[:, 0, 0] = scale * torch.where(mirrored, -1.0, 1.0)
    theta[:, 1, 1] = scale
    theta[:, :, 2] = shift * (1 - scale)[:, None]
    grid = functional.affine_grid(theta, [count, 3, size, size], align_corners=False)
    return functional.grid_sample(
        rgb, grid, mode='bilinear', padding_mode='reflection', align_corners=False
    )


def degrade(lightness: Tensor, rng: torch.Generator) -> Tensor:
    """Blurs one image in five by 3 x 3 px and adds grain to 35 % of them.

    Takes and returns (B, 1, H, W) in [-1, 1]. Grain has a standard deviation of up to 0.08; its
    noise comes from the default generator of the device, all other draws from `rng`.
    """

    def uniform() -> Tensor:
        return torch.rand(len(lightness), 1, 1, 1, generator=rng, device=lightness.device)

    padded = functional.pad(lightness, (1, 1, 1, 1), mode='replicate')
    blurred = functional.avg_pool2d(padded, 3, 1)
    lightness = torch.where(uniform() < 0.2, blurred, lightness)
    sigma = 0.08 * uniform() * (uniform() < 0.35)
    return (lightness + sigma * torch.randn_like(lightness)).clamp(-1, 1)
