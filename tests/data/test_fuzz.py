"""Damaged files of all kinds end in pixels or in a sentence of the decoder, quickly."""

import pytest

from chromagan_jax.data.decode.formats import FORMATS, identify, is_available
from tests.data import fuzz


@pytest.mark.parametrize('count', [300, pytest.param(5000, marks=pytest.mark.slow)])
def test_each_damaged_file_ends_in_pixels_or_in_one_sentence_within_10_s(count):
    outcomes = [fuzz.outcome(data) for _, data in fuzz.damaged(fuzz.originals(60), count, 0)]
    assert max(seconds for _, seconds in outcomes) < fuzz.SECONDS
    read = sum(words == 'pixels' for words, _ in outcomes)
    assert 0.05 * count < read < 0.9 * count


def test_the_originals_are_of_all_kinds_that_are_read():
    kinds = {identify(data).name for data in fuzz.originals(60)}
    made = kinds | {'camera raw'}  # a DNG begins as a TIFF
    assert made == {kind.name for kind in FORMATS if is_available(kind) or kind.name in made}


def test_the_same_seed_damages_the_same_way():
    files = fuzz.originals(5)
    assert list(fuzz.damaged(files, 20, 1)) == list(fuzz.damaged(files, 20, 1))
    assert list(fuzz.damaged(files, 20, 1)) != list(fuzz.damaged(files, 20, 2))
