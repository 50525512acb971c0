"""One train step: losses, and updates of the generator and the discriminators.

Hinge losses: Lim & Ye 2017, https://arxiv.org/abs/1705.02894. Convolutions run in bfloat16 on a
GPU, losses in float32.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tools.torch_twin.color import lab_to_rgb
from tools.torch_twin.data import Batch
from tools.torch_twin.discriminators import resize
from tools.torch_twin.model import Model

METRICS = (
    *('l1', 'adversarial', 'adversarial_patch', 'perceptual', 'chroma_fake', 'chroma_real'),
    *('discriminator', 'discriminator_patch'),
)


class LossWeights(NamedTuple):
    """Weights of the generator's losses; the loss of the projected discriminator has 1."""

    l1: float
    patch: float
    perceptual: float


class Judged(NamedTuple):
    """The discriminators' inputs, without gradients."""

    real_maps: Sequence[Tensor]  # four, of `Projected.frozen`
    fake_maps: Sequence[Tensor]
    real_lab: Tensor  # (B, 3, H / 2, W / 2), scaled to [-1, 1]
    fake_lab: Tensor


def train_step(model: Model, batch: Batch, weights: LossWeights) -> Tensor:
    """Updates the generator, then both discriminators on the same fakes.

    Returns the values of `METRICS`, (8,) float32, on the device.
    """
    for parameter in model.discriminator_parameters():
        parameter.requires_grad_(False)
    metrics, judged = update_generator(model, batch, weights)
    for parameter in model.discriminator_parameters():
        parameter.requires_grad_(True)
    return torch.stack([*metrics, *update_discriminators(model, judged)]).detach()


def update_generator(
    model: Model, batch: Batch, weights: LossWeights
) -> tuple[list[Tensor], Judged]:
    """One step of Adam; returns the first six of `METRICS`."""
    lightness_half = functional.avg_pool2d(batch.lightness, 2)
    with autocast(batch.ab.device):
        fake_half = model.generator(batch.degraded).float()
    fake = resize(fake_half, batch.ab)
    fake_rgb, real_rgb = to_rgb(batch.lightness, fake), to_rgb(batch.lightness, batch.ab)
    fake_lab = torch.cat([lightness_half, fake_half], 1)
    with autocast(batch.ab.device):
        fake_maps = model.projected.frozen(fake_rgb)
        with torch.no_grad():
            real_maps = model.projected.frozen(real_rgb)
        logits = model.projected.judge(fake_maps)
        adversarial = -mean_over_scales([x.float().mean() for x in logits])
        adversarial_patch = -model.patch(fake_lab).float().mean()
    l1 = (fake - batch.ab).abs().mean()
    perceptual = perceptual_distance(fake_maps, real_maps)
    loss = adversarial + weights.patch * adversarial_patch + weights.l1 * l1
    descend(model.generator_optimizer, loss + weights.perceptual * perceptual)
    chroma_fake, chroma_real = fake.norm(dim=1).mean(), batch.ab.norm(dim=1).mean()
    metrics = [l1, adversarial, adversarial_patch, perceptual, chroma_fake, chroma_real]
    real_lab = torch.cat([lightness_half, functional.avg_pool2d(batch.ab, 2)], 1)
    fake_maps = [x.detach() for x in fake_maps]
    return metrics, Judged(real_maps, fake_maps, real_lab, fake_lab.detach())


def update_discriminators(model: Model, judged: Judged) -> list[Tensor]:
    """One step of Adam; returns the losses of the projected discriminator and of the PatchGAN."""
    with autocast(judged.real_lab.device):
        real_logits = model.projected.judge(judged.real_maps)
        fake_logits = model.projected.judge(judged.fake_maps)
        real_patch, fake_patch = model.patch(judged.real_lab), model.patch(judged.fake_lab)
    projected = mean_over_scales(
        [hinge(real, fake) for real, fake in zip(real_logits, fake_logits, strict=True)]
    )
    patch = hinge(real_patch, fake_patch)
    descend(model.discriminator_optimizer, projected + patch)
    return [projected, patch]


def autocast(device: torch.device) -> torch.autocast:
    """Autocast of convolutions to bfloat16 on a GPU; no effect on a CPU."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == 'cuda')


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One gradient step of the optimizer on `loss`."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def to_rgb(lightness: Tensor, ab: Tensor) -> Tensor:
    """L* / 50 - 1 (B, 1, H, W) and ab / 110 (B, 2, H, W) -> RGB (B, 3, H, W)."""
    rgb = lab_to_rgb(50 * (lightness + 1), 110 * ab)
    return rgb.contiguous(memory_format=torch.channels_last)


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """The hinge loss of a discriminator: real logits above 1, fake logits below -1."""
    real_loss = functional.relu(1 - real.float()).mean()
    return real_loss + functional.relu(1 + fake.float()).mean()


def mean_over_scales(values: Sequence[Tensor]) -> Tensor:
    """The mean of scalars."""
    return sum(values[1:], start=values[0]) / len(values)


def perceptual_distance(fake: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """The mean over maps of |fake - real| relative to the mean of |real|."""
    return mean_over_scales(
        [
            (f.float() - r.float()).abs().mean() / r.float().abs().mean()
            for f, r in zip(fake, real, strict=True)
        ]
    )
