"""Names of folders and the file of labels may be written in any way that occurs."""

import csv
import io
import os

import pytest
from PIL import Image

from chromagan_jax.data.sources import make_source
from chromagan_jax.prepare.inputs import Inputs, list_pictures


def test_folders_whose_names_are_no_text_become_categories(jpegs, call, tmp_path):
    pile = os.fsencode(tmp_path / 'pile')
    folders = [b'K\xe4fer', 'Käfer'.encode(), b'two\nlines\r', b' cats ', b'\xff']
    for index, folder in enumerate(folders):
        os.makedirs(os.path.join(pile, folder), exist_ok=True)
        with open(os.path.join(pile, folder, b'%d\xe4.jpg' % index), 'wb') as file:
            file.write(jpegs[index])
    with open(os.path.join(pile, folders[-1], b'the same.jpg'), 'wb') as file:
        file.write(jpegs[0])
    image = Image.open(io.BytesIO(jpegs[0])).resize((150, 120))  # like that in the first folder
    image.save(tmp_path / 'pile' / 'cats.png')
    output = tmp_path / 'out'
    code, told = call(f'--output={output}', '--test=0', pile=tmp_path / 'pile')
    assert code == 0, told
    source = make_source(str(output), labels=True)
    assert source.classes == ('K\\xe4fer', 'Käfer', '\\xff', 'cats', 'two\\nlines')
    assert len(source) == 5
    with (output / 'pictures.csv').open(newline='', errors='surrogateescape') as file:
        rows = {os.fsencode(row['file']): row for row in csv.DictReader(file)}
    named = [folder + b'/%d\xe4.jpg' % index for index, folder in enumerate(folders)]
    written = ['K\\xe4fer', 'Käfer', 'two\\nlines', 'cats', '\\xff']
    assert [rows[name]['category'] for name in named] == written
    assert os.fsencode(rows[b'cats.png']['detail']) == b'looks like K\xe4fer/0\xe4.jpg'


@pytest.mark.parametrize('mark', [b'', b'\xef\xbb\xbf'], ids=['plain', 'of Excel'])
def test_a_file_of_labels_may_start_with_a_mark(few, tmp_path, mark):
    lines = [f'{index}.jpg,Käfer' for index in range(6)]
    (tmp_path / 'labels.csv').write_bytes(mark + '\r\n'.join(lines).encode())
    inputs = Inputs((str(few),), labels=str(tmp_path / 'labels.csv'))
    assert list_pictures(inputs, tmp_path / 'listing').categories == ('Käfer',)
