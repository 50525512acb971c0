"""A pile of pictures becomes a data set, whoever works on it, or nothing does."""

import csv
import hashlib
import importlib
import io
import itertools
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import skimage.data
import tensorflow_datasets as tfds
from etils import epath
from PIL import Image, ImageOps

from chromagan_jax import color
from chromagan_jax.data.decode import decode
from chromagan_jax.data.sources import make_source
from chromagan_jax.errors import UserError
from chromagan_jax.prepare import outcomes, pictures
from chromagan_jax.prepare.__main__ import main
from chromagan_jax.prepare.export import gray_copy
from chromagan_jax.prepare.inputs import Inputs
from chromagan_jax.utils import lock

beam = pytest.importorskip('apache_beam', reason='needs Beam: pip install -e ".[prepare]"')
duplicates = importlib.import_module('chromagan_jax.prepare.duplicates')
pipeline = importlib.import_module('chromagan_jax.prepare.pipeline')
builders = importlib.import_module('chromagan_jax.prepare.photographs.photographs_dataset_builder')

ROOT = pathlib.Path(__file__).parents[2]
COMMAND = (sys.executable, '-m', 'chromagan_jax.prepare', '--test=0.3')
CATEGORIES = ('cats', 'rockets')


def jpeg(image, quality=90):
    buffer = io.BytesIO()
    image.save(buffer, 'JPEG', quality=quality)
    return buffer.getvalue()


def photographs():
    """Fourteen parts of photographs of which no two are alike."""
    parts = []
    for name in ('astronaut', 'chelsea', 'coffee', 'rocket'):
        image = Image.fromarray(getattr(skimage.data, name)())
        for left, top in ((0, 0), (200, 0), (0, 120), (200, 120)):
            parts.append(image.crop((left, top, left + 200, top + 160)))
    return [*parts[:13], parts[13].resize((1000, 800))]


@pytest.fixture(scope='module')
def pile(tmp_path_factory):
    """Fourteen photographs, three duplicates and six bad files, in two categories."""
    folder = tmp_path_factory.mktemp('pile')
    images = photographs()
    for index, image in enumerate(images):
        file = folder / CATEGORIES[index % 2] / f'{index:02d}.jpg'
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(jpeg(image))
    bad = folder / 'bad'
    bad.mkdir()
    shutil.copy(folder / 'cats' / '00.jpg', folder / 'rockets' / 'renamed.jpg')
    (bad / 'reencoded.jpg').write_bytes(jpeg(images[1], 60))
    ImageOps.mirror(images[2]).resize((150, 120)).save(bad / 'mirrored.png')
    (bad / 'gray.jpg').write_bytes(jpeg(images[3].convert('L')))
    (bad / 'tinted.jpg').write_bytes(
        jpeg(ImageOps.colorize(images[4].convert('L'), '#201000', '#fff0d0'))
    )
    (bad / 'tiny.jpg').write_bytes(jpeg(images[5].resize((40, 40))))
    (bad / 'strip.jpg').write_bytes(jpeg(images[6].resize((400, 80))))
    (bad / 'cut.jpg').write_bytes((folder / 'rockets' / '01.jpg').read_bytes()[:3000])
    (bad / 'gone.jpg').symlink_to(folder / 'nowhere.jpg')
    return folder


def prepare(*arguments):
    return main(['prepare', '--workers=1', '--test=0.3', *map(str, arguments)])


@pytest.fixture(scope='module')
def prepared(pile, tmp_path_factory):
    """The folder that the pile is prepared in, by this process."""
    output = tmp_path_factory.mktemp('data') / 'pile'
    before = state(pile)
    assert prepare(f'--input={pile}', f'--output={output}') == 0
    assert state(pile) == before  # originals are not touched
    assert 'tensorflow' not in sys.modules
    return output


def state(folder):
    paths = [folder, *folder.rglob('*')]
    stats = {path: path.lstat() for path in paths}
    return contents(folder), {path: (s.st_mtime_ns, s.st_mode) for path, s in stats.items()}


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


def table(output):
    with (output / 'pictures.csv').open(newline='') as file:
        return {row['file']: row for row in csv.DictReader(file)}


def records(output):
    builder = tfds.builder_from_directory(next(output.glob('*/dataset_info.json')).parent)
    decoders = {'image': tfds.decode.SkipDecoding()}
    return {
        split: builder.as_data_source(split=split, decoders=decoders)
        for split in builder.info.splits
    }


