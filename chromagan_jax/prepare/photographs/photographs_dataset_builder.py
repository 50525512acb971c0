"""The TFDS builder of the prepared data set; TensorFlow is not imported."""

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.writer import ExampleWriter
from tensorflow_datasets.proto import tf_example_pb2

from chromagan_jax.errors import UserError
from chromagan_jax.prepare import pipeline
from chromagan_jax.prepare.inputs import Listing
from chromagan_jax.prepare.outcomes import BUCKETS, SPLITS, Outcome, read_picture, read_plan
from chromagan_jax.prepare.pipeline import Job, Runner

SHARD_BYTES = 128 << 20

Examples = Iterator[tuple[str, dict[str, Any]]]


class Photographs(tfds.core.ShardBasedBuilder):
    """Colour photographs without near-duplicates, as upright sRGB JPEGs.

    `download_and_prepare(file_format='array_record')` runs the Beam pipeline. It then writes the
    shards from the staged images one at a time, sorted by digest, which is a random order. TFDS's
    Beam writer would shuffle the images, which the local runner holds in memory.
    """

    VERSION = tfds.core.Version('1.0.0')

    def __init__(self, *, job: Job, listing: Listing, runner: Runner, **kwargs: Any):
        """A builder for the images of a listing.

        Args:
            job: parameters of the pipeline.
            listing: of `job.inputs`.
            runner: of the pipeline.
            **kwargs: of `tfds.core.DatasetBuilder`.
        """
        self._job, self._listing, self._runner = job, listing, runner
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        categories = self._listing.categories
        classes = tfds.features.ClassLabel(names=categories) if categories else None
        features = {
            'image': tfds.features.Image(shape=(None, None, 3), encoding_format='jpeg'),
            'name': tfds.features.Text(),  # hash of the original file
            'label': classes or tfds.features.Scalar(np.int64),  # -1: none
            'original_width': tfds.features.Scalar(np.int32),
            'original_height': tfds.features.Scalar(np.int32),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _shard_iterators_per_split(
        self, dl_manager: Any
    ) -> Mapping[str, Sequence[Callable[[], Examples]]]:
        del dl_manager  # nothing is downloaded
        staging, categories = self._job.staging, self._listing.categories
        pipeline.run(self._job, self._listing.starts, self._runner)
        numbers = {category: number for number, category in enumerate(categories)}
        shards = {split: divide(staging, split) for split in SPLITS}
        if not any(shards.values()):
            reasons = Counter(outcome.decision for outcome in read_plan(staging, 'dropped'))
            found = ', '.join(f'{count} {reason}' for reason, count in sorted(reasons.items()))
            raise UserError(
                f'No picture is left ({found}): use other pictures or relax the limits.'
            )
        return {
            split: [functools.partial(_examples, staging, split, *shard, numbers) for shard in some]
            for split, some in shards.items()
            if some
        }

    def _example_writer(self) -> ExampleWriter:
        return _Canonical(self.info.file_format)


class _Canonical(ExampleWriter):
    """Writes the features of a record sorted by name.

    TFDS serializes them in hash table order, which differs between processes.
    """

    def write(self, path: Any, examples: Iterable[tuple[Any, bytes]]) -> Any:
        return super().write(path, ((key, _canonical(example)) for key, example in examples))


def _canonical(example: bytes) -> bytes:
    return tf_example_pb2.Example.FromString(example).SerializeToString(deterministic=True)


def divide(staging: str, split: str, shard_bytes: int = SHARD_BYTES) -> list[tuple[int, int]]:
    """Non-empty ranges of `BUCKETS` for shards of about `shard_bytes` bytes."""
    sizes = [sum(o.length for o in read_plan(staging, split, [bucket])) for bucket in BUCKETS]
    count = min(len(BUCKETS), max(1, round(sum(sizes) / shard_bytes)))
    bounds = [len(BUCKETS) * index // count for index in range(count + 1)]
    return [pair for pair in itertools.pairwise(bounds) if sum(sizes[slice(*pair)])]


def _examples(
    staging: str, split: str, start: int, stop: int, numbers: Mapping[str, int]
) -> Examples:
    for outcome in read_plan(staging, split, BUCKETS[start:stop]):
        kept: Any = outcome.result()
        yield (
            outcome.digest,
            {
                'image': _Staged(staging, outcome),
                'name': outcome.digest,
                'label': numbers.get(outcome.category, -1),
                'original_width': kept.width,
                'original_height': kept.height,
            },
        )


class _Staged:
    """An image that is read when TFDS encodes the example.

    TFDS holds all examples of a shard in memory, so examples must not contain the bytes.
    """

    def __init__(self, staging: str, outcome: Outcome):
        self._staging, self._outcome = staging, outcome

    def read(self) -> bytes:
        return read_picture(self._staging, self._outcome)
