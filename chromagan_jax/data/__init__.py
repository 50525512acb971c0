"""Photographs in, batches out: sources of encoded images, their decoding, the grain pipeline."""

from chromagan_jax.data.crops import read_image, report_unreadable
from chromagan_jax.data.decode import UnreadableImage, decode, resize, resize_short
from chromagan_jax.data.pipeline import eval_batches, train_batches
from chromagan_jax.data.records import Record
from chromagan_jax.data.sources import Source, make_source

__all__ = [
    'Record',
    'Source',
    'UnreadableImage',
    'decode',
    'eval_batches',
    'make_source',
    'read_image',
    'report_unreadable',
    'resize',
    'resize_short',
    'train_batches',
]
