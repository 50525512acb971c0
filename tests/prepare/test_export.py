"""An export is complete when its command says so, and an interrupted one goes on."""

import os
import signal
import threading
import time

import pytest

from chromagan_jax.prepare import export as export_lib
from chromagan_jax.prepare.__main__ import main


@pytest.fixture(scope='module')
def exported(few, made, tmp_path_factory):
    folder = tmp_path_factory.mktemp('exported') / 'files'
    assert main(['prepare', f'--input={few}', f'--output={made}', f'--export={folder}']) == 0
    return folder


def test_a_repeated_export_writes_only_what_is_missing(
    made, exported, call, contents, tmp_path, monkeypatch
):
    folder, arguments = tmp_path / 'files', (f'--output={made}', f'--export={tmp_path / "files"}')
    assert call(*arguments)[0] == 0
    assert contents(folder) == contents(exported)
    path = next((folder / 'train_x').iterdir())
    path.unlink()
    assert call(*arguments)[0] == 0
    assert contents(folder) == contents(exported)
    monkeypatch.setattr(export_lib, 'gray_copy', lambda image: pytest.fail('written again'))
    code, told = call(*arguments)
    assert code == 0, told
    assert contents(folder) == contents(exported)


def test_a_stopped_export_says_so_and_goes_on(
    made, exported, call, contents, tmp_path, monkeypatch
):
    gray_copy, thread = export_lib.gray_copy, threading.main_thread()
    calls = []

    def stop(image):
        handler = signal.getsignal(signal.SIGTERM)
        if not calls:
            signal.pthread_kill(thread.ident, signal.SIGTERM)
            while signal.getsignal(signal.SIGTERM) is handler:  # it is not handled yet
                time.sleep(0.001)
        calls.append(image)
        return gray_copy(image)

    monkeypatch.setattr(export_lib, 'gray_copy', stop)
    arguments = (f'--output={made}', f'--export={tmp_path / "files"}')
    code, told = call(*arguments)
    assert code == 75
    assert told.endswith('the export is incomplete; run the command again to go on.\n')
    assert len(calls) == 1
    count = lambda image: calls.append(image) or gray_copy(image)
    monkeypatch.setattr(export_lib, 'gray_copy', count)
    assert call(*arguments)[0] == 0
    assert contents(tmp_path / 'files') == contents(exported)
    assert len(calls) == len(list(exported.glob('*_x/*')))  # none is made twice


@pytest.mark.parametrize('kind', ['current', 'link', 'link to nothing'])
def test_an_export_gets_into_a_folder_that_cannot_be_replaced(
    made, exported, call, contents, tmp_path, monkeypatch, kind
):
    target = tmp_path / 'there'
    if kind != 'link to nothing':
        target.mkdir()
    monkeypatch.chdir(target if kind == 'current' else tmp_path)
    if kind != 'current':
        os.symlink(target, 'link')
    code, told = call(f'--output={made}', f'--export={"." if kind == "current" else "link"}')
    assert code == 0, told
    assert contents(target) == contents(exported)


def test_what_is_no_export_of_the_set_is_left_alone(made, exported, call, contents, tmp_path):
    other = tmp_path / 'other'
    assert call(f'--output={other}', '--size=64')[0] == 0
    before = contents(exported)
    for folder, told in (
        (exported, f'is not empty, and no export of {other}: name another --export.'),
        (made, 'is not empty, and no export'),
        (other, '--export and --output are the same folder'),
    ):
        code, said = call(f'--output={other}', '--size=64', f'--export={folder}')
        assert code == 1
        assert told in said
        assert said.count('\n') == 1
    assert contents(exported) == before
