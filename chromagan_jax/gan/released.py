"""The released generator: the weights in the folder weights/ of the package.

`generator.safetensors` there holds the arrays in float16, each under its path in the generator's
variables, such as 'params/out/kernel'. `config.json` holds the config of the training, the origin
of the weights and their scores. tools/release.py makes both from a finished run.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors
import safetensors.numpy
from flax import linen as nn
from flax import traverse_util
from jax.sharding import Mesh

from chromagan_jax import sharding
from chromagan_jax.config import Config, from_dict
from chromagan_jax.errors import UserError
from chromagan_jax.gan.model import abstract_variables, make_generator
from chromagan_jax.utils import files

PyTree = Any

WEIGHTS = Path(__file__).parents[1] / 'weights'
ARRAYS = 'generator.safetensors'
DESCRIPTION = 'config.json'
MOST_BYTES = 20_000_000  # of the arrays, which every clone and installation contains

_CHECKSUM = 'checksum'  # entry of the description: a hash of all others
# Errors of json, NumPy and safetensors for damaged files.
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError)


class Trained(NamedTuple):
    """A trained generator, of a run or of the release."""

    title: str  # its name in messages
    config: Config
    generator: nn.Module
    variables: PyTree  # of the generator: 'params' and 'batch_stats'
    step: int  # train steps done

    @property
    def size(self) -> int:
        """Side of the square at which it was evaluated, px."""
        return self.config.eval.size or self.config.data.size


def load(mesh: Mesh | None = None, folder: Path | None = None) -> Trained:
    """Loads the released generator, with weights in float32.

    Args:
        mesh: devices of the weights; all devices by default.
        folder: of a release; by default the one inside the package.

    Raises:
        UserError: if its files are missing or damaged.
    """
    folder, mesh = folder or WEIGHTS, mesh or sharding.make_mesh()
    try:
        described = json.loads((folder / DESCRIPTION).read_bytes())
        if described[_CHECKSUM] != _checksum(described):
            raise ValueError(f'{DESCRIPTION} is not as it was written')
        data = (folder / ARRAYS).read_bytes()
        if hashlib.sha256(data).hexdigest() != described['sha256']:
            raise ValueError(f'{ARRAYS} is not the file that {DESCRIPTION} describes')
        arrays, step = safetensors.numpy.load(data), int(described['step'])
        config = from_dict(Config, described['config'])
    except _UNREADABLE as error:
        raise _damaged(folder, str(error)) from error
    generator = make_generator(config)
    if folder != WEIGHTS:  # tests check those of the package, and tracing takes half a second
        _check_fit(arrays, named(abstract_variables(generator, config.data.size)), folder)
    variables: PyTree = {'params': {}, 'batch_stats': {}}
    variables |= traverse_util.unflatten_dict(
        {name: array.astype(np.float32) for name, array in arrays.items()}, sep='/'
    )
    variables = jax.device_put(variables, sharding.state_shardings(variables, mesh))
    return Trained('the released weights', config, generator, variables, step)


def save(
    folder: Path,
    variables: PyTree,
    described: Mapping[str, Any],
    texts: Mapping[str, str] | None = None,
) -> None:
    """Writes the arrays of a generator and their description, as `load` reads them.

    All files are complete before the first one of an earlier release in `folder` is replaced.

    Args:
        folder: of the release; created if it does not exist.
        variables: of the generator.
        described: 'config', 'step' and further entries of `DESCRIPTION`.
        texts: further files of the release by name.

    Raises:
        UserError: if float16 cannot hold a value, the arrays take more than `MOST_BYTES`, or a file
            cannot be written.
        ValueError: if `described` holds NaN or infinity.
    """
    data = encode(variables)
    identity = {'bytes': len(data), 'sha256': hashlib.sha256(data).hexdigest()}
    described = {**described, **identity}
    whole = {**described, _CHECKSUM: _checksum(described)}
    contents = {name: text.encode() for name, text in (texts or {}).items()}
    contents[ARRAYS] = data  # these two last and together: `load` needs a pair that fits
    contents[DESCRIPTION] = (json.dumps(whole, indent=2, allow_nan=False) + '\n').encode()
    _replace(folder, contents)


def _replace(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Writes files under temporary names, and then renames them in the order of `contents`."""
    parts = {name: folder / f'.{name}.tmp' for name in contents}
    try:
        for name, content in contents.items():
            with files.writing(folder / name):
                folder.mkdir(parents=True, exist_ok=True)
                with parts[name].open('wb') as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
        for name, part in parts.items():
            with files.writing(folder / name):
                part.replace(folder / name)
    finally:
        for part in parts.values():
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


def encode(variables: PyTree) -> bytes:
    """The content of `ARRAYS`; raises UserError as `save` does."""
    arrays = {}
    for name, leaf in named(variables).items():
        exact = np.asarray(leaf).astype(np.float32)
        with np.errstate(over='ignore'):  # an overflow is reported below
            # safetensors writes the memory of an array, so it must be in C order.
            arrays[name] = exact.astype(np.float16, order='C')
        if not (fits := np.isfinite(arrays[name])).all():
            raise UserError(
                f'{name} holds the value {exact[~fits][0]:g}, and float16 ends at 65504: release '
                'another run.'
            )
    data = safetensors.numpy.save(arrays)
    if len(data) > MOST_BYTES:
        raise UserError(
            f'The weights take {len(data) / 1e6:.1f} MB, and {MOST_BYTES / 1e6:g} MB is the most '
            'that is released: train a smaller generator.'
        )
    return data


def named(variables: PyTree) -> dict[str, Any]:
    """The leaves of a tree by their paths, such as 'params/out/kernel'."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf for path, leaf in leaves}


def _checksum(described: Mapping[str, Any]) -> str:
    others = {name: value for name, value in described.items() if name != _CHECKSUM}
    return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()


def _check_fit(arrays: Mapping[str, np.ndarray], leaves: Mapping[str, Any], folder: Path) -> None:
    """Raises UserError if the arrays are not those of the network that the config describes."""
    if other := sorted(set(arrays) ^ set(leaves)):
        where = ARRAYS if other[0] in arrays else 'the network'
        raise _damaged(folder, f'only {where} has {other[0]}')
    for name, leaf in leaves.items():
        if arrays[name].shape != leaf.shape:
            raise _damaged(folder, f'{name} is {arrays[name].shape}, in the network {leaf.shape}')


def _damaged(folder: Path, reason: str) -> UserError:
    return UserError(
        f'The released weights in {folder} are missing or damaged ({reason}): install '
        'chromagan_jax again, or name a run with --workdir.'
    )
