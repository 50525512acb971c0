"""Random-access sources of encoded images: the sample, a folder, ArrayRecord shards, TFDS.

`make_source` opens a source from a string. A source has a length and returns the encoded bytes of a
record; it does not decode. To add a kind, write a class with the members of `Source` and add a line
to `SOURCES`. TensorFlow is never imported. The packages for ArrayRecord and TFDS are imported on
first use.
"""

import dataclasses
import glob
import importlib.util
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from chromagan_jax.data import buckets
from chromagan_jax.data.datasets import (
    ArrayRecords,
    Record,
    find_tfds,
    fingerprint,
    no_random_access,
    open_tfds_folder,
    open_tfds_name,
)
from chromagan_jax.data.listing import Ignored, image_names
from chromagan_jax.errors import UserError
from chromagan_jax.utils import paths
from chromagan_jax.utils.paths import as_path, is_bucket

# The colour photographs in scikit-image's wheel; its other images are downloads, micrographs,
# drawings or gray.
SAMPLE = (
    'astronaut.png',
    'chelsea.png',
    'coffee.png',
    'hubble_deep_field.jpg',
    'motorcycle_left.png',
    'rocket.jpg',
)

_TFRECORD = '.tfrecord'  # in names of files of TensorFlow's own format


class Source(Protocol):
    """A finite random-access sequence of encoded images.

    A source is picklable for worker processes, opens files lazily, and supports concurrent reads
    from several threads.
    """

    @property
    def location(self) -> str:
        """The string that the source was opened from."""
        ...

    @property
    def fingerprint(self) -> str:
        """A short hash of the names of the records, or of the shards and their number.

        It depends on neither the location, nor the order of a listing, nor the bytes of the files.
        """
        ...

    @property
    def num_classes(self) -> int:
        """The number of classes; 0 without labels."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record:
        """Reads record `index`; raises OSError if it cannot be read."""
        ...

    def name(self, index: int) -> str:
        """The name of record `index` in messages."""
        ...


@dataclasses.dataclass(frozen=True)
class Folder:
    """Image files below a folder, sorted by relative path.

    Order and fingerprint depend only on these paths, so a copy of the folder is the same source.
    """

    location: str
    root: str
    names: tuple[str, ...] = dataclasses.field(repr=False)
    labels: tuple[int, ...] | None = dataclasses.field(repr=False)
    num_classes: int
    fingerprint: str
    ignored: str = ''  # a sentence about the files that are of other kinds

    @classmethod
    def scan(cls, location: str, root: pathlib.Path, with_labels: bool = False) -> 'Folder':
        """Finds the images below `root`; raises UserError if there are none."""
        ignored = Ignored()
        find = buckets.image_names if is_bucket(location) else image_names
        names = tuple(sorted(find(str(root), ignored)))
        check_listed(ignored)
        if not names and any(suffix.startswith(_TFRECORD) for suffix in ignored.suffixes):
            raise no_random_access(location, 'tfrecord')
        if not names:
            raise UserError(no_images(location, ignored))
        labels, classes = None, 0
        if with_labels:
            if stray := next((name for name in names if '/' not in name), None):
                raise UserError(
                    f'{stray} in {location} has no label: move every image into a sub-folder named '
                    'after its class.'
                )
            tops = [name.partition('/')[0] for name in names]
            order = {top: index for index, top in enumerate(sorted(set(tops)))}
            labels, classes = tuple(order[top] for top in tops), len(order)
        return cls(
            location, str(root), names, labels, classes, fingerprint(names), ignored.sentence()
        )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Record:
        name = self.names[index]
        if is_bucket(self.root):
            data = buckets.read(f'{self.root}/{name}')
        else:
            data = pathlib.Path(self.root, name).read_bytes()
        return {'image': data, 'label': self.labels[index] if self.labels else -1}

    def name(self, index: int) -> str:
        """As in `Source`: the path below the folder."""
        return self.names[index]


def no_images(location: str, ignored: Ignored) -> str:
    """The sentence about a folder without images."""
    held = f'{ignored.sentence()}; ' if ignored.sentence() else ''
    return f'{location} holds no images: {held}name a folder with photographs in it or below it.'


def check_listed(ignored: Ignored) -> None:
    """Raises UserError for a folder that cannot be listed: a data set must not lose a part."""
    for folder, reason in ignored.closed:
        raise UserError(f'{folder} cannot be listed ({reason}): make it readable.')


def _open_bucket(location: str, split: str, labels: bool) -> Source:
    """Opens images in a bucket, or a local copy of the shards there."""
    location = location.rstrip('/')
    folder = buckets.copy_records(location)
    if folder is None:
        return Folder.scan(location, as_path(location), labels)
    copied: Any = make_source(str(folder), split, labels)
    return dataclasses.replace(copied, location=location)


def _sample() -> Folder:
    # The wheel's files are read by path because skimage.data requires a download cache.
    spec = importlib.util.find_spec('skimage')
    if spec is None or spec.origin is None:
        raise UserError(
            'The sample needs the package scikit-image: install it with `pip install scikit-image`.'
        )
    root = pathlib.Path(spec.origin).parent / 'data'
    names = tuple(name for name in SAMPLE if (root / name).is_file())
    if not names:
        raise UserError(
            f'scikit-image in {root} contains no photographs: install its wheel, or name a folder '
            'of images instead of the sample.'
        )
    return Folder('sample', str(root), names, None, 0, fingerprint(names))


@dataclasses.dataclass(frozen=True)
class Picked:
    """Some records of another source, in a given order."""

    source: Source
    indices: Sequence[int]

    @property
    def location(self) -> str:
        return self.source.location

    @property
    def fingerprint(self) -> str:
        return self.source.fingerprint

    @property
    def num_classes(self) -> int:
        return self.source.num_classes

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Record:
        return self.source[self.indices[index]]

    def name(self, index: int) -> str:
        return self.source.name(self.indices[index])


def _shards_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """The ArrayRecord files of a folder, without hidden ones, which are not complete."""
    return [path for path in folder.glob('*.array_record*') if not path.name.startswith('.')]


def _has_shards(location: str) -> bool:
    path = paths.expand(location)
    if path.is_dir():
        return bool(_shards_in(path))
    return '.array_record' in path.name


def _open_shards(location: str) -> ArrayRecords:
    """Opens the shards in a folder, or those that match a path or a pattern."""
    path = paths.expand(location)
    if path.is_dir():
        shards = _shards_in(path)
    else:
        shards = [path] if path.is_file() else [pathlib.Path(p) for p in glob.glob(str(path))]
    if not shards:
        raise UserError(f'No file matches {location}: correct the path of the ArrayRecord shards.')
    return ArrayRecords.open(location, sorted(shards))


class SourceKind(NamedTuple):
    """A kind of source: a test of its locations, and a function that opens one."""

    matches: Callable[[str], bool]  # of the location
    open: Callable[[str, str, bool], Source]  # of location, split, labels, as in `make_source`


SOURCES = [  # the first that matches opens the location
    SourceKind(lambda at: at == 'sample', lambda at, split, labels: _sample()),
    SourceKind(
        lambda at: at.startswith('tfds:'), lambda at, split, labels: open_tfds_name(at, split)
    ),
    SourceKind(is_bucket, _open_bucket),
    SourceKind(
        lambda at: bool(find_tfds(paths.expand(at))),
        lambda at, split, labels: open_tfds_folder(at, find_tfds(paths.expand(at)), split),
    ),
    SourceKind(_has_shards, lambda at, split, labels: _open_shards(at)),
    SourceKind(
        lambda at: paths.expand(at).is_dir(),
        lambda at, split, labels: Folder.scan(at, paths.expand(at), labels),
    ),
]


def make_source(source: str, split: str = 'train', labels: bool = False) -> Source:
    """Opens a source of encoded images: the first kind in `SOURCES` that matches.

    Args:
        source: one of
            'sample': six photographs that need no download;
            'tfds:NAME': a data set prepared by TFDS as ArrayRecord in TFDS_DATA_DIR, where NAME may
                include config and version in TFDS's notation;
            a folder of images, searched recursively;
            a folder prepared by TFDS;
            a file, a pattern or a folder of ArrayRecord shards whose records are encoded images;
            one of the last three in a bucket, as gs://BUCKET/FOLDER or s3://BUCKET/FOLDER.
        split: the split of a TFDS data set, in TFDS's notation ('train', 'train[:90%]').
        labels: whether records carry a class: the 'label' feature of a TFDS data set, or the
            position of the top-level sub-folder among all of them in sorted order.

    Raises:
        UserError: if the source does not exist, holds no images or lacks the requested labels.
    """
    kind = next((kind for kind in SOURCES if kind.matches(source)), None)
    if kind is None and _TFRECORD in source:
        raise no_random_access(source, 'tfrecord')
    if kind is None and paths.expand(source).exists():
        raise UserError(f'{source} is a file: name the folder that holds the images.')
    if kind is None:
        raise UserError(
            f"{source} does not exist: name a folder of images, a data set as 'tfds:NAME', or "
            "'sample'."
        )
    found = kind.open(source, split, labels)
    if labels and not found.num_classes:
        raise UserError(
            f'{source} has no labels: use a data set with a label feature, a folder with one '
            'sub-folder per class, or a config that needs no labels.'
        )
    return found
