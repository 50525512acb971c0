"""Near-duplicate search in Beam on packed records of a few bytes per image.

A `TICKET` holds the fields for comparisons and the position of the staged `Outcome`. Records with
the same key are concatenated to one byte string. So a runner that shuffles in memory, as Beam's
local runner does, holds little more than these bytes.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import apache_beam as beam
import numpy as np

from chromagan_jax.prepare import pictures
from chromagan_jax.prepare.outcomes import DIGEST, TICKET

BLOCK = 512  # hashes compared at once with all better-ranked ones

_ENTRY = np.dtype([('digest', DIGEST), ('pixels', '<u8'), ('phash', '<u8')])
_MARK = np.dtype([('worse', DIGEST), ('better', DIGEST), ('pixels', '<u8')])  # of the better image


class Concatenate(beam.CombineFn):
    """Concatenates the byte strings of a key, in any order."""

    def create_accumulator(self) -> bytearray:
        return bytearray()

    def add_input(self, accumulator: bytearray, element: bytes) -> bytearray:
        accumulator += element
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[bytes]) -> bytearray:
        return bytearray().join(accumulators)

    def compact(self, accumulator: bytearray) -> bytes:
        return bytes(accumulator)

    def extract_output(self, accumulator: bytearray) -> bytes:
        return bytes(accumulator)


class FindNear(beam.PTransform):
    """Marks, of every two near-duplicates, the image that `pictures.rank` sorts last.

    The outcome of the other image does not matter. So pairs are independent, no two near-duplicates
    remain, and the best image of a group always remains.

    Near hashes share a band, so only images with a common band are compared. Each band is one work
    item with the hashes of all images, which its worker holds in memory. They are no side input,
    because Beam's Dask runner would process all images again for it.

    From tickets to packed `_MARK`s, keyed by the bucket of the better image.
    """

    def __init__(self, distance: int):
        super().__init__()
        self._distance = distance

    def expand(self, tickets: beam.PCollection) -> beam.PCollection:
        numbers = range(self._distance + 1)
        return (
            tickets
            | 'Entries' >> beam.Map(_entry)
            | 'AllEntries' >> beam.CombineGlobally(Concatenate()).without_defaults()
            | 'Bands' >> beam.FlatMap(lambda entries: [(number, entries) for number in numbers])
            | 'SpreadBands' >> beam.Reshuffle()
            | 'Compare' >> beam.FlatMapTuple(partial(_compare, self._distance))
            | 'Marks' >> beam.CombinePerKey(Concatenate())
        )


def _entry(ticket: bytes) -> bytes:
    (one,) = np.frombuffer(ticket, TICKET)
    if not one['pixels']:
        return b''
    return np.array((one['digest'], one['pixels'], one['phash']), _ENTRY).tobytes()


def _compare(distance: int, number: int, packed: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields marks of images with their best near-duplicate in one band.

    Args:
        distance: maximum Hamming distance of near hashes.
        number: index of the band.
        packed: `_ENTRY`s, in any order.
    """
    entries = np.unique(np.frombuffer(packed, _ENTRY))  # equal files have equal entries
    digests = entries['digest']
    # The order of `pictures.rank`: most pixels first, then by digest.
    entries = entries[np.lexsort((digests[:, 1], digests[:, 0], ~entries['pixels']))]
    # Equal hashes, up to mirroring, are marked here, and only the best image of each is compared
    # with others. So many equal images (blank ones, say) stay cheap.
    hashes = np.minimum(entries['phash'], pictures.mirrored(entries['phash']))
    _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    if number == 0:  # equal hashes share all bands: mark them once
        for row in np.flatnonzero(first[group] != np.arange(len(entries))):
            yield _mark(entries[row], entries[first[group[row]]])
    entries = entries[np.sort(first)]
    band = pictures.bands(entries['phash'], distance)[number][1]
    order = np.argsort(band, kind='stable')  # by rank within the band
    for rows in np.split(order, np.flatnonzero(np.diff(band[order])) + 1):
        yield from _compare_ranked(distance, entries[rows])


def _compare_ranked(distance: int, entries: np.ndarray) -> Iterator[tuple[int, bytes]]:
    """Yields marks of the `_ENTRY`s, best first, that are near an earlier one."""
    hashes = entries['phash']
    mirrored = pictures.mirrored(hashes)
    for start in range(0, len(entries), BLOCK):
        block = hashes[start : start + BLOCK, None]
        better = slice(0, start + BLOCK)
        bits = np.minimum(
            np.bitwise_count(block ^ hashes[None, better]),
            np.bitwise_count(block ^ mirrored[None, better]),
        )
        near = np.tril(bits <= distance, start - 1)  # earlier entries only
        for row in np.flatnonzero(near.any(axis=1)):
            yield _mark(entries[start + row], entries[near[row].argmax()])


def _mark(worse: np.void, better: np.void) -> tuple[int, bytes]:
    mark = np.array((worse['digest'], better['digest'], better['pixels']), _MARK).tobytes()
    return mark[16], mark  # key: first byte of the better digest


def better_of(marks: bytes) -> set[bytes]:
    """The digests of the better images in packed `_MARK`s."""
    return {digest.tobytes() for digest in np.frombuffer(marks, _MARK)['better']}


def by_worse(marks: bytes, names: Mapping[bytes, str]) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Yields (worse digest, rank and name of the better image), keyed by the worse one's bucket.

    The name is encoded: Beam cannot pass on a text that is not valid Unicode.

    Args:
        marks: packed `_MARK`s.
        names: of the better images, by digest.
    """
    for one in np.frombuffer(marks, _MARK):
        worse, better = one['worse'].tobytes(), one['better'].tobytes()
        yield worse[0], (worse, -int(one['pixels']), better, os.fsencode(names[better]))
