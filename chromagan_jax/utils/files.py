"""Atomic file writes. A failed write (no space, no permission) raises UserError.

An object in a bucket appears whole or not at all, so a write there needs no temporary file.
"""

import contextlib
import io
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from chromagan_jax.errors import UserError, is_outage
from chromagan_jax.utils import paths

REWRITE = 30  # s between writes of a growing file in a bucket


def write_png(path: Path, image: np.ndarray, part: str = 'tmp') -> None:
    """Writes `image`, (H, W, 3) uint8, as a PNG file with `write_atomically`."""
    write_atomically(path, encode_png(image), part)


def write_json(path: Path, value: Any, part: str = 'tmp') -> None:
    """Writes `value` as indented JSON with `write_atomically`; keys are not sorted.

    Raises:
        ValueError: for NaN or infinity, which JSON cannot represent.
    """
    text = json.dumps(value, indent=2, allow_nan=False) + '\n'
    write_atomically(path, text.encode(), part)


def encode_png(image: np.ndarray) -> bytes:
    """Encodes `image`, (H, W, 3) uint8, as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format='PNG')
    return buffer.getvalue()


def append(path: Path, content: bytes) -> None:
    """Appends bytes to a local file."""
    # Reopened each time, so that no buffer of a failed write is flushed again at exit.
    with writing(path), path.open('ab') as file:
        file.write(content)


class GrowingFile:
    """A file that is appended to.

    A local file gets each piece at once. An object in a bucket cannot grow: it is written whole,
    every `REWRITE` seconds and by `flush`.
    """

    def __init__(self, path: Path, content: bytes = b''):
        """Starts the file with `content`, in place of an earlier one."""
        self._path, self._in_bucket = path, paths.is_bucket(path)
        self._content = bytearray(content if self._in_bucket else b'')
        self._unwritten, self._written = False, time.monotonic()
        write_atomically(path, content)

    def append(self, content: bytes) -> None:
        """Appends bytes."""
        if not self._in_bucket:
            append(self._path, content)
            return
        self._content += content
        self._unwritten = True
        if time.monotonic() - self._written >= REWRITE:
            try:
                self.flush()
            except Exception as error:
                if not is_outage(error):
                    raise
                self._written = time.monotonic()  # tried again later: nothing is lost yet

    def flush(self) -> None:
        """Writes what a bucket lacks."""
        if self._unwritten:
            write_atomically(self._path, bytes(self._content))
            self._unwritten, self._written = False, time.monotonic()

    def __len__(self) -> int:
        """Bytes that each write to a bucket sends; 0 for a local file."""
        return len(self._content)


def write_atomically(path: Path, content: bytes, part: str = 'tmp') -> None:
    """Replaces the file at `path`; an interruption leaves the complete old or new file.

    Processes that may write a file at the same time use different `part`s of a temporary name.
    """
    if paths.is_bucket(path):
        with writing(path):
            path.write_bytes(content)
        return
    temporary = path.with_name(f'.{path.name}.{part}')
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open('wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises UserError for a file-system error while writing `path`, or if a bucket refuses it."""
    try:
        with paths.access(path, 'written'):
            yield
    except OSError as error:
        if is_outage(error):
            raise
        if paths.is_bucket(path):
            raise UserError(f'{path} cannot be written ({error}): create its bucket.') from error
        raise UserError(
            f'{path} cannot be written ({error.strerror or error}): '
            'free disk space, fix its permissions, or choose another folder.'
        ) from error
