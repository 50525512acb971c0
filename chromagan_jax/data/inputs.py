"""The sources and batches that a config asks for, on a mesh."""

from collections.abc import Generator

from jax.sharding import Mesh

from chromagan_jax import sharding
from chromagan_jax.config import Config
from chromagan_jax.data.pipeline import Batch, eval_batches, train_batches
from chromagan_jax.data.sources import Source, make_source
from chromagan_jax.errors import UserError

NOT_HELD_OUT = 'eval.source is the training source: the figures of the evaluation are not held out'


def open_sources(config: Config) -> tuple[Source, Source]:
    """The sources to train on and to evaluate on.

    An empty `eval.source` is `data.source`, read at `eval.split` where it has splits.

    Raises:
        UserError: if one of them does not exist or holds nothing.
    """
    if not config.data.source:
        raise UserError(
            'data.source is empty: add --config.data.source=DIR with a folder of photographs, '
            'tfds:NAME, or sample.'
        )
    source = make_source(config.data.source, config.data.split, config.data.labels)
    eval_source = make_source(config.eval.source or config.data.source, config.eval.split)
    return source, eval_source


def is_held_out(config: Config) -> bool:
    """Whether the evaluation reads other photographs than the training, as far as names tell."""
    if config.eval.source not in ('', config.data.source):
        return True
    return config.data.source.startswith('tfds:') and config.eval.split != config.data.split


def training_input(
    config: Config, source: Source, mesh: Mesh, step: int
) -> Generator[Batch, None, None]:
    """This process's rows of the batches from the one that follows step `step` on, without end."""
    return train_batches(
        source,
        size=config.data.size,
        resize_ratio=config.data.resize_ratio,
        flip=config.data.flip,
        space=config.color_space,
        seed=config.seed,
        batch_size=config.batch_size,
        rows=sharding.local_rows(mesh, config.batch_size, config.grad_accum_steps),
        start_step=step,
        workers=config.data.workers,
        threads=config.data.threads,
        prefetch=config.data.prefetch,
        labels=config.data.labels,
    )


def evaluation_input(
    config: Config, source: Source, mesh: Mesh, workers: int = 0
) -> Generator[Batch, None, None]:
    """This process's rows of batches that hold every record of `source` once.

    They are prepared by `workers` processes, which take seconds to start, or by threads if 0.
    """
    batch_size = -(-config.eval.batch_size // mesh.size) * mesh.size
    return eval_batches(
        source,
        size=config.eval.size or config.data.size,
        space=config.color_space,
        batch_size=batch_size,
        rows=sharding.local_rows(mesh, batch_size),
        workers=workers,
        threads=config.data.threads,
        prefetch=config.data.prefetch,
    )
