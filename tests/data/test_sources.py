"""Sources hand out the very bytes that were stored, in an order that only the names decide."""

import io
import json
import os
import pathlib
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from chromagan_jax.data.decode import decode
from chromagan_jax.data.inputs import is_held_out, open_sources
from chromagan_jax.data.sources import make_source
from chromagan_jax.errors import UserError


def encoded(value, kind='JPEG'):
    buffer = io.BytesIO()
    Image.fromarray(np.full((12, 16, 3), value, np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def write_files(root, names):
    for value, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(10 * value))
    return root


def write_shards(root, shards):
    root.mkdir(exist_ok=True)
    for name, records in shards.items():
        writer = ArrayRecordWriter(str(root / name), 'group_size:1')
        for record in records:
            writer.write(record)
        writer.close()
    return root


def prepare_tfds(data_dir, records, version='1.0.0', image='image'):
    """A data set as TFDS prepares it: two splits, three examples a shard, a column nobody needs."""
    import tensorflow_datasets as tfds

    folder = data_dir / 'tiny' / version
    folder.mkdir(parents=True)
    info = tfds.core.DatasetInfo(
        builder=tfds.core.dataset_info.DatasetIdentity(
            name='tiny', version=version, data_dir=str(folder), module_name='tiny'
        ),
        features=tfds.features.FeaturesDict(
            {
                image: tfds.features.Image(shape=(None, None, 3)),
                'label': tfds.features.ClassLabel(num_classes=4),
                'title': tfds.features.Text(),
            }
        ),
    )
    writer = tfds.core.SequentialWriter(info, 3, file_format='array_record')
    writer.initialize_splits(['train', 'test'])
    examples = [
        {image: io.BytesIO(record), 'label': index % 4, 'title': 'x'}
        for index, record in enumerate(records)
    ]
    writer.add_examples({'train': examples, 'test': examples[:1]})
    writer.close_all()
    return folder


RECORDS = [encoded(30 * value) for value in range(7)]


@pytest.fixture(scope='module')
def tfds_dir(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp('tfds')
    prepare_tfds(data_dir, RECORDS)
    return data_dir


def images(source):
    return [source[index]['image'] for index in range(len(source))]


def test_sample_is_a_handful_of_colour_photographs():
    source = make_source('sample')
    assert 5 <= len(source) <= 10
    for index in range(len(source)):
        pixels = decode(source[index]['image']).astype(int)
        assert min(pixels.shape[:2]) >= 256
        assert np.abs(pixels[..., 0] - pixels[..., 2]).mean() > 5, source.name(index)


def test_folder_holds_every_image_below_it_by_suffix_in_the_order_of_the_names(tmp_path):
    kept = ['B.JPG', 'a/1.jpeg', 'a/b/2.TIF', 'a-b.png', 'c/x.webp', 'd.Gif', 'e.bmp', 'z.tiff']
    left_out = ['.hidden.jpg', '.cache/1.jpg', 'a/.x/2.jpg', 'notes.txt', 'a/1.jpg.part']
    source = make_source(str(write_files(tmp_path, kept + left_out)))
    names = [source.name(index) for index in range(len(source))]
    assert names == sorted(kept)
    assert images(source) == [(tmp_path / name).read_bytes() for name in sorted(kept)]
    assert source[0]['label'] == -1


def test_folder_is_the_same_source_elsewhere_and_however_it_is_listed(tmp_path, monkeypatch):
    names = ['b/2.jpg', 'b/1.jpg', 'a/3.jpg', '4.jpg']
    first = make_source(str(write_files(tmp_path / 'one', names)))
    shutil.copytree(tmp_path / 'one', tmp_path / 'two')
    walk = os.walk

    def reversed_walk(top, **options):
        for folder, subfolders, files in walk(top, **options):
            subfolders.sort(reverse=True)
            yield folder, subfolders, sorted(files, reverse=True)

    monkeypatch.setattr(os, 'walk', reversed_walk)
    second = make_source(str(tmp_path / 'two'))
    assert first.names == second.names
    assert first.fingerprint == second.fingerprint
    (tmp_path / 'two' / '4.jpg').rename(tmp_path / 'two' / '5.jpg')
    assert make_source(str(tmp_path / 'two')).fingerprint != first.fingerprint


def test_labels_are_the_positions_of_the_top_folders_in_sorted_order(tmp_path):
    root = write_files(tmp_path, ['dog/1.jpg', 'cat/a/1.jpg', 'cat/2.jpg', 'emu/deep/down/1.jpg'])
    source = make_source(str(root), labels=True)
    found = {source.name(i): source[i]['label'] for i in range(len(source))}
    assert found == {'cat/2.jpg': 0, 'cat/a/1.jpg': 0, 'dog/1.jpg': 1, 'emu/deep/down/1.jpg': 2}
    assert source.num_classes == 3


def test_a_folder_tells_which_files_are_of_kinds_that_are_not_read(tmp_path):
    source = make_source(str(write_files(tmp_path, ['a.jpg', 'b.txt', 'c/d.txt', '.hidden.txt'])))
    assert source.ignored == '2 files are of kinds that are not read (.txt 2)'
    with pytest.raises(UserError, match=r'c holds no images: 1 file is of a kind that is not read'):
        make_source(str(tmp_path / 'c'))


def test_a_pipe_in_a_folder_is_counted_and_not_waited_for(tmp_path):
    root = write_files(tmp_path, ['a.jpg'])
    os.mkfifo(root / 'b.jpg')
    source = make_source(str(root))
    assert len(source) == 1
    assert source.ignored == '1 file is of a kind that is not read (pipe or device 1)'


def test_a_sub_folder_that_cannot_be_listed_ends_a_training(tmp_path, monkeypatch):
    write_files(tmp_path, ['a.jpg', 'closed/b.jpg'])
    scan = os.scandir

    def scandir(folder):
        if str(folder).endswith('closed'):
            raise PermissionError(13, 'Permission denied')
        return scan(folder)

    monkeypatch.setattr(os, 'scandir', scandir)
    with pytest.raises(UserError, match=r'closed cannot be listed \(Permission denied\): make it'):
        make_source(str(tmp_path))


def test_links_to_folders_are_followed_but_not_round_in_circles(tmp_path):
    write_files(tmp_path / 'elsewhere', ['1.jpg'])
    root = write_files(tmp_path / 'root', ['sub/2.jpg'])
    (root / 'linked').symlink_to(tmp_path / 'elsewhere')
    (root / 'sub' / 'up').symlink_to(root)
    (root / 'sub' / 'out').symlink_to(tmp_path)
    source = make_source(str(root))
    assert [source.name(i) for i in range(len(source))] == ['linked/1.jpg', 'sub/2.jpg']


def test_array_record_shards_are_read_in_the_order_of_their_names(tmp_path):
    shards = {'p.array_record-00001-of-00002': RECORDS[3:], 'p.array_record-00000': RECORDS[:3]}
    root = write_shards(tmp_path / 'one', shards)
    source = make_source(str(root))
    assert images(source) == RECORDS
    assert images(make_source(f'{root}/p.array_record*')) == RECORDS
    assert images(make_source(f'{root}/p.array_record-00000')) == RECORDS[:3]
    moved = shutil.copytree(root, tmp_path / 'two')
    assert make_source(str(moved)).fingerprint == source.fingerprint
    assert 'record 5' in source.name(5)


def test_damaged_array_record_raises_what_the_pipeline_replaces(tmp_path):
    records = [os.urandom(3000) for _ in range(40)]
    path = write_shards(tmp_path, {'p.array_record': records}) / 'p.array_record'
    data = bytearray(path.read_bytes())
    data[data.find(records[20]) + 100] ^= 255
    path.write_bytes(bytes(data))
    source = make_source(str(tmp_path))
    with pytest.raises(OSError, match='orrupted'):
        source[20]
    assert source[21]['image'] == records[21]


@pytest.mark.parametrize('name', ['tfds:tiny', 'tfds:tiny:1.0.0'])
def test_tfds_data_sets_are_found_by_name(tfds_dir, monkeypatch, name):
    monkeypatch.setenv('TFDS_DATA_DIR', str(tfds_dir))
    source = make_source(name, labels=True)
    assert images(source) == RECORDS
    assert [source[i]['label'] for i in range(7)] == [0, 1, 2, 3, 0, 1, 2]
    assert source.num_classes == 4
    assert len(make_source(name, split='test')) == 1
    assert images(make_source(name, split='train[4:]')) == RECORDS[4:]


def test_tfds_folders_are_recognised_and_keep_their_fingerprint(tfds_dir, tmp_path):
    source = make_source(str(tfds_dir / 'tiny' / '1.0.0'))
    above = make_source(str(shutil.copytree(tfds_dir / 'tiny', tmp_path / 'tiny')))
    assert images(source) == images(above) == RECORDS
    assert source.fingerprint == above.fingerprint
    assert make_source(str(tmp_path / 'tiny'), split='test').fingerprint != above.fingerprint


def test_another_split_of_a_prepared_folder_is_held_out_and_the_same_is_not(tfds_dir, tiny):
    tiny.data.source = str(tfds_dir / 'tiny')
    tiny.eval.source, tiny.eval.split = '', 'test'
    assert is_held_out(tiny, *open_sources(tiny))
    tiny.eval.split = tiny.data.split
    assert not is_held_out(tiny, *open_sources(tiny))


@pytest.mark.parametrize('kind', ['folder', 'array_record', 'tfds'])
def test_sources_pickle(kind, tmp_path, tfds_dir):
    if kind == 'folder':
        location = write_files(tmp_path, ['1.jpg', '2.jpg'])
    elif kind == 'array_record':
        location = write_shards(tmp_path, {'x.array_record': RECORDS})
    else:
        location = tfds_dir / 'tiny'
    source = make_source(str(location))
    before = images(source)  # with the files already open
    copy = pickle.loads(pickle.dumps(source))
    assert images(copy) == before
    assert copy.fingerprint == source.fingerprint


@pytest.mark.parametrize(
    ('source', 'options', 'message'),
    [
        ('gone', {}, 'does not exist'),
        ('photos/1.jpg', {}, 'is a file'),
        ('empty', {}, 'holds no images'),
        ('photos', {'labels': True}, 'has no label'),
        ('sample', {'labels': True}, 'has no labels'),
        ('shards', {'labels': True}, 'has no labels'),
        ('none/*.array_record', {}, 'No file matches'),
        ('broken', {}, 'cannot be read as ArrayRecord'),
        ('tfds:nothing', {}, 'is not prepared'),
        ('tfds:tiny:9.0.0', {}, 'is not prepared'),
        ('tfds:!', {}, 'is not prepared'),
        ('tfds:tiny', {'split': 'val'}, "no records in a split 'val': name one of train, test"),
        ('several', {}, 'holds several data sets: name one of 1.0.0, 2.0.0'),
        ('tfrecord', {}, 'no random access'),
        ('damaged', {}, 'is damaged'),
        ('scan', {}, "no image feature called 'image' .it has label, scan, title"),
    ],
)
def test_mistakes_are_one_sentence(source, options, message, tmp_path, tfds_dir, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('TFDS_DATA_DIR', str(tfds_dir))
    write_files(tmp_path, ['photos/1.jpg'])
    write_shards(tmp_path / 'shards', {'x.array_record': RECORDS})
    (tmp_path / 'empty' / '.git').mkdir(parents=True)
    (tmp_path / 'broken').mkdir()
    (tmp_path / 'broken' / 'x.array_record').write_bytes(b'no record')
    for version in ('1.0.0', '2.0.0'):
        shutil.copytree(tfds_dir / 'tiny' / '1.0.0', tmp_path / 'several' / version)
    for name in ('tfrecord', 'damaged'):
        shutil.copytree(tfds_dir / 'tiny' / '1.0.0', tmp_path / name)
    info = tmp_path / 'tfrecord' / 'dataset_info.json'
    info.write_text(json.dumps(json.loads(info.read_text()) | {'fileFormat': 'tfrecord'}))
    (tmp_path / 'damaged' / 'dataset_info.json').write_text('{')
    if source == 'scan':
        prepare_tfds(tmp_path, RECORDS[:1], image='scan').rename(tmp_path / 'scan')
    with pytest.raises(UserError, match=message) as raised:
        make_source(source, **options)
    sentence = str(raised.value)
    assert sentence.endswith('.')
    assert '\n' not in sentence


def test_tensorflow_is_never_imported(tfds_dir, tmp_path):
    decoy = tmp_path / 'tensorflow'
    decoy.mkdir()
    (decoy / '__init__.py').write_text("raise RuntimeError('TensorFlow was imported')")
    script = (
        'import sys\n'
        'from chromagan_jax.data.sources import make_source\n'
        "assert len(make_source('sample')[0]['image'])\n"
        "assert 'tensorflow_datasets' not in sys.modules\n"
        "source = make_source('tfds:tiny', labels=True)\n"
        "assert source[1]['label'] == 1\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    repository = str(pathlib.Path(__file__).parents[2])
    path = os.pathsep.join([str(tmp_path), repository])
    environment = os.environ | {'PYTHONPATH': path, 'TFDS_DATA_DIR': str(tfds_dir)}
    subprocess.run([sys.executable, '-c', script], env=environment, check=True)