def test_what_is_planted_is_dropped_for_its_reason(prepared):
    rows = table(prepared)
    fates = {name: row['decision'] for name, row in rows.items()}
    assert len(rows) == 23
    assert fates['bad/gray.jpg'] == fates['bad/tinted.jpg'] == 'gray'
    assert fates['bad/tiny.jpg'] == 'too_small'
    assert fates['bad/strip.jpg'] == 'too_elongated'
    assert fates['bad/cut.jpg'] == fates['bad/gone.jpg'] == 'undecodable'
    assert 'No such file' in rows['bad/gone.jpg']['detail']
    assert rows['rockets/renamed.jpg']['detail'] == 'the same file as cats/00.jpg'
    assert rows['bad/mirrored.png']['detail'] == 'looks like cats/02.jpg'
    # Equally large, the digest decides.
    assert {fates['bad/reencoded.jpg'], fates['rockets/01.jpg']} & {'duplicate'}
    report = json.loads((prepared / 'report.json').read_text())
    assert report['kept'] == 14
    assert report['dropped'] == {
        **{'undecodable': 2, 'too_small': 1, 'too_elongated': 1, 'gray': 2, 'duplicate': 3}
    }
    assert report['splits']['train'] + report['splits']['test'] == 14
    assert report['splits']['test'] > 0
    assert 'bad/tinted.jpg' in (prepared / 'report.html').read_text()


def test_the_data_set_holds_the_pictures_and_where_they_come_from(pile, prepared):
    rows = {
        row['name']: row for row in table(prepared).values() if row['decision'] in outcomes.SPLITS
    }
    seen = set()
    for split, source in records(prepared).items():
        order = [record['name'].decode() for record in source]
        assert order == sorted(order)
        for record in source:
            row = rows[record['name'].decode()]
            original = (pile / row['file']).read_bytes()
            assert row['decision'] == split
            assert row['name'] == hashlib.blake2b(original, digest_size=16).hexdigest()
            whole = Image.open(io.BytesIO(original))
            assert (record['original_width'], record['original_height']) == whole.size
            assert (row['width'], row['height']) == tuple(map(str, whole.size))
            image = Image.open(io.BytesIO(record['image']))
            assert min(image.size) == min(256, *whole.size)
            difference = np.asarray(image, float) - np.asarray(whole.resize(image.size), float)
            assert np.abs(difference).mean() < 3
            seen.add(row['name'])
    assert seen == rows.keys()


def test_both_addresses_read_it_with_its_labels(prepared, monkeypatch):
    monkeypatch.setenv('TFDS_DATA_DIR', str(prepared.parent))
    rows = {
        row['name']: row for row in table(prepared).values() if row['decision'] in outcomes.SPLITS
    }
    for address in (str(prepared), f'tfds:{prepared.name}'):
        source = make_source(address, 'train', labels=True)
        assert source.classes == ('bad', *CATEGORIES)
        assert len(source) == len(records(prepared)['train'])
        for index, record in enumerate(records(prepared)['train']):
            assert source[index]['image'] == record['image']
            label = source.classes[source[index]['label']]
            assert label == rows[record['name'].decode()]['category']


def test_neither_place_nor_order_nor_workers_change_a_bit(pile, prepared, tmp_path):
    other = tmp_path / 'elsewhere'
    files = [path for path in pile.rglob('*') if not path.is_dir()]
    random.Random(1).shuffle(files)
    for path in files:
        target = other / path.relative_to(pile)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target, follow_symlinks=False)
    (other / 'notes.pdf').write_bytes(b'%PDF-1.4')
    done = command(f'--input={other}', f'--output={tmp_path / "out"}', '--workers=2')
    assert done.returncode == 0, done.stderr
    assert f'{other}: 1 file is of a kind that is not read (.pdf 1)\n' in done.stderr
    assert '23 pictures to look at' in done.stderr
    assert 'Traceback' not in done.stderr
    assert 'WARNING' not in done.stderr
    assert contents(tmp_path / 'out') == contents(prepared)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['elsewhere', 'out']


def command(*arguments):
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_second_run_says_so_and_other_settings_or_pictures_are_refused(
    pile, prepared, tmp_path, capsys
):
    output = tmp_path / 'out'
    shutil.copytree(prepared, output)
    before = contents(output)
    assert prepare(f'--input={pile}', f'--output={output}') == 0
    assert 'is already prepared' in capsys.readouterr().err
    assert prepare(f'--input={pile}', f'--output={output}', '--size=64') == 1
    assert 'prepared from other settings: remove it' in capsys.readouterr().err
    assert prepare(f'--input={pile / "cats"}', f'--output={output}') == 1
    assert 'prepared from other pictures' in capsys.readouterr().err
    assert contents(output) == before
    assert [path.name for path in tmp_path.iterdir()] == ['out']


