"""Writers of metrics.jsonl and TensorBoard events, sample grids, and package versions.

Only one process may write a file. The caller decides which one.
"""

import contextlib
import functools
import importlib.metadata
import json
import math
import platform
import socket
import struct
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from PIL import Image, ImageDraw, ImageFont

from chromagan_jax.errors import UserError
from chromagan_jax.utils import files, paths

_PACKAGES = (
    *('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy'),
    *('opencv-python-headless', 'pillow', 'simplejpeg'),
)
_LARGEST_EVENTS = 2**23  # bytes of an event file in a bucket before the next one is begun
_GRID_HEIGHT = 4  # rows of a grid before it gets another block of columns
_MARGIN = 8  # px between the images of a grid


class Metrics:
    """Writes scalars as JSON lines, and as TensorBoard events if tensorboardX is installed.

    The events of NAME.jsonl are in tensorboard/NAME. Each job needs its own folder, because
    TensorBoard follows only one file per folder.
    """

    def __init__(self, path: Path, start_step: int = 0):
        """Opens the file at `path` to append the steps after `start_step`.

        Lines of later steps are removed, because the run writes them again. An incomplete last
        line is removed too.

        Raises:
            UserError: if another line is invalid, or the file cannot be written.
        """
        self._file = files.GrowingFile(path, _lines_up_to(path, start_step))
        self._folder, self._start_step = path.parent / 'tensorboard' / path.stem, start_step

    @functools.cached_property
    def _events(self) -> '_Events | None':
        """Opened by the first write: the first step does not wait for tensorboardX's import."""
        try:
            return _Events(self._folder, self._start_step)
        except ImportError as error:
            logging.info('No TensorBoard events: install chromagan_jax[tensorboard] (%s).', error)
            return None

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends {'step': step, **scalars}; values that are not finite become null.

        A local file gets the line at once, a bucket by `flush` at the latest.
        """
        values = {name: float(value) for name, value in scalars.items()}
        finite = {name: v if math.isfinite(v) else None for name, v in values.items()}
        line = json.dumps({'step': int(step), **finite}, allow_nan=False) + '\n'
        self._file.append(line.encode())
        if self._events is not None:
            entries = [{'tag': name, 'simple_value': value} for name, value in values.items()]
            self._events.write(step=step, summary={'value': entries})

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Writes an image, (H, W, 3) uint8, to TensorBoard; does nothing without tensorboardX."""
        if self._events is not None:
            height, width, channels = image.shape
            size = {'height': height, 'width': width, 'colorspace': channels}  # 3 is RGB
            encoded = {**size, 'encoded_image_string': files.encode_png(image)}
            self._events.write(step=step, summary={'value': [{'tag': name, 'image': encoded}]})

    def flush(self) -> None:
        """Writes the lines and events that a bucket lacks."""
        self._file.flush()
        if self._events is not None:
            self._events.flush()


class _Events:
    """A TensorBoard event file, written without tensorboardX's SummaryWriter.

    If SummaryWriter's thread dies, for example on a full disk, its queue fills and the run hangs.
    Unflushed events are lost if the run is killed. This class writes each event at once or raises.
    """

    def __init__(self, folder: Path, start_step: int):
        with _without_torch():
            from tensorboardX.proto import event_pb2
            from tensorboardX.record_writer import masked_crc32c

        self._event, self._checksum = event_pb2.Event, masked_crc32c
        self._folder, self._start_step = folder, start_step
        self._open()
        # TensorBoard then hides the events of older files from this step on.
        self.write(step=start_step + 1, session_log={'status': event_pb2.SessionLog.START})

    def _open(self) -> None:
        # TensorBoard reads files in the order of their names.
        moment = f'{time.time():.6f}'
        name = f'events.out.tfevents.{moment}.{socket.gethostname()}.{self._start_step}'
        self._file = files.GrowingFile(self._folder / name)
        self.write(file_version='brain.Event:2')

    def write(self, **fields: Any) -> None:
        """Appends one event as a TFRecord: length, CRC of the length, event, CRC of the event."""
        event = self._event(wall_time=time.time(), **fields).SerializeToString()
        length = struct.pack('<Q', len(event))
        checksums = [struct.pack('<I', self._checksum(part)) for part in (length, event)]
        self._file.append(length + checksums[0] + event + checksums[1])
        if len(self._file) > _LARGEST_EVENTS:
            self.flush()
            self._open()

    def flush(self) -> None:
        """Writes the events that a bucket lacks."""
        self._file.flush()


