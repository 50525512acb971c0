"""Whether photographs are called held out."""

import json
from types import SimpleNamespace

import pytest

from chromagan_jax.gan import released
from tools import held_out
from tools.held_out import HELD_OUT, TRAINED_ON, UNKNOWN


def stage(fingerprint, **more):
    """A training in a config.json."""
    return {'config': {}, 'data': {'records': 3, 'fingerprint': fingerprint}, **more}


TWIN = {'config': {}, 'trained_by': 'tools.torch_twin'}
BEFORE = stage('b', started_from=[stage('c')], hints={'data': {'fingerprint': 'd'}})


@pytest.mark.parametrize(
    ('release', 'known'),
    [
        (stage('a'), ['a']),
        (stage('a', started_from=[stage('b'), stage('c')]), ['a', 'b', 'c']),
        (stage('a', started_from=[BEFORE]), ['a', 'b', 'c', 'd']),
        (stage('a', started_from=[BEFORE, stage('e')]), ['a', 'b', 'c', 'd', 'e']),
        (stage('a', hints={'data': {'fingerprint': 'b'}}), ['a', 'b']),
        # The scores of hints that the release before had.
        (stage('a', hints={'evaluation': []}), ['a']),
        (TWIN, [None]),
        (stage('a', started_from=[TWIN]), ['a', None]),
        # The workdir that it was started from is gone.
        (stage('a', config={'init_from': 'gone'}), ['a', None]),
        (stage('a', config={'init_from': 'b'}, started_from=[stage('b')]), ['a', 'b']),
        ({'config': {}, 'mean_of': []}, [None]),
    ],
)
def test_all_data_of_a_release_and_those_before_it_are_known(release, known):
    found = held_out.fingerprints(release)
    assert sorted(map(str, found)) == sorted(map(str, known))


@pytest.mark.parametrize(
    ('known', 'phrase'),
    [
        (['a', 'b'], HELD_OUT),
        (['a', 'val'], TRAINED_ON),
        (['a', None], UNKNOWN),
        ([None, 'val'], TRAINED_ON),
    ],
)
def test_photographs_are_held_out_only_if_all_data_are_known_and_others(known, phrase):
    assert held_out.phrase(known, SimpleNamespace(fingerprint='val')) == phrase


def test_of_the_package_the_data_of_the_twin_are_unknown():
    described = json.loads((released.WEIGHTS / released.DESCRIPTION).read_text())
    assert None in held_out.fingerprints(described)
    assert described['data']['fingerprint'] in held_out.fingerprints(described)
