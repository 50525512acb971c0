"""A warning about a training set of gray photographs."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from chromagan_jax import color
from chromagan_jax.data.pipeline import Batch

_EXAMINED = 64  # photographs
_MAX_CHROMA = 1.0  # mean chroma, in units of a* and b*, below which a photograph is gray
_STRIDE = 2  # px between the pixels that are examined


def warn_if_gray(
    batches: Iterable[Batch], steps: int, name: str, log: Callable[[str], None]
) -> Iterator[Batch]:
    """Passes batches on; logs a sentence if most of the first 64 photographs are gray.

    Args:
        batches: of training.
        steps: batches that are used; fewer than 64 photographs are judged if there are no more.
        name: of the source, for the sentence.
        log: prints a line.
    """
    chroma: list[float] = []
    for number, batch in enumerate(batches, start=1):
        if number == 1 or len(chroma) < _EXAMINED:
            chroma += mean_chroma(batch)
            gray = sum(value < _MAX_CHROMA for value in chroma)
            if (len(chroma) >= _EXAMINED or number == steps) and gray > len(chroma) / 2:
                log(
                    f'{gray} of the first {len(chroma)} photographs of {name} are gray, and teach '
                    'no colours: python -m chromagan_jax.prepare leaves such photographs out'
                )
        yield batch


def mean_chroma(batch: Batch) -> list[float]:
    """The mean chroma of each photograph of a batch, in units of a* and b*."""
    condition, target = (batch[key][:, ::_STRIDE, ::_STRIDE] for key in ('condition', 'target'))
    ab = color.to_lab(condition, target)[..., 1:]
    means: list[float] = np.hypot(ab[..., 0], ab[..., 1]).mean(axis=(1, 2)).tolist()
    return means
