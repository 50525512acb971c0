"""Paths, and atomic file writes. A failed write (no space, no permission) raises UserError."""

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


def expand(path: str | Path) -> Path:
    """A path, with a leading `~` replaced by the home folder; raises UserError without one."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(
            f'{path} cannot be found ({error}): write the whole path, without ~.'
        ) from error


def write_png(path: Path, image: np.ndarray) -> None:
    """Writes `image`, (H, W, 3) uint8, atomically as a PNG file."""
    write_atomically(Path(path), encode_png(image))


def write_json(path: Path, value: Any) -> None:
    """Writes `value` atomically as indented JSON; keys are not sorted.

    Raises:
        ValueError: for NaN or infinity, which JSON cannot represent.
    """
    text = json.dumps(value, indent=2, allow_nan=False) + '\n'
    write_atomically(Path(path), text.encode())


def encode_png(image: np.ndarray) -> bytes:
    """Encodes `image`, (H, W, 3) uint8, as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format='PNG')
    return buffer.getvalue()


def append(path: Path, content: bytes) -> None:
    """Appends bytes to a file."""
    # Reopened each time, so that no buffer of a failed write is flushed again at exit.
    with writing(path), path.open('ab') as file:
        file.write(content)


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces the file at `path`; an interruption leaves the complete old or new file."""
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
    """Raises UserError for a file-system error while writing `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f'{path} cannot be written ({error.strerror or error}): '
            'free disk space, fix its permissions, or choose another folder.'
        ) from error
