"""Readers of weight files: state dicts of torchvision and TensorFlow.js folders."""

import json
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import safetensors

from chromagan_jax.errors import UserError

Arrays = dict[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]

# Of ImageNet's RGB in [0, 1], as torchvision's weights expect.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

# Errors of NumPy, zipfile, json and safetensors for damaged or mislabelled files.
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    zipfile.BadZipFile,
    zlib.error,
    safetensors.SafetensorError,
)


def read_state_dict(path: pathlib.Path, title: str, network: str, shapes: Shapes) -> Arrays:
    """Reads arrays of a torchvision state dict, in the float type of the file.

    Args:
        path: a .safetensors or .npz file.
        title: name of the network in messages.
        network: its name in torchvision.models.
        shapes: keys and shapes of the requested arrays; the file may hold others.

    Raises:
        UserError: if the file is missing, damaged, of another type or of another network.
    """
    if path.suffix not in ('.npz', '.safetensors'):
        raise UserError(
            f'{title} weights are read from .safetensors or .npz files, not from {path}: convert '
            'the file (docs/evaluation.md, Weights of torchvision).'
        )
    if not path.is_file():
        raise UserError(f'there is no file of {title} weights {path}: correct the path.')
    kind = f'a {path.suffix} file'
    arrays = readable(lambda: _read_arrays(path, list(shapes)), path, kind)
    _check(
        arrays,
        shapes,
        path,
        f"torchvision's {network}",
        f"the state dict of torchvision's {network}",
    )
    return arrays


def read_tfjs(folder: pathlib.Path, title: str, shapes: Shapes) -> Arrays:
    """Reads float32 arrays of a TensorFlow.js model.

    Args:
        folder: contains model.json and the shards that it lists.
        title: name of the network in messages.
        shapes: keys and shapes of the requested arrays; the model may hold others.

    Raises:
        UserError: if the folder lacks files, is damaged, quantised or of another network.
    """
    if not (folder / 'model.json').is_file():
        raise UserError(f'{folder} has no model.json: name a TensorFlow.js model of {title}.')
    arrays = readable(
        lambda: _read_shards(folder), folder, 'a whole and unquantised TensorFlow.js model'
    )
    _check(arrays, shapes, folder, title, f'a TensorFlow.js model of {title}')
    return {name: arrays[name] for name in shapes}


def readable(read: Callable[[], Arrays], path: pathlib.Path, kind: str) -> Arrays:
    """Returns `read()`; raises UserError if the file at `path` is not of the given `kind`."""
    try:
        return read()
    except _UNREADABLE as error:
        raise UserError(
            f'{path} cannot be read: it is damaged, not {kind} or lacks read permission; save or '
            'copy it again.'
        ) from error


def _check(arrays: Arrays, shapes: Shapes, path: pathlib.Path, network: str, wanted: str) -> None:
    for key, shape in shapes.items():
        if key not in arrays:
            raise UserError(f'{path} has no {key}: save {wanted}.')
        if arrays[key].shape != shape:
            raise UserError(
                f'{key} in {path} has the shape {arrays[key].shape}, but in {network} {shape}: '
                'save the weights of that network.'
            )


def _read_arrays(path: pathlib.Path, keys: Sequence[str]) -> Arrays:
    """The arrays of `keys` that the file contains."""
    if path.suffix == '.safetensors':
        with safetensors.safe_open(path, 'numpy') as file:
            present = set(file.keys())
            return {key: file.get_tensor(key) for key in keys if key in present}
    if not zipfile.is_zipfile(path):
        raise ValueError('an .npz file is a zip archive')
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in keys if key in file}


def _read_shards(folder: pathlib.Path) -> Arrays:
    """All arrays of the model; each group is contiguous in the bytes of its shards."""
    arrays = {}
    for group in json.loads((folder / 'model.json').read_bytes())['weightsManifest']:
        data = b''.join((folder / name).read_bytes() for name in group['paths'])
        if any(
            entry['dtype'] != 'float32' or 'quantization' in entry for entry in group['weights']
        ):
            raise ValueError('only float32 is read')
        start = 0
        for entry in group['weights']:
            count = int(np.prod(entry['shape'], dtype=int))
            values = np.frombuffer(data, '<f4', count, start)
            arrays[entry['name']] = values.reshape(entry['shape'])
            start += values.nbytes
        if start != len(data):
            raise ValueError('the shards hold more than the model lists')
    return arrays
