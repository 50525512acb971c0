import json
import os

import numpy as np
import pytest
import skimage.data
from PIL import Image

from chromagan_jax.errors import UserError
from chromagan_jax.utils import files


def test_a_png_is_read_back_unchanged_and_makes_its_folder(tmp_path):
    picture = skimage.data.chelsea()[:50, :70]
    path = tmp_path / 'samples' / 'deep' / '1.png'
    files.write_png(path, picture)
    with Image.open(path) as image:
        assert image.format == 'PNG'
        np.testing.assert_array_equal(np.asarray(image), picture)
    assert list(path.parent.iterdir()) == [path]


def test_json_keeps_its_order_and_is_indented(tmp_path):
    value = {'z': 1, 'a': {'y': [1.5, None], 'b': 'ü'}}
    files.write_json(tmp_path / 'config.json', value)
    text = (tmp_path / 'config.json').read_text()
    assert text.startswith('{\n  "z": 1,\n  "a": {\n    "y"')
    assert json.loads(text, object_pairs_hook=list)[0] == ('z', 1)
    assert json.loads(text) == value


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / 'config.json'
    files.write_json(path, {'old': 1})
    with pytest.raises(ValueError, match='JSON compliant'):
        files.write_json(path, {'new': float('nan')})

    def no_space(descriptor: int) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', no_space)
    with pytest.raises(UserError, match=r'config\.json cannot be written \(No space left'):
        files.write_json(path, {'new': 2})
    assert json.loads(path.read_text()) == {'old': 1}


def test_a_file_in_the_place_of_the_folder_is_a_sentence(tmp_path):
    (tmp_path / 'samples').write_text('')
    with pytest.raises(UserError, match='choose another folder'):
        files.write_png(tmp_path / 'samples' / '1.png', np.zeros((4, 4, 3), np.uint8))
