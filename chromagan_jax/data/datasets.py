"""Record sources: ArrayRecord shards and data sets prepared by TFDS.

TensorFlow is never imported. The packages that read these files are imported on first use.
"""

import dataclasses
import hashlib
import importlib
import os
import pathlib
from collections.abc import Iterable
from typing import Any, TypedDict

from chromagan_jax.errors import UserError


class Record(TypedDict):
    """One record: the encoded bytes of an image, and its class or -1."""

    image: bytes
    label: int


def fingerprint(parts: Iterable[str]) -> str:
    """A short hash of a sequence of names."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(os.fsencode(part) + b'\0')  # a file name need not be valid UTF-8
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class ArrayRecords:
    """ArrayRecord shards in which every record is the encoded bytes of one image."""

    location: str
    records: Any  # array_record's ArrayRecordDataSource: picklable, opens shards lazily
    fingerprint: str
    num_classes: int = 0

    @classmethod
    def open(cls, location: str, shards: list[pathlib.Path]) -> 'ArrayRecords':
        """Opens `shards` in the given order; raises UserError if they are unreadable or empty."""
        try:
            from array_record.python.array_record_data_source import ArrayRecordDataSource
        except ImportError as error:
            raise UserError(
                f'{location} needs the package array_record: install it with '
                '`pip install array_record`.'
            ) from error
        try:
            records = ArrayRecordDataSource([str(shard) for shard in shards])
        except (RuntimeError, ValueError, OSError) as error:
            raise UserError(
                f'{location} cannot be read as ArrayRecord ({_first_line(error)}): write its '
                'shards again.'
            ) from error
        if not len(records):
            raise UserError(f'{location} holds no records: write its shards again.')
        parts = [*(shard.name for shard in shards), str(len(records))]
        return cls(location, records, fingerprint(parts))

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        return {'image': _read(self.records, index), 'label': -1}

    def name(self, index: int) -> str:
        """As in `Source`."""
        return f'record {index} of {self.location}'


@dataclasses.dataclass(frozen=True)
class Tfds:
    """One split of a data set prepared by TFDS as ArrayRecord."""

    location: str
    records: Any  # a tfds.core.data_sources.ArrayRecordDataSource: picklable, reads lazily
    split: str
    fingerprint: str
    classes: tuple[str, ...] = dataclasses.field(repr=False)  # class names, by label

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        example = _read(self.records, index)
        label = int(example['label']) if self.num_classes else -1
        return {'image': example['image'], 'label': label}

    def name(self, index: int) -> str:
        """As in `Source`."""
        return f'record {index} of {self.location} ({self.split})'


def _read(records: Any, index: int) -> Any:
    try:
        return records[index]
    except RuntimeError as error:  # from array_record, for a damaged or missing shard
        raise OSError(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    return str(error).partition('\n')[0].strip()


def _import_tfds(location: str) -> Any:
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise UserError(
            f'{location} needs the package tensorflow-datasets: install it with '
            '`pip install tensorflow-datasets array_record`.'
        ) from error
    return tensorflow_datasets


def find_tfds(path: pathlib.Path) -> list[pathlib.Path]:
    """Prepared TFDS folders: `path`, or else those directly below it."""
    if (path / 'dataset_info.json').is_file():
        return [path]
    return sorted(file.parent for file in path.glob('*/dataset_info.json'))


def open_tfds_name(source: str, split: str) -> Tfds:
    """Opens 'tfds:NAME' from TFDS_DATA_DIR; raises UserError if it is not prepared there."""
    tfds = _import_tfds(source)
    folder = os.environ.get('TFDS_DATA_DIR')
    # Only prepared files are searched: tfds.builder() would import the code of an unprepared data
    # set, and TensorFlow with it.
    try:
        builder = tfds.core.read_only_builder.builder_from_files(
            source.removeprefix('tfds:'), data_dir=folder
        )
    except ValueError as error:  # the data set is not found, or the name is invalid
        raise UserError(
            f'{source} is not prepared in {folder or "~/tensorflow_datasets"}: prepare it there '
            'with `tfds build --file_format=array_record`, or set TFDS_DATA_DIR to its folder.'
        ) from error
    return _open_tfds(tfds, source, builder, split)


def open_tfds_folder(source: str, folders: list[pathlib.Path], split: str) -> Tfds:
    """Opens the folder that `find_tfds` found; raises UserError if there are several."""
    folder, *others = folders
    if others:
        names = ', '.join(folder.name for folder in folders)
        raise UserError(f'{source} holds several data sets: name one of {names} below it.')
    tfds = _import_tfds(source)
    json_format: Any = importlib.import_module('google.protobuf.json_format')
    try:
        builder = tfds.builder_from_directory(folder)
    except (ValueError, json_format.ParseError) as error:
        raise UserError(
            f'{folder} is damaged ({_first_line(error)}): prepare the data set again.'
        ) from error
    return _open_tfds(tfds, source, builder, split)


def no_random_access(source: str, file_format: str) -> UserError:
    """The error for a data set in a format that can only be read from its beginning."""
    return UserError(
        f'{source} is stored as {file_format}, which has no random access: prepare it with `tfds '
        'build --file_format=array_record`.'
    )


def _open_tfds(tfds: Any, source: str, builder: Any, split: str) -> Tfds:
    features = builder.info.features
    images = [name for name in features if isinstance(features[name], tfds.features.Image)]
    if 'image' not in images:
        raise UserError(
            f"{source} has no image feature called 'image' (it has {', '.join(sorted(features))}): "
            'choose another data set.'
        )
    # Images are decoded later; other images (masks, depth) are not used at all.
    decoders = dict.fromkeys(images, tfds.decode.SkipDecoding())
    try:
        records = builder.as_data_source(split=split, decoders=decoders)
    except NotImplementedError as error:
        raise no_random_access(source, builder.info.file_format.value) from error
    except ValueError as error:
        raise UserError(
            f"{source} has no records in a split '{split}': name one of "
            f'{", ".join(builder.info.splits)}.'
        ) from error
    label = features['label'] if 'label' in features else None  # noqa: SIM401, it has no get()
    named = label if isinstance(label, tfds.features.ClassLabel) and label.num_classes else None
    parts = (builder.info.full_name, split, str(len(records)))
    return Tfds(source, records, split, fingerprint(parts), tuple(named.names) if named else ())
