"""The outcome of each image, and the staging files that store it during preparation."""

import functools
import json
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from chromagan_jax.prepare.pictures import Dropped, Kept
from chromagan_jax.utils import files

SPLITS = ('train', 'test')
BUCKETS = [f'{number:02x}' for number in range(256)]  # first byte of digests, hexadecimal

DIGEST = np.dtype(('>u8', 2))  # 16 bytes; sorts like the hexadecimal digits
# The part of an outcome that Beam passes on; the rest is in the staging folder.
TICKET = np.dtype(
    [
        ('digest', DIGEST),
        ('pixels', '<u8'),  # of the original; 0 if processing dropped the image
        ('phash', '<u8'),
        ('file', 'V16'),  # the 32 hexadecimal digits of the file name
        ('offset', '<u8'),  # of the outcome in the file, right after its JPEG
        ('length', '<u4'),
    ]
)


class Outcome(NamedTuple):
    """The outcome of one image, and the position of its JPEG: the kept image or a thumbnail."""

    digest: str
    name: str
    category: str
    decision: str  # a split, or the reason for dropping it; '' while undecided
    detail: str
    kept: tuple[Any, ...]  # the fields of `Kept` from width to phash; () if dropped
    file: str  # in the staging folder; '' without a JPEG
    offset: int
    length: int

    @classmethod
    def of(cls, result: Kept | Dropped, name: str, category: str, file: str, offset: int) -> Any:
        """The outcome of processing one image, with its JPEG at `offset` in `file`."""
        if isinstance(result, Kept):
            kept, image = tuple(result)[1:-1], result.image
            return cls(result.digest, name, category, '', '', kept, file, offset, len(image))
        length = len(result.thumbnail or b'')
        file = file if length else ''
        reasons = (result.reason, result.detail)
        return cls(result.digest, name, category, *reasons, (), file, offset, length)

    def duplicate(self, detail: str) -> 'Outcome':
        """The outcome of the image as a dropped duplicate; its JPEG serves as the example."""
        return self._replace(decision='duplicate', detail=detail, kept=())

    def result(self, image: bytes = b'') -> Kept | Dropped:
        """The result of `pictures.process` with the JPEG `image`, or `Dropped` if dropped later."""
        if self.decision in ('', *SPLITS):
            return Kept._make((image, *self.kept, self.digest))
        return Dropped(self.decision, self.detail, image or None, self.digest)


def stage(file: BinaryIO, name: str, result: Kept | Dropped, labels: tuple[str, str]) -> bytes:
    """Appends an image and its outcome to a file; returns its `TICKET`.

    Args:
        file: in the staging folder.
        name: of the file, 32 hexadecimal digits.
        result: of processing the image.
        labels: name and category of the image.
    """
    outcome = Outcome.of(result, *labels, name, file.tell())
    image = result.image if isinstance(result, Kept) else result.thumbnail
    line = json.dumps(outcome).encode()
    file.write((image or b'') + line)
    pixels, phash = 0, 0
    if isinstance(result, Kept):
        pixels, phash = result.width * result.height, result.phash
    digest = tuple(np.frombuffer(bytes.fromhex(result.digest), '>u8'))
    place = bytes.fromhex(name), outcome.offset + outcome.length, len(line)
    return np.array((digest, pixels, phash, *place), TICKET).tobytes()


def read_staged(staging: str, ticket: np.void) -> Outcome:
    """Reads the outcome that a `TICKET` points to."""
    file = _open(os.path.join(staging, 'pictures', ticket['file'].tobytes().hex()))
    line = os.pread(file.fileno(), int(ticket['length']), int(ticket['offset']))
    return Outcome(*json.loads(line))


def write_plan(staging: str, plan: tuple[str, str], outcomes: Iterable[tuple[Any, ...]]) -> None:
    """Writes the outcomes of one plan file, sorted; a retry replaces the file.

    Args:
        staging: the folder.
        plan: 'train', 'test' or 'dropped', and one of `BUCKETS`.
        outcomes: fields of `Outcome`.
    """
    lines = sorted(json.dumps(outcome) for outcome in outcomes)
    path = Path(staging, 'plan', '-'.join(plan))
    temporary = path.with_name(uuid.uuid4().hex)
    with files.writing(path):
        temporary.write_text('\n'.join(lines) + '\n')
        temporary.replace(path)


def read_plan(staging: str, plan: str, buckets: Iterable[str] = BUCKETS) -> Iterator[Outcome]:
    """Yields the outcomes of 'train', 'test' or 'dropped', sorted by digest."""
    for bucket in buckets:
        path = Path(staging, 'plan', f'{plan}-{bucket}')
        if path.exists():
            with path.open() as file:
                for line in file:
                    yield Outcome(*json.loads(line))


def read_picture(staging: str, outcome: Outcome) -> bytes:
    """Reads the staged JPEG of an outcome; b'' without one."""
    if not outcome.file:
        return b''
    file = _open(os.path.join(staging, 'pictures', outcome.file))
    return os.pread(file.fileno(), outcome.length, outcome.offset)


@functools.lru_cache(maxsize=256)  # a pass over the plan alternates between all files
def _open(path: str) -> BinaryIO:
    return open(path, 'rb')


def count_done(staging: str) -> int:
    """The number of processed images."""
    folder = Path(staging, 'done')
    return sum(entry.stat().st_size for entry in os.scandir(folder)) if folder.exists() else 0
