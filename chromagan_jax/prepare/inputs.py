"""The listing of all input images, and reading of images from it.

Workers receive offsets into the listing file, so that the graph and the shuffles of the pipeline do
not contain the names of all images.
"""

import csv
import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

from chromagan_jax.data.listing import Ignored, image_names
from chromagan_jax.data.sources import Source, check_listed, make_source, no_images
from chromagan_jax.errors import UserError
from chromagan_jax.utils import files

T = TypeVar('T')

CHUNK = 32  # images per work item


class Inputs(NamedTuple):
    """The location of the images: folders, or a source as in the config field `data.source`."""

    folders: tuple[str, ...] = ()
    source: str = ''
    split: str = 'train'  # of a source
    labels: str = ''  # CSV file of names and categories; '': sub-folders are categories


class Listing(NamedTuple):
    """All images of `Inputs`, in a file with one line per image."""

    path: str
    number: int
    starts: tuple[int, ...]  # file offset of each chunk
    categories: tuple[str, ...]  # in the order of their labels; () without categories
    fingerprint: str  # of names, sizes and categories, independent of their order
    ignored: tuple[str, ...] = ()  # sentences about files of other kinds


def list_pictures(inputs: Inputs, path: Path) -> Listing:
    """Writes the listing to `path`.

    The category of an image is the top-level sub-folder of the input that contains it; an image
    directly in the input has none.

    Raises:
        UserError: if there are no images, or an image has no line in the CSV file.
    """
    starts, position, total, count, categories = [], 0, 0, 0, set()
    sentences: list[str] = []
    with files.writing(path), path.open('wb') as file:
        for entry, size, category in _entries(inputs, sentences):
            line = json.dumps(entry).encode() + b'\n'
            if count % CHUNK == 0:
                starts.append(position)
            position += file.write(line)
            digest = hashlib.blake2b(b'%d %b' % (size, line), digest_size=16).digest()
            total += int.from_bytes(digest, 'big')  # a sum is independent of order
            count += 1
            categories.add(category)
    held = f'{total % 2**128:032x}'
    if not inputs.source:
        named = tuple(sorted(categories - {''}))
        return Listing(str(path), count, tuple(starts), named, held, tuple(sentences))
    source = _open(inputs.source, inputs.split)
    return Listing(str(path), count, tuple(starts), _classes(inputs), held + source.fingerprint)


def _entries(
    inputs: Inputs, sentences: list[str]
) -> Iterator[tuple[int | tuple[int, str, str], int, str]]:
    """Yields the content of a line of the listing, size in bytes, category.

    Adds to `sentences` a sentence about the files that are left out.
    """
    if inputs.source:
        for index in range(len(_open(inputs.source, inputs.split))):
            yield index, 0, ''
        return
    category_of = _categories(inputs.labels)
    for number, folder in enumerate(inputs.folders):
        if not Path(folder).is_dir():
            raise UserError(f'{folder} is not a folder: set --input to a folder of images.')
        found, ignored = False, Ignored()
        for name in image_names(folder, ignored):
            found = True
            category = category_of(name)
            try:
                size = Path(folder, name).stat().st_size
            except OSError:  # a broken link: reported when it is read
                size = -1
            yield (number, name, category), size, category
        check_listed(ignored)
        if not found:
            raise UserError(no_images(folder, ignored))
        if sentence := ignored.sentence():
            sentences.append(f'{folder}: {sentence}')


def _categories(labels: str) -> Callable[[str], str]:
    """A function from the path of an image below the input to its category."""
    if not labels:
        return lambda name: _category(name.partition('/')[0]) if '/' in name else ''
    table = _read_labels(Path(labels))

    def category(name: str) -> str:
        if name not in table:
            raise UserError(f'{labels} has no line for {name}: add one, or omit --labels.')
        return table[name]

    return category


def _category(text: str) -> str:
    """The name of a category, as TFDS can store it: one line of UTF-8 without space around it."""
    # Python decodes the other bytes of a file name to surrogates.
    text = text.strip().encode('utf-8', 'surrogateescape').decode('utf-8', 'backslashreplace')
    return text.replace('\n', '\\n').replace('\r', '\\r')


def _read_labels(path: Path) -> Mapping[str, str]:
    try:
        # Excel writes a byte order mark.
        with path.open(newline='', encoding='utf-8-sig') as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f'{path} cannot be read as CSV ({error}): correct --labels.') from error
    if wrong := next((row for row in rows if len(row) != 2 or not all(row)), None):
        raise UserError(f'{path} has an invalid line {wrong}: write name,category on every line.')
    return {name: _category(text) for name, text in rows if [name, text] != ['name', 'category']}


@functools.cache
def _open(source: str, split: str) -> Source:
    return make_source(source, split)


def _classes(inputs: Inputs) -> tuple[str, ...]:
    return getattr(_open(inputs.source, inputs.split), 'classes', ())


def read_chunk(
    inputs: Inputs, listing: str, start: int
) -> Iterator[tuple[str, str, bytes | OSError]]:
    """Yields name, category and bytes of each image in a chunk, or the error of reading it."""
    with Path(listing).open('rb') as file:
        file.seek(start)
        lines = list(itertools.islice(file, CHUNK))
    for entry in map(json.loads, lines):
        if isinstance(entry, int):
            yield _read_record(inputs, entry)
        else:
            number, name, category = entry
            folder = Path(inputs.folders[number])
            shown = f'{folder.name}/{name}' if len(inputs.folders) > 1 else name
            yield shown, category, _attempt((folder / name).read_bytes)


def _read_record(inputs: Inputs, index: int) -> tuple[str, str, bytes | OSError]:
    name, classes = f'{inputs.split}/{index:08d}', _classes(inputs)
    record = _attempt(functools.partial(_open(inputs.source, inputs.split).__getitem__, index))
    if isinstance(record, OSError):
        return name, '', record
    category = classes[record['label']] if classes and record['label'] >= 0 else ''
    return name, category, record['image']


def _attempt(read: Callable[[], T]) -> T | OSError:
    try:
        return read()
    except OSError as error:
        return error
