"""Scores of a generator on photographs, and a sheet of its results."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from tools.torch_twin.color import lab_to_rgb, rgb_to_lab
from tools.torch_twin.discriminators import resize
from tools.torch_twin.step import autocast

BATCH = 50
SHEET_EVERY = 6  # one photograph in six is on the sheet
SHEET_COLUMNS = 3


@torch.no_grad()
def colorize(generator: nn.Module, rgb: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Colorizes the lightness of RGB (B, 3, H, W) in [0, 1].

    Returns:
        Colorized and gray images, (B, 3, H, W) in [0, 1], and the predicted ab, (B, 2, H, W).
    """
    lightness, _ = rgb_to_lab(rgb)
    with autocast(rgb.device):
        half = generator(lightness / 50 - 1).float()
    ab = resize(half, lightness) * 110
    picture, gray = lab_to_rgb(lightness, ab), lab_to_rgb(lightness, torch.zeros_like(ab))
    return picture.clamp(0, 1), gray.clamp(0, 1), ab


def evaluate(generator: nn.Module, images: Tensor) -> dict[str, float]:
    """Mean scores over `images`, (N, S, S, 3) uint8; the generator must be in evaluation mode.

    psnr (dB) and colorfulness are of RGB, ab_mae is the mean absolute error of ab. For comparison
    psnr and ab_mae of the gray images and colorfulness of the real ones are included.
    """
    rows = []
    for rgb in batches(images):
        picture, gray, ab = colorize(generator, rgb)
        _, real_ab = rgb_to_lab(rgb)
        scores = {
            'psnr': psnr(picture, rgb),
            'psnr_gray': psnr(gray, rgb),
            'ab_mae': (ab - real_ab).abs().mean((1, 2, 3)),
            'ab_mae_gray': real_ab.abs().mean((1, 2, 3)),
            'colorfulness': colorfulness(picture),
            'colorfulness_real': colorfulness(rgb),
        }
        rows.append(torch.stack(list(scores.values()), 1))
    means = torch.cat(rows).mean(0).tolist()
    return {name: round(mean, 3) for name, mean in zip(scores, means, strict=True)}


def batches(images: Tensor) -> Iterator[Tensor]:
    """Yields (N, S, S, 3) uint8 in parts, as (B, 3, S, S) in [0, 1]."""
    for part in images.split(BATCH):
        yield part.permute(0, 3, 1, 2).float() / 255


def psnr(picture: Tensor, rgb: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each of (B, 3, H, W) in [0, 1], dB, (B,)."""
    return -10 * torch.log10(((picture - rgb) ** 2).mean((1, 2, 3)).clamp_min(1e-8))


def colorfulness(rgb: Tensor) -> Tensor:
    """Hasler & Süsstrunk 2003 of each of (B, 3, H, W) in [0, 1], (B,).

    https://doi.org/10.1117/12.477378
    """
    red, green, blue = (255 * rgb).unbind(1)
    opponent = torch.stack([red - green, (red + green) / 2 - blue], 1)
    spread = opponent.var((2, 3)).sum(1).sqrt()
    return spread + 0.3 * (opponent.mean((2, 3)) ** 2).sum(1).sqrt()


def write_sheet(generator: nn.Module, images: Tensor, path: Path) -> None:
    """Writes a JPEG of some photographs at half size: gray, colorized, real, side by side."""
    rows = []
    for rgb in batches(images[::SHEET_EVERY]):
        picture, gray, _ = colorize(generator, rgb)
        rows += list(torch.cat([gray, picture, rgb], 3))
    columns = min(SHEET_COLUMNS, len(rows))
    rows = rows[: len(rows) // columns * columns]
    sheet = torch.cat([torch.cat(rows[k::columns], 1) for k in range(columns)], 2)
    pixels = (sheet.permute(1, 2, 0).cpu().numpy() * 255).astype(np.uint8)
    image = Image.fromarray(pixels)
    image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    image.save(path, quality=85)
