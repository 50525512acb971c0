"""Dropping duplicates in Beam: transforms of collections of the fields of `Outcome`."""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np

from chromagan_jax.prepare import pictures
from chromagan_jax.prepare.outcomes import Outcome

BLOCK = 512  # hashes that are compared with all better ones at once

Fields = tuple[Any, ...]  # of an Outcome: Beam encodes plain tuples compactly
Hashed = tuple[int, tuple[Any, str, str]]  # hash, (rank, digest, name)


class DropEqual(beam.PTransform):
    """Of equal files the first by name stays, the others are marked as duplicates."""

    def expand(self, kept: beam.PCollection) -> beam.PCollection:
        return (
            kept
            | 'ByDigest' >> beam.Map(lambda fields: (fields[0], fields))
            | 'EqualFiles' >> beam.GroupByKey()
            | 'FirstOfEqual' >> beam.FlatMapTuple(_first_of_equal)
        )


def _first_of_equal(_: str, group: Iterable[Fields]) -> Iterator[Fields]:
    first = min(group)  # by name, for the digest is the same
    taken = False
    for fields in group:
        if fields == first and not taken:
            taken = True
            yield fields
        else:
            yield _duplicate(fields, f'the same file as {first[1]}')


def _duplicate(fields: Fields, detail: str) -> Fields:
    return tuple(Outcome(*fields)._replace(fate='duplicate', detail=detail, kept=()))


class DropNear(beam.PTransform):
    """Of two near-duplicates the one that `pictures.rank` puts last is marked.

    It is, whatever becomes of the other: so no two near-duplicates are left, the first of a group
    always is, and each pair is judged by itself. (A rule that looked at what was decided of others
    would have to take the pictures one after another.)

    Near hashes share one of their bands, so only pictures with a band in common are compared.
    Equal hashes are thinned out first: of a heap of, say, blank pictures, all alike, one is left
    when bands are compared.
    """

    def __init__(self, distance: int):
        super().__init__()
        self._distance = distance

    def expand(self, unique: beam.PCollection) -> beam.PCollection:
        by_digest = unique | 'ByDigest' >> beam.Map(lambda fields: (fields[0], fields))
        equal = (
            unique
            | 'Hashes' >> beam.Map(_hashed)
            | 'EqualHashes' >> beam.GroupByKey()
            | 'Best' >> beam.FlatMapTuple(_best_of_equal)
        )
        marks = (
            equal
            | 'Bests' >> beam.Filter(lambda pair: pair[1] is None)
            | 'Bands' >> beam.FlatMap(functools.partial(_banded, self._distance))
            | 'SameBand' >> beam.GroupByKey()
            | 'Compare' >> beam.FlatMapTuple(functools.partial(_compare, self._distance))
        )
        equals = equal | 'Equals' >> beam.Filter(lambda pair: pair[1] is not None)
        better = (marks, equals) | beam.Flatten() | beam.MapTuple(_by_digest)
        joined = {'picture': by_digest, 'better': better} | 'Join' >> beam.CoGroupByKey()
        return joined | 'Mark' >> beam.MapTuple(_mark)


def _hashed(fields: Fields) -> tuple[str, Hashed]:
    outcome = Outcome(*fields)
    kept: Any = outcome.result()
    # A picture and its mirror image are alike, so they share one key.
    key = f'{min(kept.phash, pictures.mirrored(kept.phash)):016x}'
    return key, (kept.phash, (pictures.rank(kept), outcome.digest, outcome.name))


def _best_of_equal(_: str, group: Iterable[Hashed]) -> Iterator[tuple[Hashed, Hashed | None]]:
    best = min(group, key=lambda one: one[1])
    for one in group:
        yield one, None if one == best else best


def _banded(distance: int, pair: tuple[Hashed, Hashed | None]) -> Iterator[tuple[Any, Hashed]]:
    for band in pictures.bands(pair[0][0], distance):
        yield band, pair[0]


def _compare(distance: int, _: Any, group: Iterable[Hashed]) -> Iterator[tuple[Hashed, Hashed]]:
    """Pairs of a picture and the best one that it is a near-duplicate of."""
    ranked = sorted(group, key=lambda one: one[1])
    hashes = np.array([one[0] for one in ranked], np.uint64)
    turned = np.array([pictures.mirrored(one[0]) for one in ranked], np.uint64)
    for start in range(0, len(ranked), BLOCK):
        block = hashes[start : start + BLOCK, None]
        better = slice(0, start + BLOCK)
        bits = np.minimum(
            np.bitwise_count(block ^ hashes[None, better]),
            np.bitwise_count(block ^ turned[None, better]),
        )
        near = np.tril(bits <= distance, start - 1)  # only with those before it
        for row in np.flatnonzero(near.any(axis=1)):
            yield ranked[start + row], ranked[near[row].argmax()]


def _by_digest(one: Hashed, better: Hashed) -> tuple[str, tuple[Any, str, str]]:
    return one[1][1], better[1]


def _mark(_: str, joined: Mapping[str, Iterable[Any]]) -> Fields:
    (fields,) = joined['picture']
    better: Sequence[Any] = list(joined['better'])
    return _duplicate(fields, f'looks like {min(better)[2]}') if better else fields
