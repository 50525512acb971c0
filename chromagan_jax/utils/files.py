"""Writing files whole: a kill leaves the old file or the new one, a full disk a sentence.

A failed write (no space, no permission) raises UserError.
"""

import contextlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from chromagan_jax.errors import UserError


def write_png(path: Path, image: np.ndarray) -> None:
    """Writes `image`, (H, W, 3) uint8, as a PNG file: all of it or nothing."""
    write_atomically(Path(path), encode_png(image))


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON in its own order: all of it or nothing.

    Raises:
        ValueError: for NaN or infinity, which JSON does not have.
    """
    text = json.dumps(value, indent=2, allow_nan=False) + '\n'
    write_atomically(Path(path), text.encode())


def encode_png(image: np.ndarray) -> bytes:
    """`image`, (H, W, 3) uint8, as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format='PNG')
    return buffer.getvalue()


def append(path: Path, content: bytes) -> None:
    """Opens the file anew: after a failed write no buffer is left to fail again at exit."""
    with writing(path), path.open('ab') as file:
        file.write(content)


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces the file at `path`; a kill leaves the old one or the new one."""
    temporary = path.with_name(f'.{path.name}.tmp')
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open('wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns a failure of the file system into the sentence that the user needs."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f'{path} cannot be written ({error.strerror or error}): '
            'make room or permission there, or choose another folder.'
        ) from error
