"""A finished data set gets to its place, whatever that is, and is never lost."""

import pytest

from chromagan_jax.prepare import run
from chromagan_jax.prepare.hidden import place


@pytest.fixture
def output(request, tmp_path, monkeypatch):
    """An output to name, and the folder that the data set is then in."""
    target = tmp_path / 'there'
    if request.param == 'link to nothing':
        (tmp_path / 'link').symlink_to(target)
        return tmp_path / 'link', target
    target.mkdir()
    if request.param == 'link':
        (tmp_path / 'link').symlink_to(target)
        return tmp_path / 'link', target
    if request.param == 'current':
        monkeypatch.chdir(target)
        return '.', target
    return target, target


@pytest.mark.parametrize('output', ['empty', 'link', 'link to nothing', 'current'], indirect=True)
def test_the_set_gets_into_a_folder_that_cannot_be_replaced(output, made, call, contents, tmp_path):
    named, target = output
    number = target.stat().st_ino if target.exists() else None  # as of a mount point
    code, told = call(f'--output={named}')
    assert code == 0, told
    assert contents(target) == contents(made)
    assert number in (None, target.stat().st_ino)
    assert {path.name for path in tmp_path.iterdir()} <= {'there', 'link'}
    assert not list(tmp_path.rglob('.*'))
    code, told = call(f'--output={named}')
    assert code == 0
    assert 'is already prepared' in told


def test_a_finished_set_that_cannot_be_moved_stays_and_is_moved_later(
    made, call, contents, tmp_path, monkeypatch
):
    output, write = tmp_path / 'out', run._write_reports

    def fill(*arguments):  # somebody else writes there meanwhile
        write(*arguments)
        output.write_text('mine')

    monkeypatch.setattr(run, '_write_reports', fill)
    code, told = call(f'--output={output}')
    finished = tmp_path / '.out.incomplete' / 'finished'
    assert code == 1
    assert f'which moves the finished data set there from {finished}.\n' in told
    assert contents(finished) == contents(made)
    assert output.read_text() == 'mine'
    assert call(f'--output={output}')[0] == 1
    output.unlink()
    assert call(f'--output={output}', '--size=64')[0] == 1
    code, told = call(f'--output={output}')
    assert code == 0
    assert 'pictures to look at' not in told
    assert contents(output) == contents(made)
    assert [path.name for path in tmp_path.iterdir()] == ['out']


def test_nothing_is_moved_into_a_folder_that_was_filled_meanwhile(tmp_path):
    for name in ('finished', 'out'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'report.json').write_text(name)
    with pytest.raises(ValueError, match='it is no longer empty'):
        place(tmp_path / 'finished', tmp_path / 'out')
    for name in ('finished', 'out'):
        assert (tmp_path / name / 'report.json').read_text() == name
