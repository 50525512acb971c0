"""The files of a run: the checkpoint to resume from, and the weights so far."""

import io
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from chromagan_jax.errors import UserError
from chromagan_jax.utils.files import write_atomically
from tools.torch_twin.model import Model
from tools.torch_twin.networks import Generator

CHECKPOINT = 'checkpoint.pt'
WEIGHTS = 'generator.safetensors'
PARTS = (
    *('generator', 'average', 'projected', 'patch'),
    *('generator_optimizer', 'discriminator_optimizer'),
)


@dataclass
class Progress:
    """The progress of a run, and the values that are adjusted during it."""

    l1_weight: float
    chroma_ratio: float = 1.0  # mean chroma of fakes over that of real images, averaged
    step: int = 0
    images: int = 0
    seconds: float = 0.0
    evaluations: int = 0
    window: list[Tensor] = field(default_factory=list)  # metrics of the last steps


def save(
    folder: Path, model: Model, progress: Progress, rng: torch.Generator, options: dict[str, Any]
) -> None:
    """Writes the checkpoint and the weights, each atomically."""
    state = {
        'model': {name: getattr(model, name).state_dict() for name in PARTS},
        'progress': asdict(progress),
        'options': options,
        'rng': rng.get_state(),
        'cpu_rng': torch.get_rng_state(),
        'cuda_rng': torch.cuda.get_rng_state() if rng.device.type == 'cuda' else None,
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(folder / CHECKPOINT, buffer.getvalue())
    write_weights(folder / WEIGHTS, model.average, progress)


def resume(
    folder: Path, model: Model, rng: torch.Generator, options: dict[str, Any]
) -> Progress | None:
    """Restores `model` and the random generators from the checkpoint; None without one.

    Raises:
        UserError: if the checkpoint is damaged or belongs to a run with other options.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
    except Exception:
        raise UserError(f'{path} is damaged: delete it or choose another --output.') from None
    for name, value in options.items():
        if (before := state['options'][name]) != value:
            raise UserError(
                f'{folder} holds a run with --{name} {before} instead of {value}: choose another '
                '--output.'
            )
    for name in PARTS:
        getattr(model, name).load_state_dict(state['model'][name])
    rng.set_state(state['rng'])
    torch.set_rng_state(state['cpu_rng'])
    if rng.device.type == 'cuda':
        torch.cuda.set_rng_state(state['cuda_rng'])
    progress = Progress(**state['progress'])
    progress.window = [metrics.to(rng.device) for metrics in progress.window]
    return progress


def write_weights(path: Path, generator: Generator, progress: Progress) -> None:
    """Writes a generator's weights in float16, OIHW."""
    state = {
        name: value.cpu().half().contiguous()
        for name, value in generator.state_dict().items()
        if value.is_floating_point()
    }
    metadata = {'variant': generator.encoder.variant, 'steps': str(progress.step)}
    metadata |= {'images': str(progress.images), 'seconds': f'{progress.seconds:.0f}'}
    write_atomically(path, safetensors.torch.save(state, metadata))


def load_weights(generator: Generator, path: str | os.PathLike[str]) -> None:
    """Loads a file of `write_weights`; raises UserError if it is missing or does not fit."""
    try:
        generator.load_state_dict(safetensors.torch.load_file(path))
    except FileNotFoundError:
        raise UserError(f'{path}: no such file.') from None
    except (OSError, RuntimeError, safetensors.SafetensorError):
        raise UserError(f'{path} holds no weights of this generator.') from None
