"""What became of each picture, and the files that hold it while a data set is being prepared."""

import functools
import json
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from chromagan_jax import files
from chromagan_jax.prepare.pictures import Dropped, Kept

SPLITS = ('train', 'test')
BUCKETS = [f'{number:02x}' for number in range(256)]  # how digests begin


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

    def result(self, image: bytes = b'') -> Kept | Dropped:
        """What `pictures.process` returned, or how it was dropped since, with these bytes."""
        if self.fate in ('', *SPLITS):
            return Kept._make((image, *self.kept, self.digest))
        return Dropped(self.fate, self.detail, image or None, self.digest)


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


def plan_of(outcome: Outcome) -> tuple[str, str]:
    """The plan file that it belongs to."""
    return outcome.fate if outcome.fate in SPLITS else 'dropped', outcome.digest[:2]


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
