"""Compiled programs on disk: a later start of a command neither traces nor compiles.

JAX's cache of compiled functions saves only the compilation: a function is traced and lowered to be
looked up. Here a program is found by what it is made from, which is known before: the values that
the caller names, all loaded Python files, JAX's settings, the environment and the processor. If one
of them differs or a file is damaged, the program is made anew.

Only the commands of this package use it (`use_cache`), on a CPU and in one process. A program that
imports the package may have changed any function of it, and then its files do not tell what runs.
The files hold pickled objects and machine code: the folder must be as private as the programs.
"""

import hashlib
import os
import pickle
import platform
import socket
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.monitoring
import jaxlib.version
import numpy as np
from jax.experimental import serialize_executable

from chromagan_jax.errors import UserError
from chromagan_jax.utils import files, paths
from chromagan_jax.utils.cores import usable_cores

FOLDER = '~/.cache/chromagan_jax/xla'  # of JAX's cache and of the programs
MOST_BYTES = 2**30  # of the programs in a folder
_ENVIRONMENT = 'JAX_COMPILATION_CACHE_DIR'  # takes the place of a folder
_SUFFIX = '.program'
_PACKAGE = Path(__file__).parents[1]
_VARIABLES = ('XLA_', 'TF_', 'OMP_', 'NPROC')  # starts of names that the compiler reads
_DIGEST = hashlib.sha256().digest_size


class _Store(NamedTuple):
    folder: Path
    origin: str  # a hash of what all programs of this process are made from


_store: _Store | None = None  # None: all programs are made anew
_found_by_jax = 0  # functions that JAX has loaded from its own cache


def use_cache(folder: str = FOLDER, sources: Sequence[Path] = ()) -> str:
    """Stores compiled functions and programs in a folder, for this process and later ones.

    It is called by a command before it builds networks.

    Args:
        folder: of the caches; '' for none. The one that the environment variable
            `JAX_COMPILATION_CACHE_DIR` names is used in its place.
        sources: Python files that were run, but not imported.

    Returns:
        Why the folder cannot be used; '' if it can.
    """
    global _store
    _store = None
    chosen = os.environ.get(_ENVIRONMENT)  # JAX knows this one already
    if not folder or paths.is_bucket(chosen or ''):
        return ''
    try:
        path = paths.expand(chosen or folder)
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except (OSError, UserError) as error:
        reason = getattr(error, 'strerror', None) or 'there is no home folder'
        return '' if chosen else reason
    if not chosen:
        jax.config.update('jax_compilation_cache_dir', str(path))
    if _runs_command() and jax.config.values['jax_enable_compilation_cache']:
        _prune(path)
        jax.monitoring.register_event_listener(_count_found)
        _store = _Store(path, _origin(sources))
    return ''


def cached(
    name: str,
    networks: Iterable[object],
    made_from: object,
    devices: Sequence[Any],
    make: Callable[[], jax.stages.Compiled],
) -> jax.stages.Compiled:
    """The program of `make`, from the folder of `use_cache` if it is there.

    Args:
        name: start of the file's name.
        networks: that the program runs. Classes from outside this package are not stored.
        made_from: all that the program depends on beside the code, as `repr` shows it. An array has
            to be named by its `digest`, since its `repr` is shortened.
        devices: that the program runs on.
        make: traces, lowers and compiles.
    """
    known = all(type(network).__module__.startswith('chromagan_jax.') for network in networks)
    if _store is None or not known or jax.default_backend() != 'cpu' or jax.process_count() > 1:
        return make()
    parts = name, made_from, [(d.id, d.device_kind) for d in devices], _settings(), _store.origin
    path = _store.folder / f'{name}-{_hash(parts)[:40]}{_SUFFIX}'
    try:
        program = _load(path.read_bytes(), devices)
        os.utime(path)  # used last now, for `_prune`
        return program
    except Exception:  # none, damaged, or of a kind that cannot be loaded: it is made anew
        before = _found_by_jax
        program = make()
    if _found_by_jax == before:  # a program from JAX's cache cannot be serialized completely
        try:
            files.write_atomically(path, _dump(program), f'{socket.gethostname()}-{os.getpid()}')
        except Exception:  # the next start compiles again, no more
            path.unlink(missing_ok=True)
    return program


