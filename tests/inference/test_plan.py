"""Which files of a result's name are results, and which fail the photograph."""

import os

import numpy as np
import pytest

from chromagan_jax.inference import encode, plan
from chromagan_jax.inference.metadata import Metadata
from chromagan_jax.inference.outcomes import Job

PIXELS = np.zeros((8, 8, 3), np.uint8)


def job(folder, suffix='png', source='a.jpg'):
    """A job whose photograph exists, and whose result does not."""
    (folder / source).write_bytes(b'photograph')
    return Job(folder / source, folder / f'out.{suffix}')


@pytest.mark.parametrize('suffix', ['png', 'jpg', 'webp', 'tif'])
@pytest.mark.parametrize('large', [False, True])
def test_every_kind_of_result_is_known_even_if_metadata_are_large(suffix, large, tmp_path):
    one = job(tmp_path, suffix)
    # Of a size that pushes the note away from the end of a WebP.
    kept = Metadata(xmp=b'<rdf:RDF>' + b'x' * 200_000 + b'</rdf:RDF>' if large else b'')
    one.target.write_bytes(encode.encode(PIXELS, one.target, one.source, kept))
    assert plan.conflict(one) == plan.conflict(one, overwrite=True) == ''


@pytest.mark.parametrize('overwrite', [False, True])
def test_what_is_no_result_is_a_conflict(overwrite, tmp_path):
    one = job(tmp_path)
    assert plan.conflict(one, overwrite) == ''
    one.target.touch()  # left by a power cut
    assert plan.conflict(one, overwrite) == ''
    one.target.write_bytes(b'of the user')
    assert plan.conflict(one, overwrite) == (
        f'{one.target} is there and is not a result of this program, so it stays: move it away, '
        'or choose another --output or --format'
    )
    one.target.unlink()
    one.target.mkdir()
    assert f'{one.target} cannot be read (it is no file)' in plan.conflict(one, overwrite)
    one.target.rmdir()
    os.mkfifo(one.target)
    assert 'cannot be read (it is no file)' in plan.conflict(one, overwrite)


def test_results_of_another_photograph_are_replaced_only_if_asked_for(tmp_path):
    one = job(tmp_path)
    one.target.write_bytes(encode.encode(PIXELS, one.target, one.source))
    one.source.write_bytes(b'another photograph')
    assert 'was made of another file with this name' in plan.conflict(one)
    assert plan.of_existing(one).status == 'failed'
    assert plan.conflict(one, overwrite=True) == ''
    one.source.unlink()
    assert plan.conflict(one) == 'No such file or directory'


@pytest.mark.parametrize('suffix', ['ts', 'mp4'])
def test_a_film_that_is_no_result_is_a_conflict(suffix, tmp_path):
    one = job(tmp_path, suffix, f'film.{suffix}')
    one.target.write_bytes(b'G' + bytes(187))
    assert plan.conflict(one).endswith('or choose another --output')
    assert plan.of_existing(one).status == 'failed'
