"""What a run writes: metrics.jsonl, TensorBoard events, sample grids, versions.

Of several processes only one may write a file: the caller decides which.
"""

import importlib.metadata
import json
import math
import platform
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from PIL import Image, ImageDraw, ImageFont

from chromagan_jax.errors import UserError
from chromagan_jax.utils import files

_PACKAGES = (
    *('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy'),
    *('opencv-python-headless', 'pillow', 'simplejpeg'),
)
_GRID_HEIGHT = 4  # photographs above one another before a grid grows sideways
_MARGIN = 8  # px between the pictures of a grid


class Metrics:
    """Scalars as one JSON object a line, and as TensorBoard events where tensorboardX is at hand.

    The events lie in the folder tensorboard/NAME beside NAME.jsonl: TensorBoard follows one file
    at a time in a folder, so that two jobs must not share one.
    """

    def __init__(self, path: Path, start_step: int = 0):
        """Goes on with the file at `path`, if any, after `start_step`.

        Lines of later steps are dropped, for the run is about to write them again, and so is a
        last line that a kill cut short.

        Raises:
            UserError: if another line is not one of ours, or the file cannot be written.
        """
        self._path = Path(path)
        kept = _lines_up_to(self._path, start_step) if self._path.exists() else b''
        files.write_atomically(self._path, kept)
        self._events = _open_events(self._path.parent / 'tensorboard' / self._path.stem, start_step)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends {'step': step, **scalars}, on disk at once; what is not finite becomes null."""
        values = {name: float(value) for name, value in scalars.items()}
        finite = {name: v if math.isfinite(v) else None for name, v in values.items()}
        line = json.dumps({'step': int(step), **finite}, allow_nan=False) + '\n'
        files.append(self._path, line.encode())
        if self._events is not None:
            entries = [{'tag': name, 'simple_value': value} for name, value in values.items()]
            self._events.write(step=step, summary={'value': entries})

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Hands a picture, (H, W, 3) uint8, to TensorBoard; without tensorboardX does nothing."""
        if self._events is not None:
            height, width, channels = image.shape
            size = {'height': height, 'width': width, 'colorspace': channels}  # 3 is RGB
            picture = {**size, 'encoded_image_string': files.encode_png(image)}
            self._events.write(step=step, summary={'value': [{'tag': name, 'image': picture}]})


class _Events:
    """A TensorBoard event file in tensorboardX's formats, written without its SummaryWriter.

    When SummaryWriter's thread dies (of a full disk, say) its queue fills and the run hangs, and
    what it has not flushed is lost with a kill. Here an event is written at once, or an error.
    """

    def __init__(self, folder: Path, start_step: int):
        from tensorboardX.proto import event_pb2
        from tensorboardX.record_writer import masked_crc32c

        self._event, self._checksum = event_pb2.Event, masked_crc32c
        name = f'events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{start_step}'
        self._path = folder / name
        with files.writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self.write(file_version='brain.Event:2')
        # TensorBoard hides what older files hold from this step on.
        self.write(step=start_step + 1, session_log={'status': event_pb2.SessionLog.START})

    def write(self, **fields: Any) -> None:
        """Appends one event as a TFRecord: length, its checksum, the event, its checksum."""
        event = self._event(wall_time=time.time(), **fields).SerializeToString()
        length = struct.pack('<Q', len(event))
        checksums = [struct.pack('<I', self._checksum(part)) for part in (length, event)]
        files.append(self._path, length + checksums[0] + event + checksums[1])


def sample_grid(rows: Sequence[Sequence[np.ndarray]], labels: Sequence[str]) -> np.ndarray:
    """Pictures side by side under their labels, on white.

    Args:
        rows: one entry a photograph: its pictures, one a label (gray, colorized, original), each
            (H, W, 3), uint8 or float in [0, 1]. They are not scaled; smaller ones are centred.
        labels: what stands above each column.

    Returns:
        (H, W, 3) uint8, photographs top to bottom and then left to right, four in a column or,
        when there are many, spread over as many columns as that takes.
    """
    if not rows or any(len(row) != len(labels) for row in rows):
        raise ValueError(f'A grid needs rows of {len(labels)} pictures: {[len(r) for r in rows]}.')
    pictures = [[_to_uint8(image) for image in row] for row in rows]
    height = max(image.shape[0] for row in pictures for image in row)
    width = max(image.shape[1] for row in pictures for image in row)
    across = math.ceil(len(rows) / _GRID_HEIGHT)
    down = math.ceil(len(rows) / across)

    size = min(max(width // 10, 11), 28)
    font = ImageFont.load_default(size=size)
    width = max(width, *(math.ceil(font.getlength(label)) for label in labels))
    top = _MARGIN + round(1.5 * size)
    block = len(labels) * (width + _MARGIN) + 2 * _MARGIN  # one photograph and the gap after it

    canvas = Image.new('RGB', (across * block - _MARGIN, top + down * (height + _MARGIN)), 'white')
    draw = ImageDraw.Draw(canvas)
    for index, row in enumerate(pictures):
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
    """What a result may depend on: Python, platform, packages, and the devices that JAX sees."""
    found = {'python': platform.python_version(), 'platform': platform.platform()}
    for package in ('chromagan_jax', *_PACKAGES):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # run from a source tree
            found[package] = 'not installed'
    devices = {'device': jax.devices()[0].device_kind, 'device_count': str(jax.device_count())}
    return found | devices


def _open_events(folder: Path, start_step: int) -> _Events | None:
    try:
        return _Events(folder, start_step)
    except ImportError as error:
        logging.info('No TensorBoard events: install chromagan_jax[tensorboard] (%s).', error)
        return None


def _lines_up_to(path: Path, step: int) -> bytes:
    """The lines of a metrics file up to `step`, each ended; a cut last line is left out."""
    lines = path.read_bytes().splitlines()
    kept = []
    for number, line in enumerate(lines, start=1):
        try:
            keep = json.loads(line)['step'] <= step
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines):
                logging.info('The last line of %s was cut short and is left out.', path)
                break
            raise UserError(
                f'{path} has a line {number} that this program did not write: '
                'mend it or move the file away.'
            ) from error
        if keep:
            kept.append(line + b'\n')
    return b''.join(kept)


def _to_uint8(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    if image.dtype == np.uint8:
        return image
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8)
