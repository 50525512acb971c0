"""Random-access sources of encoded images: the sample, a folder, ArrayRecord shards, TFDS.

Nothing here decodes. A source is opened once from a string (`make_source`), knows its length and
hands out the bytes of a record. A new kind is a class with the members of `Source` and a line in
`SOURCES`. TensorFlow is never imported; the packages that read ArrayRecord and TFDS are imported
only by the sources that need them.
"""

import dataclasses
import glob
import importlib.util
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from chromagan_jax.data.datasets import (
    ArrayRecords,
    Record,
    find_tfds,
    fingerprint,
    open_tfds_folder,
    open_tfds_name,
)
from chromagan_jax.errors import UserError

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.gif', '.tif', '.tiff')

# The colour photographs that come inside scikit-image's wheel; its other pictures are downloads,
# micrographs, drawings or gray.
SAMPLE = (
    'astronaut.png',
    'chelsea.png',
    'coffee.png',
    'hubble_deep_field.jpg',
    'motorcycle_left.png',
    'rocket.jpg',
)


class Source(Protocol):
    """A finite random-access sequence of encoded images.

    It pickles, so that worker processes can have their own copy, and opens files only when a record
    is asked for. Several threads read from it at a time.
    """

    @property
    def location(self) -> str:
        """The string that the source was made from."""
        ...

    @property
    def fingerprint(self) -> str:
        """A short hash of what it holds.

        The same wherever the data lie and in whatever order the file system lists them.
        """
        ...

    @property
    def num_classes(self) -> int:
        """How many classes the labels count; 0 if it has none."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record:
        """Reads record `index`; OSError when its bytes cannot be had."""
        ...

    def name(self, index: int) -> str:
        """What to call record `index` in a message."""
        ...


@dataclasses.dataclass(frozen=True)
class Folder:
    """Image files below a folder, in the order of their relative paths.

    The names decide the order and the fingerprint, not what the file system lists first, so a copy
    of the folder elsewhere is the same source.
    """

    location: str
    root: str
    names: tuple[str, ...] = dataclasses.field(repr=False)
    labels: tuple[int, ...] | None = dataclasses.field(repr=False)
    num_classes: int
    fingerprint: str

    @classmethod
    def scan(cls, location: str, root: pathlib.Path, with_labels: bool = False) -> 'Folder':
        """Finds the images below `root`, hidden files and folders left out."""
        names = tuple(sorted(image_names(str(root))))
        if not names:
            raise UserError(
                f'{location} holds no images: name a folder with {", ".join(EXTENSIONS)} files '
                'in it or below it.'
            )
        labels, classes = None, 0
        if with_labels:
            if stray := next((name for name in names if '/' not in name), None):
                raise UserError(
                    f'{stray} in {location} has no label: move every image into a sub-folder that '
                    'stands for its class.'
                )
            tops = [name.partition('/')[0] for name in names]
            order = {top: index for index, top in enumerate(sorted(set(tops)))}
            labels, classes = tuple(order[top] for top in tops), len(order)
        return cls(location, str(root), names, labels, classes, fingerprint(names))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Record:
        data = pathlib.Path(self.root, self.names[index]).read_bytes()
        return {'image': data, 'label': self.labels[index] if self.labels else -1}

    def name(self, index: int) -> str:
        """As in `Source`: the path below the folder."""
        return self.names[index]


def image_names(root: str) -> Iterator[str]:
    """Paths of the images below `root`, relative to it, hidden ones left out, in no order.

    Raises:
        UserError: a folder in it cannot be listed.
    """

    def refuse(error: OSError) -> None:  # os.walk would pass over the folder without a word
        raise UserError(f'{error.filename} cannot be listed: make it readable.') from error

    for folder, subfolders, files in os.walk(root, onerror=refuse, followlinks=True):
        # Links are followed, since data sets are often assembled from them, unless one leads back
        # to a folder that it lies in.
        subfolders[:] = [
            name
            for name in subfolders
            if not name.startswith('.') and not _leads_back(os.path.join(folder, name))
        ]
        prefix = os.path.relpath(folder, root)
        for name in files:
            if name.lower().endswith(EXTENSIONS) and not name.startswith('.'):
                yield pathlib.Path(prefix, name).as_posix()


def _leads_back(folder: str) -> bool:
    if not os.path.islink(folder):
        return False
    target, parent = os.path.realpath(folder), os.path.realpath(os.path.dirname(folder))
    return os.path.commonpath([target, parent]) == target


def _sample() -> Folder:
    # The wheel's files are read by path: skimage.data would look for a download cache.
    spec = importlib.util.find_spec('skimage')
    if spec is None or spec.origin is None:
        raise UserError('The sample needs the package scikit-image: `pip install scikit-image`.')
    root = pathlib.Path(spec.origin).parent / 'data'
    names = tuple(name for name in SAMPLE if (root / name).is_file())
    if not names:
        raise UserError(
            f'scikit-image in {root} comes without photographs: install its wheel, or name a '
            'folder of images instead of the sample.'
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


def _path(location: str) -> pathlib.Path:
    return pathlib.Path(location).expanduser()


def _has_shards(location: str) -> bool:
    path = _path(location)
    if path.is_dir():
        return any(path.glob('*.array_record*'))
    return '.array_record' in path.name


def _open_shards(location: str) -> ArrayRecords:
    """The shards in a folder, or those that a path or a pattern names."""
    path = _path(location)
    if path.is_dir():
        shards = [*path.glob('*.array_record*')]
    else:
        shards = [path] if path.is_file() else [pathlib.Path(p) for p in glob.glob(str(path))]
    if not shards:
        raise UserError(f'No file matches {location}: correct the path of the ArrayRecord shards.')
    return ArrayRecords.open(location, sorted(shards))


class SourceKind(NamedTuple):
    """A kind of source: how its locations are recognised, and how one is opened."""

    matches: Callable[[str], bool]  # of the location
    open: Callable[[str, str, bool], Source]  # of location, split, labels, as in `make_source`


SOURCES = [  # the first that matches opens the location
    SourceKind(lambda at: at == 'sample', lambda at, split, labels: _sample()),
    SourceKind(
        lambda at: at.startswith('tfds:'), lambda at, split, labels: open_tfds_name(at, split)
    ),
    SourceKind(
        lambda at: bool(find_tfds(_path(at))),
        lambda at, split, labels: open_tfds_folder(at, find_tfds(_path(at)), split),
    ),
    SourceKind(_has_shards, lambda at, split, labels: _open_shards(at)),
    SourceKind(
        lambda at: _path(at).is_dir(),
        lambda at, split, labels: Folder.scan(at, _path(at), labels),
    ),
]


def make_source(source: str, split: str = 'train', labels: bool = False) -> Source:
    """Opens a source of encoded images, of the first of the `SOURCES` that matches.

    Args:
        source: 'sample' (a handful of photographs that need no download), 'tfds:NAME' (a data set
            that TFDS prepared as ArrayRecord in TFDS_DATA_DIR; NAME as TFDS writes it, with config
            and version if need be), a folder of images (searched recursively), a folder that TFDS
            prepared, or a file, a pattern or a folder of ArrayRecord shards whose records are
            encoded images.
        split: the split of a TFDS data set, in TFDS's notation ('train', 'train[:90%]').
        labels: whether records carry a class: the 'label' feature of a TFDS data set, or the
            position of the top-level sub-folder among all of them in sorted order.

    Raises:
        UserError: the source does not exist, holds no images or has no labels.
    """
    kind = next((kind for kind in SOURCES if kind.matches(source)), None)
    if kind is None and _path(source).exists():
        raise UserError(f'{source} is a file: name the folder that holds the images.')
    if kind is None:
        raise UserError(
            f"{source} does not exist: name a folder of images, a data set as 'tfds:NAME', or "
            "'sample'."
        )
    found = kind.open(source, split, labels)
    if labels and not found.num_classes:
        raise UserError(
            f'{source} has no labels: take a data set with a label feature or a folder with one '
            'sub-folder per class, or a config that needs none.'
        )
    return found
