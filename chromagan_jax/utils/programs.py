"""Compiled programs on disk: a later start neither traces nor compiles.

JAX's own cache of compiled functions saves the compilation, but a function has to be traced and
lowered to look it up. Here a program is found by what it is made from: the values that its caller
names, the source of this package, the versions of the libraries, JAX's settings and the processor.
If any of them differs, or a file cannot be read, the program is made anew.
"""

import functools
import hashlib
import importlib.metadata
import os
import pickle
import platform
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.monitoring
import numpy as np
from jax.experimental import serialize_executable

from chromagan_jax.errors import UserError
from chromagan_jax.utils import files, paths

FOLDER = '~/.cache/chromagan_jax/xla'  # of JAX's cache and of the programs
MOST_BYTES = 2**30  # of all files in the folder
_SUFFIX = '.program'
_LIBRARIES = ('flax', 'jax', 'jaxlib', 'numpy', 'optax')
_COMPILED = Counter(['/jax/compilation_cache/cache_misses'])
_EVENTS: Counter[str] = Counter()  # of JAX's cache: functions that it stored, and that it found
_UNRELATED = ('cache', 'log', 'traceback')  # words in the names of settings of no effect


def _count_event(event: str, **_: Any) -> None:
    if event in ('/jax/compilation_cache/cache_misses', '/jax/compilation_cache/cache_hits'):
        _EVENTS[event] += 1


jax.monitoring.register_event_listener(_count_event)


def use_cache(folder: str = FOLDER) -> str:
    """Sets the folder of compiled functions, and removes its oldest files if they are too large.

    A folder in `JAX_COMPILATION_CACHE_DIR` takes its place.

    Returns:
        Why the folder cannot be used; '' if it can.
    """
    if not folder or os.environ.get('JAX_COMPILATION_CACHE_DIR'):
        return ''
    try:
        path = paths.expand(folder)
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
        prune(path, MOST_BYTES)
    except (OSError, UserError) as error:
        return getattr(error, 'strerror', None) or 'there is no home folder'
    jax.config.update('jax_compilation_cache_dir', str(path))
    return ''


def prune(folder: Path, most: int) -> None:
    """Removes the files of a folder that were used least recently, until `most` bytes are left."""
    found = [(path, path.stat()) for path in folder.iterdir() if path.is_file()]
    total = sum(stat.st_size for _, stat in found)
    for path, stat in sorted(found, key=lambda file: max(file[1].st_atime, file[1].st_mtime)):
        if total <= most:
            return
        path.unlink(missing_ok=True)  # another process may do the same
        total -= stat.st_size


def cached(
    name: str,
    made_from: Sequence[object],
    devices: Sequence[Any],
    make: Callable[[], jax.stages.Compiled],
) -> jax.stages.Compiled:
    """The program of `make`, from the folder of compiled functions if it was stored there.

    Only programs of one process on a CPU are stored.

    Args:
        name: start of the file's name.
        made_from: values whose `repr` determines the program, together with what the module names.
        devices: that the program runs on.
        make: traces, lowers and compiles.
    """
    if jax.default_backend() != 'cpu' or jax.process_count() > 1:
        return make()

    def load(stored: Any) -> jax.stages.Compiled:
        payload, *examples = stored
        trees = map(jax.tree.structure, examples)
        return serialize_executable.deserialize_and_load(payload, *trees, None, devices)

    def serialized(program: jax.stages.Compiled) -> Any:
        if _EVENTS - before != _COMPILED:
            raise ValueError('loaded from the cache of JAX, and such a program loses its functions')
        payload, *trees = serialize_executable.serialize(program)
        # Tree structures cannot be stored, but trees can.
        return payload, *(jax.tree.unflatten(tree, range(tree.num_leaves)) for tree in trees)

    before = _EVENTS.copy()
    places = [(device.id, device.device_kind) for device in devices]
    return _stored(name, (*made_from, places), make, serialized, load)


def remembered(name: str, made_from: Sequence[object], make: Callable[[], Any]) -> Any:
    """The value of `make`, which pickle can store, from the folder if it is there; as `cached`."""
    return _stored(name, made_from, make, lambda value: value, lambda value: value)


def _stored(
    name: str,
    made_from: Sequence[object],
    make: Callable[[], Any],
    dump: Callable[[Any], Any],
    load: Callable[[Any], Any],
) -> Any:
    folder = jax.config.values['jax_compilation_cache_dir']
    if not folder or paths.is_bucket(folder):
        return make()
    key = hashlib.sha256(repr((*made_from, _surroundings())).encode()).hexdigest()
    path = Path(folder) / f'{name}-{key[:40]}{_SUFFIX}'
    try:
        return load(pickle.loads(path.read_bytes()))
    except Exception:  # missing, damaged, or of another kind: whatever it is, it is made anew
        value = make()
    try:
        files.write_atomically(path, pickle.dumps(dump(value)), str(os.getpid()))
    except Exception:  # a later start is slower, no more
        path.unlink(missing_ok=True)
    return value


def is_known(*networks: object) -> bool:
    """Whether the classes of networks are in this package, so that its source describes them."""
    return all(type(network).__module__.startswith('chromagan_jax.') for network in networks)


def digest(arrays: Any) -> str:
    """A hash of the shapes and bytes of a tree of arrays, for `made_from`."""
    content = hashlib.sha256()
    for leaf in map(np.asarray, jax.tree.leaves(arrays)):
        content.update(f'{leaf.shape} {leaf.dtype}\n'.encode())
        content.update(np.ascontiguousarray(leaf).data)
    return content.hexdigest()


@functools.cache
def _surroundings() -> tuple[object, ...]:
    """What the same values may give other programs with: source, versions, settings, processor."""
    package = Path(__file__).parents[1]
    source = hashlib.sha256()
    for path in sorted(package.rglob('*.py')):
        source.update(f'{path.relative_to(package)}\n'.encode() + path.read_bytes())
    settings = {
        name: value
        for name, value in sorted(jax.config.values.items())
        if not any(word in name for word in _UNRELATED)
    }
    variables = {k: v for k, v in sorted(os.environ.items()) if k.startswith('XLA_')}
    versions = [importlib.metadata.version(library) for library in _LIBRARIES]
    python = platform.python_version()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    return source.hexdigest(), python, *versions, settings, variables, cores, _processor()


def _processor() -> str:
    """The model and the instructions of the processor."""
    info = Path('/proc/cpuinfo')  # Linux only
    lines = info.read_text().splitlines() if info.exists() else []
    wanted = {line for line in lines if line.startswith(('model name', 'flags', 'Features'))}
    return '\n'.join([platform.machine(), platform.processor(), *sorted(wanted)])
