"""Data in a bucket: image files are read one by one, ArrayRecord shards are copied to this machine.

array_record reads local files only. The copies lie below `cache_folder()`, in one folder for each
version of the shards, and later runs use them again. One process copies, under the lock of that
folder, and the others wait for it. A shard appears there when it is complete.
"""

import contextlib
import functools
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from chromagan_jax.data.decode import formats
from chromagan_jax.data.listing import Ignored, is_chosen, is_hidden
from chromagan_jax.errors import UserError, is_outage
from chromagan_jax.utils import files, lock, paths, progress

_DESCRIPTIONS = ('.json', '.txt')  # files of a data set of TFDS besides its shards
_PARTIAL = '.partial'  # folder of the files that are not complete, below that of the shards
_AT_ONCE = 8  # shards that a process copies at the same time
_POLL = 1.0  # s between looks at the copy of another process


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
    """Copies ArrayRecord shards to this machine, or waits until another process has done so.

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
    _complete(location, parent, {name: objects[name].size for name in wanted}, folder)
    return folder


def cache_folder() -> Path:
    """Where copies of shards are kept."""
    root = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return Path(root).expanduser() / 'chromagan_jax' / 'data'


def _complete(location: str, parent: str, sizes: Mapping[str, int], folder: Path) -> None:
    """Copies what a folder lacks, or waits for the process that does so.

    Args:
        location: what the user calls the shards.
        parent: the folder in the bucket.
        sizes: bytes of the objects, by their names below `parent`.
        folder: on this machine.

    Raises:
        UserError: as `copy_records`.
    """
    say = functools.cache(progress.announcer())  # each sentence once
    while _missing(sizes, folder):
        with _locked(folder, say) as held:
            if not held:
                say(f'waits for the process in {folder / lock.NAME}, which copies {location}')
                time.sleep(_POLL)
                continue
            _remove_partial(folder, sizes)
            if missing := _missing(sizes, folder):
                size = sum(sizes[name] for name in missing) / 1e9
                say(f'copies {size:.3g} GB of {location} to {folder}')
                _copy(parent, missing, folder)


def _missing(names: Iterable[str], folder: Path) -> list[str]:
    return [name for name in names if not (folder / name).exists()]


@contextlib.contextmanager
def _locked(folder: Path, log: Callable[[str], None]) -> Iterator[bool]:
    """Context in which this process holds the lock of a folder, if no other process holds it.

    Yields:
        Whether this process holds it.

    Raises:
        UserError: if the lock cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            # If another machine takes the lock over, both copy, to files of different names.
            stack.enter_context(lock.acquire(folder, log, end=lambda sentence: None))
            held = True
        except UserError as error:
            if error.__cause__:  # of the file system
                raise
            held = False
        yield held


def _remove_partial(folder: Path, names: Mapping[str, int]) -> None:
    """Removes what killed copies left. The lock is held, so no process writes these files."""
    shutil.rmtree(folder / _PARTIAL, ignore_errors=True)
    for file in folder.rglob('.*'):  # .NAME.PID, of earlier versions, would count as a shard
        target = file.with_name(file.name[1:].rpartition('.')[0] or file.name)
        if target.relative_to(folder).as_posix() in names:
            file.unlink(missing_ok=True)


def _copy(parent: str, names: Sequence[str], folder: Path) -> None:
    """Copies objects below `parent` to files in `folder`, each of which is complete or absent."""
    this = lock.this_process()
    partial = folder / _PARTIAL / f'{this.host}.{this.pid}'
    store, key = paths.filesystem(parent), _key(parent)

    def copy(name: str) -> None:
        part, target = partial / name, folder / name
        for file in (part, target):
            file.parent.mkdir(parents=True, exist_ok=True)
        store.get_file(f'{key}{name}', str(part))
        # Missing if another process has taken the lock over; `_complete` then looks again.
        with contextlib.suppress(FileNotFoundError):
            part.replace(target)

    try:
        with files.writing(folder), paths.access(parent, 'read'):
            _in_threads(copy, names)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        with contextlib.suppress(OSError):  # in use by the process that has taken the lock over
            partial.parent.rmdir()


def _in_threads(function: Callable[[str], None], names: Sequence[str]) -> None:
    """Calls a function for each name; after an error, calls that run are waited for.

    Ctrl-C is not delayed by them, as it would be by those of a ThreadPoolExecutor.
    """
    left, errors = iter(names), list[BaseException]()

    def work() -> None:
        try:
            for name in left:
                function(name)
                if errors:
                    return
        except BaseException as error:
            errors.append(error)

    count = min(_AT_ONCE, len(names))
    threads = [threading.Thread(target=work, name='copy', daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _records(names: Iterable[str]) -> list[str]:
    """The shards among names, and the files that TFDS reads with them; [] without a data set."""
    names = sorted(name for name in names if name != lock.NAME)  # the name of ours
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
