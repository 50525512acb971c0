"""Locations that are buckets, and what goes wrong with them, without a bucket."""

import importlib.util
import pathlib

import pytest

from chromagan_jax.errors import UserError, is_outage, is_refusal
from chromagan_jax.utils import files, paths

Class = type[Exception]


def test_a_local_location_stays_a_path_of_the_standard_library():
    assert type(paths.as_path('runs/base')) is type(pathlib.Path('runs'))
    assert not paths.is_bucket(pathlib.Path('runs/base'))
    assert paths.is_bucket('gs://b/runs')
    assert paths.is_bucket('s3://b/runs')


@pytest.mark.parametrize('location', ['https://b/runs', 'gs://', 's3:///', 'hdfs://b/runs'])
def test_another_url_is_refused(location):
    with pytest.raises(UserError, match=f'{location} is not a location: name a folder'):
        paths.as_path(location)


@pytest.mark.parametrize(('scheme', 'extra'), [('gs', 'gcs'), ('s3', 's3')])
def test_a_missing_extra_is_named(scheme, extra, monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(UserError) as refused:
        paths.as_path(f'{scheme}://bucket/runs')
    assert f"pip install 'chromagan_jax[{extra}]'" in str(refused.value)


def test_a_file_that_does_not_exist_has_no_content(tmp_path):
    assert paths.read(tmp_path / 'none') is None
    (tmp_path / 'some').write_bytes(b'content')
    assert paths.read(tmp_path / 'some') == b'content'


def error(module: str, name: str, text: str = 'x', **fields: object) -> Exception:
    """One as a library raises it that may not be installed."""
    made: Class = type(name, (Exception,), {'__module__': module, **fields})
    return made(text)


OUTAGES = [
    error('aiohttp.client_exceptions', 'ClientConnectionError'),
    error('fsspec.exceptions', 'FSTimeoutError'),
    error('botocore.exceptions', 'HTTPClientError'),
    error('gcsfs.retry', 'HttpError', code=503),
    error('gcsfs.retry', 'HttpError', code=429),
    OSError(16, 'Service Unavailable'),
    OSError(16, 'SlowDown: Please reduce your request rate'),
    ValueError('UNAVAILABLE: HTTP response code: 503'),
]
REFUSALS = [
    PermissionError('Access Denied'),
    error('gcsfs.retry', 'HttpError', 'Anonymous caller does not have access', code=401),
    error('botocore.exceptions', 'NoCredentialsError', 'Unable to locate credentials'),
    error('google.auth.exceptions', 'DefaultCredentialsError'),
    OSError('Forbidden: https://storage.googleapis.com/'),
    ValueError('PERMISSION_DENIED: reading gs://b/x'),
]


@pytest.mark.parametrize('one', [*OUTAGES, *REFUSALS], ids=repr)
def test_an_outage_and_a_refusal_are_told_apart(one):
    assert is_outage(one) == any(one is each for each in OUTAGES)
    assert is_refusal(one) == any(one is each for each in REFUSALS)
    wrapped = RuntimeError('later')
    wrapped.__cause__ = one
    assert is_outage(wrapped) == is_outage(one)


@pytest.mark.parametrize('one', [KeyError('x'), BrokenPipeError('x'), OSError(28, 'No space')])
def test_errors_of_other_kinds_are_neither(one):
    assert not is_outage(one)
    assert not is_refusal(one)


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """A folder that counts as a bucket."""
    monkeypatch.setattr(paths, 'is_bucket', lambda location: True)
    return tmp_path


def test_a_growing_object_is_written_whole_at_intervals_and_by_a_flush(bucket, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(files.time, 'monotonic', lambda: now[0])
    path = bucket / 'log'
    log = files.GrowingFile(path, b'old ')
    log.append(b'a ')
    assert path.read_bytes() == b'old '
    now[0] = files.REWRITE
    log.append(b'b ')
    assert path.read_bytes() == b'old a b '
    log.append(b'c ')
    log.flush()
    assert path.read_bytes() == b'old a b c '
    assert len(log) == 10


def test_an_outage_delays_a_growing_object_but_fails_a_flush(bucket, monkeypatch):
    monkeypatch.setattr(files, 'REWRITE', 0)
    log, write = files.GrowingFile(bucket / 'log'), files.write_atomically

    def fail(path, content):
        raise OUTAGES[0]

    monkeypatch.setattr(files, 'write_atomically', fail)
    log.append(b'a')
    with pytest.raises(type(OUTAGES[0])):
        log.flush()
    monkeypatch.setattr(files, 'write_atomically', write)
    log.append(b'b')
    assert (bucket / 'log').read_bytes() == b'ab'


def test_a_refused_access_is_one_sentence_with_the_fix():
    with pytest.raises(UserError, match='gcloud auth application-default login'):  # noqa: SIM117
        with paths.access('gs://b/x', 'read'):
            raise REFUSALS[1]
