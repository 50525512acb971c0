"""Finding duplicates in Beam: what the transforms hand on is packed, a few bytes a picture.

A `TICKET` says what comparing needs and where the rest of an `Outcome` is staged. What goes to one
place is joined to one string of bytes as early as a runner can: one that keeps shuffles in memory,
as Beam's local runner does, then holds little more than these are long.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.pvalue import AsSingleton

from chromagan_jax.prepare import pictures
from chromagan_jax.prepare.outcomes import DIGEST, TICKET

BLOCK = 512  # hashes that are compared with all better ones at once

_ENTRY = np.dtype([('digest', DIGEST), ('pixels', '<u8'), ('phash', '<u8')])
_MARK = np.dtype([('worse', DIGEST), ('better', DIGEST), ('pixels', '<u8')])  # of the better one


class Concatenate(beam.CombineFn):
    """Strings of bytes of one key as one, in any order."""

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
    """Of two near-duplicates the one that `pictures.rank` puts last is marked.

    It is, whatever becomes of the other: so no two near-duplicates are left, the first of a group
    always is, and each pair is judged by itself. (A rule that looked at what was decided of others
    would have to take the pictures one after another.)

    Near hashes share one of their bands, so only pictures with a band in common are compared. The
    hashes of all pictures, 32 bytes each, are a side input of that: every worker that takes a band
    has them in memory, but no shuffle holds them once a band.

    From tickets to packed `_MARK`s, by the bucket of the better picture.
    """

    def __init__(self, distance: int):
        super().__init__()
        self._distance = distance

    def expand(self, tickets: beam.PCollection) -> beam.PCollection:
        entries = (
            tickets
            | 'Entries' >> beam.Map(_entry)
            | 'AllEntries' >> beam.CombineGlobally(Concatenate())
        )
        return (
            tickets.pipeline
            | 'Bands' >> beam.Create(range(self._distance + 1))
            | 'Compare' >> beam.FlatMap(_compare, AsSingleton(entries), self._distance)
            | 'Marks' >> beam.CombinePerKey(Concatenate())
        )


def _entry(ticket: bytes) -> bytes:
    (one,) = np.frombuffer(ticket, TICKET)
    if not one['pixels']:
        return b''
    return np.array((one['digest'], one['pixels'], one['phash']), _ENTRY).tobytes()


def _compare(number: int, packed: bytes, distance: int) -> Iterator[tuple[int, bytes]]:
    """Marks of pictures with the best near-duplicate of each that shares a band with it.

    Args:
        number: of the band.
        packed: `_ENTRY`s, in any order.
        distance: bits in which near hashes differ at most.
    """
    entries = np.unique(np.frombuffer(packed, _ENTRY))  # equal files have equal entries
    digests = entries['digest']
    # As `pictures.rank` sorts: by pixels, most of them first, then by digest.
    entries = entries[np.lexsort((digests[:, 1], digests[:, 0], ~entries['pixels']))]
    # A picture and its mirror image are alike. Of a heap of, say, blank pictures, all alike, one
    # is compared with the others.
    hashes = np.minimum(entries['phash'], pictures.mirrored(entries['phash']))
    _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    if number == 0:  # they share all bands: one is enough to tell
        for row in np.flatnonzero(first[group] != np.arange(len(entries))):
            yield _mark(entries[row], entries[first[group[row]]])
    entries = entries[np.sort(first)]
    band = pictures.bands(entries['phash'], distance)[number][1]
    order = np.argsort(band, kind='stable')  # by rank within the band
    for rows in np.split(order, np.flatnonzero(np.diff(band[order])) + 1):
        yield from _compare_ranked(distance, entries[rows])


def _compare_ranked(distance: int, entries: np.ndarray) -> Iterator[tuple[int, bytes]]:
    """Marks of those of `_ENTRY`s, the best first, that are near one before them."""
    hashes = entries['phash']
    turned = pictures.mirrored(hashes)
    for start in range(0, len(entries), BLOCK):
        block = hashes[start : start + BLOCK, None]
        better = slice(0, start + BLOCK)
        bits = np.minimum(
            np.bitwise_count(block ^ hashes[None, better]),
            np.bitwise_count(block ^ turned[None, better]),
        )
        near = np.tril(bits <= distance, start - 1)  # only with those before it
        for row in np.flatnonzero(near.any(axis=1)):
            yield _mark(entries[start + row], entries[near[row].argmax()])


def _mark(worse: np.void, better: np.void) -> tuple[int, bytes]:
    mark = np.array((worse['digest'], better['digest'], better['pixels']), _MARK).tobytes()
    return mark[16], mark  # the first byte of the better one's digest


def better_of(marks: bytes) -> set[bytes]:
    """The digests of the better pictures in packed `_MARK`s."""
    return {digest.tobytes() for digest in np.frombuffer(marks, _MARK)['better']}


def by_worse(marks: bytes, names: Mapping[bytes, str]) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Digest of the worse picture, rank and name of the better, by the bucket of the worse.

    Args:
        marks: packed `_MARK`s.
        names: of the better pictures, by digest.
    """
    for one in np.frombuffer(marks, _MARK):
        worse, better = one['worse'].tobytes(), one['better'].tobytes()
        yield worse[0], (worse, -int(one['pixels']), better, names[better])
