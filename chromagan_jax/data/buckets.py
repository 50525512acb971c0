"""Data in a bucket: image files are read one by one, ArrayRecord shards are copied to this machine.

array_record reads local files only. The copies lie below `cache_folder()`, in one folder for each
version of the shards, and later runs use them again.
"""

import functools
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from chromagan_jax.data.decode import formats
from chromagan_jax.data.listing import Ignored, is_chosen, is_hidden
from chromagan_jax.errors import UserError, is_outage
from chromagan_jax.utils import files, paths, progress

_DESCRIPTIONS = ('.json', '.txt')  # files of a data set of TFDS besides its shards


def image_names(root: str, ignored: Ignored) -> Iterator[str]:
    """Yields the images below `root`, as `listing.image_names` does for a local folder."""
    store, prefix, known = paths.filesystem(root), _key(root), formats.suffixes()
    objects = _objects(root, root)

    def head(name: str) -> bytes:
        if not objects[name].size:  # a server refuses to send a part of nothing
            return b''
        return store.cat_file(f'{prefix}{name}', start=0, end=formats.HEAD)

    for name in objects:
        if not is_hidden(name) and is_chosen(name, known, head, ignored):
            yield name


def read(location: str) -> bytes:
    """The bytes of an object.

    Raises:
        OSError: if the object cannot be read.
    """
    try:
        # With several requests at once, s3fs would first ask for the size.
        return paths.filesystem(location).cat_file(location, max_concurrency=1)
    except Exception as error:  # of aiohttp, google.auth and botocore, which have no common base
        if isinstance(error, OSError) or is_outage(error):
            raise
        raise OSError(str(error)) from error


def copy_records(location: str) -> Path | None:
    """Copies ArrayRecord shards to this machine.

    Args:
        location: a folder of shards, a folder prepared by TFDS, a shard, or a pattern of shards.

    Returns:
        The local folder with the shards, or None if the bucket holds none there.

    Raises:
        UserError: if the bucket cannot be read, or the disk is full.
    """
    parent, _, last = location.rpartition('/')
    if '.array_record' not in last:
        parent = location
    objects = _objects(location, parent)
    wanted = _records(objects)
    if not wanted:
        return None
    version = [f'{name} {objects[name].version}' for name in wanted]
    digest = hashlib.blake2b('\n'.join([parent, *version]).encode(), digest_size=8).hexdigest()
    folder = cache_folder() / digest
    missing = [name for name in wanted if not (folder / name).exists()]
    if missing:
        size = sum(objects[name].size for name in missing) / 1e9
        progress.announcer()(f'copies {size:.3g} GB of {location} to {folder}')
        _copy(parent, missing, folder)
    return folder


def cache_folder() -> Path:
    """Where copies of shards are kept."""
    root = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return Path(root).expanduser() / 'chromagan_jax' / 'data'


def _copy(parent: str, names: Sequence[str], folder: Path) -> None:
    """Copies objects below `parent` to files in `folder`, each of which is complete or absent."""
    targets = [folder / name for name in names]
    partial = [target.with_name(f'.{target.name}.{os.getpid()}') for target in targets]
    with files.writing(folder), paths.access(parent, 'read'):
        for target in targets:
            target.parent.mkdir(parents=True, exist_ok=True)
        paths.filesystem(parent).get(
            [f'{_key(parent)}{name}' for name in names], [str(file) for file in partial]
        )
        for file, target in zip(partial, targets, strict=True):
            file.replace(target)


def _records(names: Iterable[str]) -> list[str]:
    """The shards among names, and the files that TFDS reads with them; [] without a data set."""
    names = sorted(names)
    if any(name.endswith('dataset_info.json') and name.count('/') < 2 for name in names):
        return [name for name in names if '.array_record' in name or name.endswith(_DESCRIPTIONS)]
    return [name for name in names if '.array_record' in name and '/' not in name]


class _Object(NamedTuple):
    size: int  # bytes
    version: str  # changes with the content


@functools.lru_cache(maxsize=2)  # of training and evaluation, which may be the same
def _objects(location: str, parent: str) -> dict[str, _Object]:
    """The objects below a location, or those that match a pattern, by their names in `parent`.

    Raises:
        UserError: if there are none, or the bucket cannot be read.
    """
    store, prefix = paths.filesystem(location), _key(parent)
    with paths.access(location, 'read'):
        try:
            found = (store.find if location == parent else store.glob)(location, detail=True)
        except FileNotFoundError:
            found = {}
    if not found:
        raise UserError(f'{location} holds no files: correct the location, or copy files there.')
    return {
        key.removeprefix(prefix): _Object(
            about['size'], str(about.get('generation') or about.get('ETag'))
        )
        for key, about in found.items()
        if not key.endswith('/')  # stands for a folder
    }


def _key(location: str) -> str:
    """BUCKET/FOLDER/ of a location, as fsspec names it."""
    return location.partition('://')[2].strip('/') + '/'
