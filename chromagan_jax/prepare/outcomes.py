"""What became of each picture, and the files that hold it while a data set is being prepared."""

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
BUCKETS = [f'{number:02x}' for number in range(256)]  # how digests begin

DIGEST = np.dtype(('>u8', 2))  # 16 bytes, sorted as their hexadecimal digits are
# What is handed on of a picture while the rest of its outcome lies in the staging folder.
TICKET = np.dtype(
    [
        ('digest', DIGEST),
        ('pixels', '<u8'),  # of the original; 0 if it was dropped when it was processed
        ('phash', '<u8'),
        ('file', 'V16'),  # the name as a number
        ('offset', '<u8'),  # of the outcome in the file, where its picture ends
        ('length', '<u4'),
    ]
)


class Outcome(NamedTuple):
    """What became of one picture, and where its JPEG lies: the kept one or a thumbnail."""

    digest: str
    name: str
    category: str
    fate: str  # a split, or the reason for which it was dropped; '' while that is open
    detail: str
    kept: tuple[Any, ...]  # the fields of `Kept` from width to phash; () for what was dropped
    file: str  # in the staging folder; '' if there is no picture
    offset: int
    length: int

    @classmethod
    def of(cls, result: Kept | Dropped, name: str, category: str, file: str, offset: int) -> Any:
        """The outcome of processing one picture, whose JPEG goes to `offset` in `file`."""
        if isinstance(result, Kept):
            kept, image = tuple(result)[1:-1], result.image
            return cls(result.digest, name, category, '', '', kept, file, offset, len(image))
        length = len(result.thumbnail or b'')
        file = file if length else ''
        reasons = (result.reason, result.detail)
        return cls(result.digest, name, category, *reasons, (), file, offset, length)

    def duplicate(self, detail: str) -> 'Outcome':
        """The outcome of the same picture that is dropped, its JPEG as an example."""
        return self._replace(fate='duplicate', detail=detail, kept=())

    def result(self, image: bytes = b'') -> Kept | Dropped:
        """What `pictures.process` returned, or how it was dropped since, with these bytes."""
        if self.fate in ('', *SPLITS):
            return Kept._make((image, *self.kept, self.digest))
        return Dropped(self.fate, self.detail, image or None, self.digest)


def stage(file: BinaryIO, name: str, result: Kept | Dropped, labels: tuple[str, str]) -> bytes:
    """Appends a picture and its outcome to a file; returns its `TICKET`.

    Args:
        file: in the staging folder.
        name: of the file, 32 hexadecimal digits.
        result: of processing the picture.
        labels: name and category of the picture.
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
    """The outcome that a `TICKET` stands for."""
    file = _open(os.path.join(staging, 'pictures', ticket['file'].tobytes().hex()))
    line = os.pread(file.fileno(), int(ticket['length']), int(ticket['offset']))
    return Outcome(*json.loads(line))


def write_plan(staging: str, plan: tuple[str, str], outcomes: Iterable[tuple[Any, ...]]) -> None:
    """Writes the outcomes of one plan file, sorted; a second try replaces the first.

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
    """The outcomes of 'train', 'test' or 'dropped', in the order of their digests."""
    for bucket in buckets:
        path = Path(staging, 'plan', f'{plan}-{bucket}')
        if path.exists():
            with path.open() as file:
                for line in file:
                    yield Outcome(*json.loads(line))


def read_picture(staging: str, outcome: Outcome) -> bytes:
    """The staged JPEG of an outcome; b'' if there is none."""
    if not outcome.file:
        return b''
    file = _open(os.path.join(staging, 'pictures', outcome.file))
    return os.pread(file.fileno(), outcome.length, outcome.offset)


@functools.lru_cache(maxsize=256)  # a pass over the plan reads from all of them in turn
def _open(path: str) -> BinaryIO:
    return open(path, 'rb')


def count_done(staging: str) -> int:
    """How many pictures have been processed."""
    folder = Path(staging, 'done')
    return sum(entry.stat().st_size for entry in os.scandir(folder)) if folder.exists() else 0