def sample_grid(rows: Sequence[Sequence[np.ndarray]], labels: Sequence[str]) -> np.ndarray:
    """A labelled grid of images on a white background.

    Args:
        rows: for each photograph one image per label, (H, W, 3) uint8 or float in [0, 1]. Images
            are not resized; smaller ones are centred.
        labels: column headings.

    Returns:
        (H, W, 3) uint8. A block of columns holds up to four photographs; more photographs add
        blocks to the right.

    Raises:
        ValueError: if there are no rows, or a row has not one image per label.
    """
    if not rows or any(len(row) != len(labels) for row in rows):
        raise ValueError(
            f'A grid needs rows of {len(labels)} images, not {[len(row) for row in rows]}.'
        )
    images = [[_to_uint8(image) for image in row] for row in rows]
    height = max(image.shape[0] for row in images for image in row)
    width = max(image.shape[1] for row in images for image in row)
    across = math.ceil(len(rows) / _GRID_HEIGHT)
    down = math.ceil(len(rows) / across)

    size = min(max(width // 10, 11), 28)
    font = ImageFont.load_default(size=size)
    width = max(width, *(math.ceil(font.getlength(label)) for label in labels))
    top = _MARGIN + round(1.5 * size)
    block = len(labels) * (width + _MARGIN) + 2 * _MARGIN  # px of one block and the gap after it

    canvas = Image.new('RGB', (across * block - _MARGIN, top + down * (height + _MARGIN)), 'white')
    draw = ImageDraw.Draw(canvas)
    for index, row in enumerate(images):
        y = top + index % down * (height + _MARGIN)
        for column, image in enumerate(row):
            x = _MARGIN + index // down * block + column * (width + _MARGIN)
            if index % down == 0:
                middle = (x + width / 2, (_MARGIN + top) / 2)
                draw.text(middle, labels[column], fill=(60, 60, 60), font=font, anchor='mm')
            offset = (width - image.shape[1]) // 2, (height - image.shape[0]) // 2
            canvas.paste(Image.fromarray(image), (x + offset[0], y + offset[1]))
    return np.asarray(canvas)


def versions() -> dict[str, str]:
    """Versions of Python, platform and packages, and the devices of JAX."""
    found = {'python': platform.python_version(), 'platform': platform.platform()}
    for package in ('chromagan_jax', *_PACKAGES):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # run from a source tree
            found[package] = 'not installed'
    devices = {'device': jax.devices()[0].device_kind, 'device_count': str(jax.device_count())}
    return found | devices


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """Imports inside do not find PyTorch, which tensorboardX else imports, in 1.5 s."""
    if 'torch' in sys.modules:
        yield
        return
    sys.modules['torch'] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules['torch']


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; [] without one. An incomplete last line is left out.

    Raises:
        UserError: if another line is invalid.
    """
    return [values for _, values in _parsed(path)]


def _lines_up_to(path: Path, step: int) -> bytes:
    """The lines of a metrics file, if there is one, up to `step`; no incomplete last line."""
    return b''.join(line + b'\n' for line, values in _parsed(path) if values['step'] <= step)


def _parsed(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """The complete lines of a metrics file and their content; each has a step."""
    lines = (paths.read(path) or b'').splitlines()
    valid = []
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line)
            int(values['step'])
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines):
                logging.info('The last line of %s is incomplete and is left out.', path)
                break
            raise UserError(
                f'Line {number} of {path} is not valid: fix it, or move the file away.'
            ) from error
        valid.append((line, values))
    return valid


def _to_uint8(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    if image.dtype == np.uint8:
        return image
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8)
