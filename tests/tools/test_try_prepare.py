"""The command that plants files and looks at what prepare drops."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from tools import try_prepare


@pytest.fixture
def photos(tmp_path):
    """A folder of three photographs."""
    folder = tmp_path / 'photos'
    folder.mkdir()
    for number in range(3):
        Image.fromarray(np.full((8, 8, 3), 50 * number, np.uint8)).save(folder / f'{number}.png')
    return folder


def test_too_few_photographs_are_named_before_anything_is_written(photos, tmp_path, capsys):
    code = try_prepare.main(['', f'--photos={photos}', f'--output={tmp_path / "out"}'])
    said = capsys.readouterr().err
    assert (code, said.count('\n')) == (1, 1)
    assert 'holds fewer than 550 photographs: lower --count=50' in said
    assert not (tmp_path / 'out').exists()


def test_a_second_run_into_a_folder_is_refused(photos, tmp_path, capsys):
    (tmp_path / 'out/pile').mkdir(parents=True)
    arguments = [f'--photos={photos}', f'--output={tmp_path / "out"}', '--count=0']
    assert try_prepare.main(['', *arguments]) == 1
    assert 'pile exists: choose another --output' in capsys.readouterr().err


def test_the_floor_of_a_picture_is_in_processor_seconds(photos, tmp_path, monkeypatch):
    """Two processes that work for 3 s each, in whatever time that takes."""
    monkeypatch.setattr(try_prepare, 'ProcessPoolExecutor', ThreadPoolExecutor)
    monkeypatch.setattr(try_prepare, 'work_without_pipeline', lambda paths: 3.0)
    monkeypatch.setattr(try_prepare, 'run_prepare', lambda *_: (2.0, 4.5, 100.0))
    monkeypatch.setattr(try_prepare, 'make_source', lambda source: [0])
    monkeypatch.setattr(try_prepare, 'read_speed', lambda source, number: 1.0)
    found = try_prepare.measure(photos, tmp_path / 'out', workers=2)
    assert found['floor_processor_ms_per_picture'] == 2000
    assert found['processor_ms_per_picture'] == 1500
