"""Names of results stay what they are when files arrive, and fit every file system."""

import os
from pathlib import Path

import numpy as np
import pytest

from chromagan_jax.errors import UserError
from chromagan_jax.inference import encode, metadata, naming
from chromagan_jax.inference.files import Listed

PIXELS = np.zeros((4, 4, 3), np.uint8)


def named(folder, names, output, format='png', samples=0):
    """The names that photographs in a folder become, after their results are written."""
    found = [Listed(folder / name, (folder / name).relative_to(folder)) for name in names]
    jobs = naming.plan(found, output, format, samples, metadata.source_of)
    for job in jobs:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        if not job.target.exists():
            job.target.write_bytes(encode.encode(PIXELS, job.target, job.source))
    return [str(job.target.relative_to(output)) for job in jobs]


@pytest.mark.parametrize('format', ['png', 'jpg', 'webp', 'tif'])
def test_a_new_neighbour_changes_no_name_wherever_it_is_in_the_order(format, tmp_path):
    def names(*arrived):
        return named(tmp_path / 'in', arrived, tmp_path / 'out', format)

    assert names('a.jpg') == [f'a.{format}']
    expected = [f'a.bmp.{format}', f'a.{format}', f'a.png.{format}']
    assert names('a.bmp', 'a.jpg', 'a.png') == expected
    # Names that differ in case only are one name on many file systems.
    assert names('A.JPG', 'a.bmp', 'a.jpg', 'a.png') == [f'A.JPG.{format}', *expected]
    assert names('a.png') == expected[-1:]


def test_pages_of_a_scan_keep_their_results(tmp_path):
    pages = [Listed(tmp_path / 'scan.tif', Path(f'scan.page{n}.tif'), n - 1) for n in (1, 2)]
    for _ in range(2):
        jobs = naming.plan(pages, tmp_path / 'out', 'png', source_of=metadata.source_of)
        assert [job.target.name for job in jobs] == ['scan.page1.png', 'scan.page2.png']
        (tmp_path / 'out').mkdir(exist_ok=True)
        for job in jobs:
            job.target.write_bytes(encode.encode(PIXELS, job.target, job.source))


def test_photographs_of_one_name_in_several_folders_are_numbered(tmp_path):
    found = [Listed(tmp_path / folder / 'a.png', (tmp_path / 'a.png').relative_to(tmp_path))
             for folder in 'xyz']  # fmt: skip
    jobs = naming.plan(found, tmp_path / 'out', 'png')
    assert [job.target.name for job in jobs] == ['a.png', 'a.png.png', 'a.png.2.png']


def test_what_follows_a_dot_is_cut_off_only_if_it_is_the_suffix_of_a_kind(tmp_path):
    names = ['scan.001', 'scan.002', 'Mr. Smith', 'deep/b.c.tiff']
    expected = ['scan.001.png', 'scan.002.png', 'Mr. Smith.png', 'deep/b.c.png']
    assert named(tmp_path / 'in', names, tmp_path / 'out') == expected


def test_every_legal_name_has_a_legal_result_of_its_own(tmp_path):
    long = [
        'é' * 127 + 'x',
        'é' * 127 + 'y',
        'a' * 251 + '.png',
        'a' * 251 + '.jpg',
        '\udcff' * 255,
    ]
    for samples in (0, 3):
        results = named(tmp_path / 'in', long, tmp_path / f'out{samples}', samples=samples)
        assert len(set(results)) == len(long) * max(1, samples)
        assert all(len(os.fsencode(name)) <= 255 for name in results)
        assert results == named(tmp_path / 'in', long, tmp_path / f'out{samples}', samples=samples)


def test_same_keeps_the_kind_by_content_and_the_spelling_of_the_suffix(tmp_path):
    (tmp_path / 'in').mkdir()
    kinds = {'a.JPEG': 'x.jpg', 'b.tiff': 'x.tif', 'c.jpg': 'x.png', 'd': 'x.webp'}
    for name, kind in kinds.items():
        content = encode.encode(PIXELS, tmp_path / kind, tmp_path / name)
        (tmp_path / 'in' / name).write_bytes(content)
    (tmp_path / 'in/e.gif').write_bytes(b'GIF89a')
    names = named(tmp_path / 'in', [*kinds, 'e.gif'], tmp_path / 'out', 'same')
    assert names == ['a.JPEG', 'b.tiff', 'c.png', 'd.webp', 'e.png']


def test_a_photograph_is_never_the_name_of_a_result(tmp_path):
    found = [Listed(tmp_path / 'a.png', (tmp_path / 'a.png').relative_to(tmp_path))]
    with pytest.raises(UserError, match=r'a\.png is a photograph to be read: choose another'):
        naming.plan(found, tmp_path, 'png')
