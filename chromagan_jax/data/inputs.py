"""Sources and batches from a config, for a mesh."""

import os
from collections.abc import Generator

from jax.sharding import Mesh

from chromagan_jax import sharding
from chromagan_jax.config import Config
from chromagan_jax.data.pipeline import Batch, eval_batches, train_batches
from chromagan_jax.data.sources import Source, make_source
from chromagan_jax.errors import UserError
from chromagan_jax.utils.cores import usable_cores
from chromagan_jax.utils.paths import is_bucket

_MOST_THREADS = 16  # Python's lock leaves more of them little to do

NOT_HELD_OUT = 'eval.source is the training source: the figures of the evaluation are not held out'


def open_sources(config: Config) -> tuple[Source, Source]:
    """Opens the training and the evaluation source.

    An empty `eval.source` stands for `data.source`, with `eval.split` if it has splits.

    Raises:
        UserError: if a source does not exist or holds no images.
    """
    if not config.data.source:
        raise UserError(
            'data.source is empty: add --config.data.source=DIR with a folder of photographs, '
            'tfds:NAME, or sample.'
        )
    source = make_source(config.data.source, config.data.split, config.data.labels)
    eval_source = make_source(config.eval.source or config.data.source, config.eval.split)
    return source, eval_source


def is_held_out(config: Config, source: Source, eval_source: Source) -> bool:
    """Whether evaluation and training use different locations, or different splits of one."""
    return evaluates_elsewhere(config) or source.fingerprint != eval_source.fingerprint


def evaluates_elsewhere(config: Config) -> bool:
    """Whether the evaluation source is at another location than the training source."""
    source = config.eval.source
    return bool(source) and _place(source) != _place(config.data.source)


def _place(location: str) -> str:
    """One form for all spellings of a location."""
    if is_bucket(location) or location.startswith('tfds:'):
        return location.rstrip('/')
    return os.path.realpath(os.path.expanduser(location))


def thread_count(wanted: int, workers: int) -> int:
    """Threads that prepare images in a process: `wanted`, or by the number of cores if 0.

    All cores that this process may use but one, shared by the `workers` processes; from 2 to 16.
    Each thread holds a batch.
    """
    if wanted:
        return wanted
    return min(max((usable_cores() - 1) // max(workers, 1), 2), _MOST_THREADS)


def training_input(
    config: Config, source: Source, mesh: Mesh, step: int
) -> Generator[Batch, None, None]:
    """Yields this process's rows of the training batches after step `step`, without end."""
    return train_batches(
        source,
        size=config.data.size,
        resize_ratio=config.data.resize_ratio,
        max_resize_ratio=config.data.max_resize_ratio,
        flip=config.data.flip,
        space=config.color_space,
        seed=config.seed,
        batch_size=config.batch_size,
        rows=sharding.local_rows(mesh, config.batch_size, config.grad_accum_steps),
        start_step=step,
        workers=config.data.workers,
        threads=thread_count(config.data.threads, config.data.workers),
        prefetch=config.data.prefetch,
        labels=config.data.labels,
    )


def evaluation_input(
    config: Config, source: Source, mesh: Mesh, workers: int = 0
) -> Generator[Batch, None, None]:
    """Yields this process's rows of batches that contain every record of `source` once.

    `workers` processes prepare the batches, which take seconds to start, or threads if 0.
    """
    batch_size = -(-config.eval.batch_size // mesh.size) * mesh.size
    return eval_batches(
        source,
        size=config.eval.size or config.data.size,
        space=config.color_space,
        batch_size=batch_size,
        rows=sharding.local_rows(mesh, batch_size),
        workers=workers,
        threads=thread_count(config.data.threads, workers),
        prefetch=config.data.prefetch,
    )
