"""Crops of records for training and evaluation, and the handling of unreadable records."""

import dataclasses
import hashlib
from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np

from chromagan_jax.data.decode import KINDS, UnreadableImage, crop_square, decode, resize
from chromagan_jax.data.sources import Source
from chromagan_jax.errors import UserError, is_outage

ATTEMPTS = 16  # records tried in place of one that cannot be read


def draw(index: int, rng: np.random.Generator) -> tuple[int, np.ndarray]:
    """A record's index and four numbers in [0, 1): crop position y, x, flip, and scale."""
    return int(index), rng.random(4)


@dataclasses.dataclass(frozen=True)
class TrainCrop:
    """Maps a result of `draw` to an augmented crop, (size, size, 3) uint8, and its metadata."""

    source: Source
    size: int
    resize_ratios: tuple[float, float]  # limits of: short side before the crop / size
    flip: bool
    labels: bool

    def __call__(self, drawn: tuple[int, np.ndarray]) -> tuple[np.ndarray, dict[str, Any]]:
        index, (y, x, mirror, scale) = drawn
        load = self._load_size(scale)
        image, label, unreadable, damage = self._read(index, load)
        # Cropping before resizing is equivalent, and resizes no pixels outside the crop.
        side = min(image.shape[:2])
        crop = crop_square(image, max(1, round(side * self.size / load)), y, x)
        crop = resize(crop, self.size, self.size)
        if self.flip and mirror < 0.5:
            crop = cv2.flip(crop, 1)
        metadata = {'unreadable': np.int64(unreadable), 'damage': np.int32(damage)}
        return crop, metadata | {'label': np.int32(label)} if self.labels else metadata

    def _load_size(self, scale: float) -> int:
        """Short side before the crop, px. The crop's share of that side is uniform in `scale`."""
        low, high = self.resize_ratios
        ratio = low if low == high else 1 / (1 / high + scale * (1 / low - 1 / high))
        return round(self.size * ratio)

    def _read(self, index: int, load: int) -> tuple[np.ndarray, int, int, int]:
        """Pixels, label, `index` if another record replaced it (else -1), and 1 + kind (else 0)."""
        try:
            return *read_image(self.source, index, load), -1, 0
        except UnreadableImage as error:  # goes into the batch; the main process reports it
            damage = 1 + KINDS.index(error.kind)
        for attempt in range(ATTEMPTS):
            other = substitute(index, attempt, len(self.source))
            try:
                return *read_image(self.source, other, load), index, damage
            except UnreadableImage as error:
                reason = error
        raise UserError(
            f'{self.source.name(index)} in {self.source.location} and {ATTEMPTS} substitutes '
            f'cannot be read ({reason}): check that the source still exists and holds images.'
        ) from reason


@dataclasses.dataclass(frozen=True)
class EvalCrop:
    """Maps a position to a centre crop, or None past the end and for unreadable records."""

    source: Source
    size: int

    def __call__(self, position: int) -> tuple[np.ndarray | None, dict[str, Any]]:
        index, unreadable, crop = int(position), -1, None
        if index >= len(self.source):
            index = -1
        else:
            try:
                image, _ = read_image(self.source, index, self.size)
                crop = resize(crop_square(image, min(image.shape[:2])), self.size, self.size)
            except UnreadableImage:  # reported by the main process, as in training
                unreadable = index
        return crop, {
            'unreadable': np.int64(unreadable),
            'mask': np.float32(crop is not None),
            'index': np.int64(index),
        }


def report_unreadable(
    source: Source, indices: Iterable[int], seen: set[int], outcome: str = 'is replaced'
) -> list[str]:
    """Describes each unreadable record not seen before, in one sentence.

    Args:
        source: the source of the batches.
        indices: 'unreadable' of the batches; -1 is ignored.
        seen: indices reported before; new ones are added in place.
        outcome: what happens to the record, for the sentence.
    """
    sentences = []
    for index in sorted({int(index) for index in indices} - seen - {-1}):
        seen.add(index)
        try:
            read_image(source, index)
            reason = 'it could be read later'
        except UnreadableImage as error:
            reason = str(error)
        sentences.append(f'{source.name(index)} cannot be read ({reason}) and {outcome}')
    return sentences


def read_image(source: Source, index: int, min_side: int = 0) -> tuple[np.ndarray, int]:
    """Reads and decodes record `index`: ((H, W, 3) uint8 sRGB, label).

    Raises:
        UnreadableImage: the file cannot be read or is not a complete image.
        OSError: a bucket does not answer; another photograph must not take the place of this one.
    """
    try:
        record = source[index]
    except OSError as error:
        if is_outage(error):
            raise
        raise UnreadableImage(error.strerror or str(error), 'no_file') from error
    return decode(record['image'], min_side), record['label']


def substitute(index: int, attempt: int, count: int) -> int:
    """The record to try as number `attempt` in place of record `index` of `count`.

    It is a hash of index and attempt, so all processes and runs agree, and neighbouring damaged
    records get different substitutes.
    """
    digest = hashlib.blake2b(f'{index} {attempt}'.encode(), digest_size=8).digest()
    return int.from_bytes(digest, 'little') % count
