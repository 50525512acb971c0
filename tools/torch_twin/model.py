"""The networks and optimizers of a run, its learning rates, and the moving average."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tools.torch_twin.discriminators import Projected, patch_gan
from tools.torch_twin.networks import Generator, Lite

BETAS = (0.5, 0.99)  # of Adam
EMA_DECAY = 0.998
# As a dictionary, since the type stubs of Module.to leave it out.
CHANNELS_LAST: dict[str, Any] = {'memory_format': torch.channels_last}


@dataclass
class Model:
    """The networks and optimizers, and the frozen features."""

    generator: Generator
    average: Generator  # moving average of the generator
    projected: Projected
    patch: nn.Sequential
    generator_optimizer: torch.optim.Adam  # two groups: the decoder and the encoder
    discriminator_optimizer: torch.optim.Adam

    def discriminator_parameters(self) -> list[nn.Parameter]:
        """The trained parameters of both discriminators."""
        return [*self.projected.heads.parameters(), *self.patch.parameters()]


def make_model(variant: str, encoder: str, device: torch.device) -> Model:
    """New networks; the encoder and the frozen features start from the file `encoder`.

    With '' they start from random weights.
    """
    generator, features = Generator(variant), Lite(variant)
    if encoder:
        generator.encoder.load(encoder)
        features.load(encoder)
    projected, patch = Projected(features), patch_gan()
    average = Generator(variant).eval()
    average.load_state_dict(generator.state_dict())
    for network in (generator, average, projected, patch):
        network.to(device, **CHANNELS_LAST)
    encoder_parameters = list(generator.encoder.parameters())
    in_encoder = {id(parameter) for parameter in encoder_parameters}
    decoder_parameters = [p for p in generator.parameters() if id(p) not in in_encoder]
    heads = [*projected.heads.parameters(), *patch.parameters()]
    fused = device.type == 'cuda'
    return Model(
        generator,
        average,
        projected,
        patch,
        torch.optim.Adam(
            [{'params': decoder_parameters}, {'params': encoder_parameters}],
            betas=BETAS,
            fused=fused,
        ),
        torch.optim.Adam(heads, betas=BETAS, fused=fused),
    )


def learning_rate(peak: float, step: int, fraction: float) -> float:
    """The rate of the decoder: 200 steps of warm-up, then constant, then a half cosine to 1 %.

    Args:
        peak: the constant rate.
        step: number of completed steps.
        fraction: completed share of the run; the cosine begins at 0.3.
    """
    warmup = min(1.0, (step + 1) / 200)
    if fraction < 0.3:
        return peak * warmup
    return peak * warmup * (0.5 * (1 + math.cos(math.pi * (fraction - 0.3) / 0.7)) + 0.01)


def set_learning_rates(model: Model, rate: float, encoder_ratio: float) -> None:
    """Sets `rate` for the decoder, its `encoder_ratio` for the encoder, half for discriminators."""
    decoder, encoder = model.generator_optimizer.param_groups
    decoder['lr'], encoder['lr'] = rate, rate * encoder_ratio
    for group in model.discriminator_optimizer.param_groups:
        group['lr'] = rate / 2


@torch.no_grad()
def update_average(model: Model, step: int) -> None:
    """Moves the average towards the generator after `step` steps.

    The decay rises from 2 / 11 to `EMA_DECAY`. Batch norm statistics are copied from the
    generator.
    """
    decay = min(EMA_DECAY, (1 + step) / (10 + step))
    parameters = zip(model.average.parameters(), model.generator.parameters(), strict=True)
    for average, parameter in parameters:
        average.lerp_(parameter, 1 - decay)
    buffers = zip(model.average.buffers(), model.generator.buffers(), strict=True)
    for average_buffer, buffer in buffers:
        average_buffer.copy_(buffer)
