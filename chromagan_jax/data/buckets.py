"""Data in a bucket: image files are read one by one, ArrayRecord shards are copied to this machine.

array_record reads local files only. The copies lie below `cache_folder()`, in one folder for each
version of the shards, and later runs use them again.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from chromagan_jax.data.decode import formats
from chromagan_jax.data.listing import Ignored, is_chosen, is_hidden
from chromagan_jax.errors import UserError, is_outage
from chromagan_jax.utils import files, paths, progress

_DESCRIPTIONS = ('.json', '.txt')  # files of a data set of TFDS besides its shards


def image_names(root: str, ignored: Ignored) -> Iterator[str]:
    """Yields the images below `root`, as `listing.image_names` does for a local folder."""
    store, prefix, known = paths.filesystem(root), _key(root), formats.suffixes()

    def head(name: str) -> bytes:
        return store.cat_file(f'{prefix}{name}', end=formats.HEAD)

    for name in _list(root):
        if not is_hidden(name) and is_chosen(name, known, head, ignored):
            yield name


def read(location: str) -> bytes:
    """The bytes of an object; raises OSError if they cannot be read."""
    try:
        return paths.filesystem(location).cat_file(location)
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
    store = paths.filesystem(location)
    with paths.access(location, 'read'):
        if '.array_record' in location.rpartition('/')[2]:
            found = store.glob(location, detail=True)
            parent = _key(location.rpartition('/')[0])
        else:
            found = store.find(location, detail=True)
            parent = _key(location)
    objects = {key.removeprefix(parent): about for key, about in sorted(found.items())}
    wanted = _records(objects)
    if not wanted:
        return None
    version = [f'{name} {store.ukey(parent + name)}' for name in wanted]
    digest = hashlib.blake2b('\n'.join([location, *version]).encode(), digest_size=8).hexdigest()
    folder = cache_folder() / digest
    missing = {f'{parent}{name}': folder / name for name in wanted if not (folder / name).exists()}
    if missing:
        size = sum(objects[name]['size'] for name in wanted) / 1e9
        progress.announcer()(f'copies {size:.2f} GB of {location} to {folder}')
        _copy(location, missing)
    return folder


def cache_folder() -> Path:
    """Where copies of shards are kept."""
    root = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return Path(root).expanduser() / 'chromagan_jax' / 'data'


def _copy(location: str, missing: dict[str, Path]) -> None:
    """Copies objects to files, each of which is complete or absent."""
    partial = {key: file.with_name(f'.{file.name}.{os.getpid()}') for key, file in missing.items()}
    for file in missing.values():
        with files.writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
    with files.writing(next(iter(missing.values()))), paths.access(location, 'read'):
        paths.filesystem(location).get(list(partial), [str(file) for file in partial.values()])
    for key, file in missing.items():
        partial[key].replace(file)


def _records(objects: dict[str, object]) -> list[str]:
    """The names of shards and of the files that TFDS reads with them; [] without a data set."""
    prepared = any(name.endswith('dataset_info.json') and name.count('/') < 2 for name in objects)
    if prepared:
        return [n for n in objects if '.array_record' in n or n.endswith(_DESCRIPTIONS)]
    return [name for name in objects if '.array_record' in name and '/' not in name]


def _list(root: str) -> list[str]:
    """Relative names of all objects below `root`."""
    with paths.access(root, 'read'):
        try:
            found = paths.filesystem(root).find(root)
        except FileNotFoundError:
            raise UserError(f'{root} does not exist: correct the path, or create it.') from None
    prefix = _key(root)
    return [key.removeprefix(prefix) for key in found if not key.endswith('/')]


def _key(location: str) -> str:
    """BUCKET/FOLDER/ of a location; fsspec names objects so."""
    return location.partition('://')[2].strip('/') + '/'