def digest(arrays: Any) -> str:
    """A hash of the shapes, types and bytes of a tree of arrays."""
    content = hashlib.sha256(repr(jax.tree.structure(arrays)).encode())
    for leaf in map(np.asarray, jax.tree.leaves(arrays)):
        content.update(f'{leaf.shape} {leaf.dtype}\n'.encode())
        content.update(np.ascontiguousarray(leaf).view(np.uint8).data)
    return content.hexdigest()


def _dump(program: jax.stages.Compiled) -> bytes:
    payload, *trees = serialize_executable.serialize(program)
    # Tree structures cannot be pickled, but trees can.
    examples = [jax.tree.unflatten(tree, range(tree.num_leaves)) for tree in trees]
    content = pickle.dumps((payload, *examples))
    return hashlib.sha256(content).digest() + content


def _load(data: bytes, devices: Sequence[Any]) -> jax.stages.Compiled:
    content = memoryview(data)[_DIGEST:]
    if hashlib.sha256(content).digest() != data[:_DIGEST]:
        raise ValueError('damaged')  # its machine code must not run
    payload, *examples = pickle.loads(content)
    del data, content  # as large as the program
    inputs, outputs = map(jax.tree.structure, examples)
    return serialize_executable.deserialize_and_load(payload, inputs, outputs, None, devices)


def _runs_command() -> bool:
    """Whether this process is `python -m chromagan_jax.NAME`."""
    spec = getattr(sys.modules['__main__'], '__spec__', None)
    return spec is not None and spec.name.split('.')[0] == 'chromagan_jax'


def _count_found(event: str, **_: Any) -> None:
    global _found_by_jax
    _found_by_jax += event == '/jax/compilation_cache/cache_hits'


def _prune(folder: Path) -> None:
    """Removes the programs that were used least recently, until `MOST_BYTES` are left."""
    found = [(path.stat(), path) for path in folder.glob(f'*{_SUFFIX}*')]  # unfinished ones too
    total = sum(stat.st_size for stat, _ in found)
    for stat, path in sorted(found, key=lambda file: file[0].st_mtime):
        if total > MOST_BYTES:
            path.unlink(missing_ok=True)  # another process may do the same
            total -= stat.st_size


def _origin(sources: Sequence[Path]) -> str:
    """A hash of the code, the environment and the processor."""
    variables = {k: v for k, v in sorted(os.environ.items()) if k.startswith(_VARIABLES)}
    versions = platform.python_version(), jax.__version__, jaxlib.version.__version__
    return _hash((versions, _code(sources), variables, usable_cores(), _processor()))


def _code(sources: Sequence[Path]) -> list[tuple[str, int, int]]:
    """All Python files of the package and of what is loaded, with sizes and times of change.

    Python decides by the same three values whether it compiles a file anew.
    """
    loaded = [getattr(module, '__file__', None) for module in list(sys.modules.values())]
    found = {*sources, *_PACKAGE.rglob('*.py'), *(Path(name) for name in loaded if name)}
    stats = [(str(path), path.stat()) for path in sorted(found) if path.is_file()]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def _settings() -> list[tuple[str, object]]:
    """JAX's settings, such as the precision of matrix products."""
    values = sorted(jax.config.values.items())
    return [(name, value) for name, value in values if name != 'jax_compilation_cache_dir']


def _processor() -> list[str]:
    """The model and the instructions of the processor."""
    info = Path('/proc/cpuinfo')  # Linux only
    lines = info.read_text().splitlines() if info.exists() else []
    wanted = {line for line in lines if line.startswith(('model name', 'flags', 'Features'))}
    return [platform.machine(), platform.processor(), *sorted(wanted)]


def _hash(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()