def test_a_folder_without_its_flag_is_asked_for_in_one_sentence(pile, tmp_path, capsys):
    assert prepare(f'--output={tmp_path}') == 1
    assert 'No photographs are named: add --input=DIR' in capsys.readouterr().err
    assert prepare(f'--output={tmp_path}', f'--input={pile}', '--source=tfds:mnist') == 1
    assert 'Set either --input=DIR or --source=tfds:NAME, not both.' in capsys.readouterr().err


def test_what_something_else_wrote_is_left_alone(pile, tmp_path, capsys):
    (tmp_path / 'note.txt').write_text('mine')
    assert prepare(f'--input={pile}', f'--output={tmp_path}') == 1
    assert 'was not prepared by this command' in capsys.readouterr().err
    assert contents(tmp_path) == {'note.txt': b'mine'}


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_ends_early_leaves_nothing_that_looks_whole(pile, prepared, tmp_path, number):
    output, hidden = tmp_path / 'out', tmp_path / '.out.incomplete'
    process = subprocess.Popen(
        [*COMMAND, f'--input={pile}', f'--output={output}', '--workers=2'],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(hidden.glob('staging/done/*')) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    told = process.communicate()[1].splitlines()
    assert not output.exists()
    if number == signal.SIGTERM:
        assert process.returncode == 75
        assert told[-1].startswith('chromagan_jax: Interrupted: nothing was written')
        assert len(told) == 2
        assert not hidden.exists()
    else:
        assert hidden.exists()
        assert prepare(f'--input={pile}', f'--output={output}') == 0
        assert contents(output) == contents(prepared)
        assert not hidden.exists()


def test_two_runs_do_not_work_on_one_output(pile, tmp_path, capsys):
    output = tmp_path / 'out'
    with lock.acquire(tmp_path / '.out.incomplete'):
        assert prepare(f'--input={pile}', f'--output={output}') == 1
    assert f'{output} is in use by process {os.getpid()} on ' in capsys.readouterr().err


def test_categories_come_from_a_csv_file(pile, tmp_path, capsys):
    labels = tmp_path / 'labels.csv'
    names = [str(path.relative_to(pile)) for path in pile.rglob('*') if not path.is_dir()]
    rows = [f'{name},{"even" if "0" in name else "odd one"}' for name in names]
    labels.write_text('\n'.join(['name,category', *rows]))
    arguments = (f'--input={pile}', f'--labels={labels}', f'--output={tmp_path / "out"}')
    assert prepare(*arguments) == 0
    assert make_source(str(tmp_path / 'out'), labels=True).classes == ('even', 'odd one')
    labels.write_text('\n'.join(rows[1:]))
    capsys.readouterr()
    assert prepare(*arguments) == 1
    assert f'has no line for {names[0]}' in capsys.readouterr().err


def test_an_export_holds_the_same_pictures_and_gray_copies(pile, prepared, tmp_path, capsys):
    arguments = (f'--input={pile}', f'--output={prepared}', f'--export={tmp_path / "files"}')
    assert prepare(*arguments) == 0
    for split, source in records(prepared).items():
        names = {f'{record["name"].decode()}.jpg': record['image'] for record in source}
        assert contents(tmp_path / 'files' / f'{split}_y') == names
        assert contents(tmp_path / 'files' / f'{split}_x').keys() == names.keys()
    (tmp_path / 'files' / 'export.json').unlink()  # nobody knows whose files these are
    capsys.readouterr()
    assert prepare(*arguments) == 1
    assert 'is not empty' in capsys.readouterr().err


def test_a_gray_copy_has_the_same_lightness():
    image = jpeg(photographs()[0])
    copy = Image.open(io.BytesIO(gray_copy(image)))
    assert copy.mode == 'L'
    # The JPEG of the copy costs about one step of 100.
    ours = color.encode(np.asarray(copy.convert('RGB')), 'lab')[0]
    theirs = color.encode(decode(image), 'lab')[0]
    assert np.abs(ours - theirs).mean() * 50 < 1


def entries(hashes):
    """Pictures with these hashes, all kept so far, in an order that says nothing."""
    found = []
    for index, phash in enumerate(hashes):
        digest = hashlib.blake2b(f'{index}'.encode(), digest_size=16).hexdigest()
        found.append(
            pictures.Kept(b'jpeg', 100 + index % 3, 100, 100, 100, 20.0, 10.0, phash, digest)
        )
    return random.Random(0).sample(list(enumerate(found)), len(found))


def decide(named, distance, staging):
    """What becomes of the pictures that have already been processed, by name."""
    for folder in ('pictures', 'plan'):
        (staging / folder).mkdir(parents=True)
    name = hashlib.blake2b(digest_size=16).hexdigest()
    with (staging / 'pictures' / name).open('wb') as file:
        tickets = [outcomes.stage(file, name, kept, (f'{index}', '')) for index, kept in named]
    job = pipeline.Job(Inputs(), '', str(staging), pictures.Options(), distance, 0.0, 0)
    with beam.Pipeline('FnApiRunner', beam.options.pipeline_options.PipelineOptions([])) as p:
        _ = p | beam.Create(tickets) | pipeline.Decide(job)
    plans = (outcomes.read_plan(str(staging), plan) for plan in (*outcomes.SPLITS, 'dropped'))
    return {int(one.name): (one.decision, one.detail) for one in itertools.chain(*plans)}


def test_of_near_duplicates_the_worse_is_dropped(tmp_path, monkeypatch):
    monkeypatch.setattr(duplicates, 'BLOCK', 16)
    rng = random.Random(2)
    hashes = [rng.getrandbits(63) for _ in range(30)]
    for base in hashes[:20]:  # chains, mirror images and just too far
        for flips in (3, 6, 7):
            near = base ^ sum(1 << bit for bit in rng.sample(range(63), flips))
            hashes.append(pictures.mirrored(near) if flips == 6 else near)
    hashes += [0] * 60  # blank pictures, and more of a band than are compared at once
    hashes += [rng.getrandbits(20) << 20 for _ in range(60)]
    named = entries(hashes)
    expected = {}
    ranked = sorted(named, key=lambda pair: pictures.rank(pair[1]))
    for place, (index, one) in enumerate(ranked):
        better = [
            other for other, kept in ranked[:place] if pictures.near(one.phash, kept.phash, 6)
        ]
        expected[index] = 'duplicate' if better else 'train'
    found = decide(named, 6, tmp_path / 'a')
    assert {index: decision for index, (decision, _) in found.items()} == expected
    kept = {index: one for index, one in named if found[index][0] == 'train'}
    for index, one in named:
        decision, detail = found[index]
        if decision == 'duplicate':  # it names one that is better indeed
            other = dict(named)[int(detail.removeprefix('looks like '))]
            assert pictures.near(one.phash, other.phash, 6)
            assert pictures.rank(other) < pictures.rank(one)
    assert decide(named[::-1], 6, tmp_path / 'b') == found
    hashes = [one.phash for one in kept.values()]
    assert not any(pictures.near(a, b, 6) for a, b in itertools.combinations(hashes, 2))


def test_shards_are_ranges_of_digests_and_none_is_empty(tmp_path):
    (tmp_path / 'plan').mkdir()
    sizes = {'00': 50, '01': 10, '7f': 30, '80': 30, 'ff': 100}
    for bucket, size in sizes.items():
        outcome = outcomes.Outcome(bucket + 'a' * 30, 'x', '', 'train', '', (), 'f', 0, size)
        outcomes.write_plan(str(tmp_path), ('train', bucket), [outcome])
    for shard_bytes, count in ((1000, 1), (110, 2), (50, 4), (1, 5)):
        ranges = builders.divide(str(tmp_path), 'train', shard_bytes)
        assert len(ranges) == count
        held = [sum(s for b, s in sizes.items() if lo <= int(b, 16) < hi) for lo, hi in ranges]
        assert sum(held) == sum(sizes.values())
        assert min(held) > 0
    assert builders.divide(str(tmp_path), 'test') == []


class Tiny(tfds.core.GeneratorBasedBuilder):
    """A data set of someone else's: PNG files, more features, classes."""

    VERSION = tfds.core.Version('2.1.0')
    pkg_dir_path = epath.Path(ROOT)  # where TFDS looks for texts about it

    def _info(self):
        features = {
            'image': tfds.features.Image(),
            'objects': tfds.features.Sequence({'id': np.int64}),
            'label': tfds.features.ClassLabel(names=['tench', 'church']),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {'train': self._generate_examples()}

    def _generate_examples(self):
        def example(index, image):
            buffer = io.BytesIO()
            image.save(buffer, 'PNG')
            return index, {
                'image': io.BytesIO(buffer.getvalue()),
                'objects': {'id': [index]},
                'label': index % 2,
            }

        images = [*photographs()[:5], photographs()[0].convert('L')]
        return beam.Create(list(enumerate(images))) | beam.MapTuple(example)


def test_a_set_of_tfds_goes_through_the_same_filters(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
    runner = tfds.download.DownloadConfig(
        beam_runner='FnApiRunner', beam_options=beam.options.pipeline_options.PipelineOptions([])
    )
    builder = Tiny(data_dir=tmp_path)
    builder.download_and_prepare(file_format='array_record', download_config=runner)
    assert prepare('--source=tfds:tiny', f'--output={tmp_path / "clean"}') == 0
    rows = table(tmp_path / 'clean')
    assert sorted(rows) == [f'train/{index:08d}' for index in range(6)]
    fates = sorted(row['decision'] for row in rows.values())
    assert fates.count('gray') == 1
    assert fates.count('train') + fates.count('test') == 5
    source = make_source('tfds:clean', 'train+test', labels=True)
    assert source.classes == ('tench', 'church')
    assert len(source) == 5
    assert sorted(source[i]['label'] for i in range(5)) in ([0, 0, 0, 1, 1], [0, 0, 1, 1, 1])
    assert prepare('--source=tfds:unknown', f'--output={tmp_path / "none"}') == 1
    assert 'tfds:unknown is not prepared' in capsys.readouterr().err
    assert 'tensorflow' not in sys.modules


def test_pictures_without_a_category_have_no_label(pile, tmp_path):
    both = [f'--input={pile / name}' for name in CATEGORIES]
    assert prepare(*both, '--test=0', f'--output={tmp_path / "out"}') == 0
    source = make_source(str(tmp_path / 'out'))
    assert source.num_classes == 0
    assert {source[index]['label'] for index in range(len(source))} == {-1}
    assert 'cats/00.jpg' in table(tmp_path / 'out')
    assert list(records(tmp_path / 'out')) == ['train']


def test_without_beam_the_extra_is_named(pile, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'apache_beam', None)
    assert prepare(f'--input={pile}', f'--output={tmp_path / "out"}') == 1
    told = capsys.readouterr().err
    assert "apache_beam: install the extra with `pip install 'chromagan_jax[prepare]'`" in told
    assert told.count('\n') == 1


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        ([], 'add --input=DIR or --source=tfds:NAME'),
        (['--input=a', '--source=tfds:b'], 'either --input=DIR or --source=tfds:NAME'),
        (['--input=a'], '--output is missing'),
        (['--input=a', '--output=b', 'c'], "'c' is not a flag"),
        (['--input=a', '--output=b', '--test=2'], '--test=2.0 is out of range'),
        (['--input=a', '--output=b', '--workers=x'], '--workers'),
        (['--input=a', '--output=b', '--wokers=2'], '--wokers'),
        (['--input=missing', '--output=b'], 'missing is not a folder'),
        (['--input=.', '--output=b'], '. holds no images'),
        (['--source=tfds:b', '--labels=c', '--output=b'], '--labels works only with --input'),
        (['--input=gs://a', '--output=b'], 'name one on a disk, or set --source to the bucket.'),
        (['--input=a', '--output=s3://b'], '--output=s3://b is no folder: name one on a disk.'),
        (['--input=a', '--output=b', '--export=gs://c'], '--export=gs://c is no folder'),
        (['--input=a', '--output=b', '--export=./b'], '--export and --output are the same'),
    ],
)
def test_mistakes_end_in_one_sentence(arguments, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(['prepare', *arguments]) == 1
    told = capsys.readouterr().err
    assert sentence in told
    assert told.count('\n') == 1
    assert list(tmp_path.iterdir()) == []


def test_a_pile_of_which_nothing_is_left_says_why(pile, tmp_path, capsys):
    for name in ('gray.jpg', 'tiny.jpg', 'cut.jpg'):
        shutil.copy(pile / 'bad' / name, tmp_path)
    arguments = (f'--input={tmp_path}', f'--output={tmp_path / "out"}')
    assert prepare(*arguments) == 1
    told = capsys.readouterr().err
    assert 'No picture is left (1 gray, 1 too_small, 1 undecodable)' in told
    assert not (tmp_path / 'out').exists()


def test_a_worker_tells_of_a_full_disk_in_a_sentence(pile, tmp_path, monkeypatch, capsys):
    def fail(self, *_):
        raise UserError('/there cannot be written (No space left on device): make room.')

    monkeypatch.setattr(outcomes.Outcome, 'of', fail)
    assert prepare(f'--input={pile}', f'--output={tmp_path / "out"}') == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == ('chromagan_jax: /there cannot be written (No space left on device): make room.')
    assert list(tmp_path.iterdir()) == []
