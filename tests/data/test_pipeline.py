"""Batches are a function of the seed and the step, whoever asks for which part of them and how."""

import contextlib
import itertools
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
import skimage.data
import skimage.transform
from PIL import Image

from chromagan_jax import color
from chromagan_jax.data import pipeline, transforms
from chromagan_jax.data.decode import KINDS, UnreadableImage, crop_square, decode, resize_short
from chromagan_jax.data.pipeline import eval_batches, train_batches
from chromagan_jax.data.sources import Picked, make_source
from chromagan_jax.data.transforms import read_image, report_unreadable, substitute
from chromagan_jax.errors import UserError

SIZE = 16
OPTIONS = {'size': SIZE, 'resize_ratio': 1.25, 'flip': True, 'space': 'lab', 'seed': 3}


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """Eleven photographs of different shapes, some smaller than the load size, in two classes."""
    root = tmp_path_factory.mktemp('photos')
    coffee = skimage.data.coffee()
    for index in range(11):
        height, width = 12 + 5 * index, 60 - 4 * index
        part = coffee[20 * index : 20 * index + height, 30 * index : 30 * index + width]
        save(root / 'ab'[index % 2] / f'{index:02}.png', part)
    return make_source(str(root), labels=True)


def take(source, steps, rows=None, batch_size=4, **options):
    rows = range(batch_size) if rows is None else rows
    batches = train_batches(
        source, **(OPTIONS | {'batch_size': batch_size, 'rows': rows} | options)
    )
    try:
        return list(itertools.islice(batches, steps))
    finally:
        batches.close()


def assert_equal(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert one[name].dtype == other[name].dtype
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.fixture(scope='module')
def reference(photos):
    """Seven batches of four: two and a half epochs."""
    return take(photos, 7, labels=True)


def test_batches_have_the_shapes_and_types_of_the_contract(photos, reference):
    for space, channels, low, high in [('lab', 2, -1, 1), ('rgb', 3, 0, 1)]:
        (batch,) = take(photos, 1, space=space)
        assert set(batch) == {'condition', 'target', 'unreadable', 'damage'}
        assert batch['condition'].shape == (4, SIZE, SIZE, 1)
        assert batch['target'].shape == (4, SIZE, SIZE, channels)
        for name in ('condition', 'target'):
            assert batch[name].dtype == np.float32
            assert low <= batch[name].min() < batch[name].max() <= high
        np.testing.assert_array_equal(batch['unreadable'], [-1] * 4)
    assert reference[0]['label'].dtype == np.int32
    assert {int(v) for batch in reference for v in batch['label']} == {0, 1}


@pytest.mark.parametrize(
    'parts',
    [
        [[0, 1], [2, 3]],
        [[0, 2], [1, 3]],
        [[3], [1], [0], [2]],
        [[2, 0, 3, 1]],
        [[0, 1, 2], [3]],
    ],
)
def test_processes_that_share_the_rows_see_the_batches_of_one_process(photos, reference, parts):
    shares = [take(photos, 7, rows=rows, labels=True) for rows in parts]
    order = np.argsort(np.concatenate(parts))
    assembled = [
        {name: np.concatenate([b[name] for b in batches])[order] for name in batches[0]}
        for batches in zip(*shares, strict=True)
    ]
    assert_equal(assembled, reference)


@pytest.mark.slow
@pytest.mark.parametrize('workers', [pytest.param(1, marks=pytest.mark.slow), 2])
def test_worker_processes_change_nothing(photos, reference, workers):
    assert_equal(take(photos, 7, labels=True, workers=workers), reference)
    resumed = take(photos, 2, rows=[2, 1], labels=True, workers=workers, start_step=3)
    assert_equal(resumed, [{k: v[[2, 1]] for k, v in b.items()} for b in reference[3:5]])


@pytest.mark.parametrize(('threads', 'prefetch'), [(0, 0), (1, 1), (4, 2)])
def test_threads_and_prefetching_change_nothing(photos, reference, threads, prefetch):
    batches = take(photos, 7, labels=True, threads=threads, prefetch=prefetch)
    assert_equal(batches, reference)


def test_a_run_may_start_again_at_any_step(photos, reference):
    for step in range(7):
        assert_equal(take(photos, 7 - step, labels=True, start_step=step), reference[step:])


def test_a_late_step_is_reached_at_once(photos):
    first, second = take(photos, 2, start_step=10**12)  # one by one this would take years
    assert_equal(take(photos, 1, start_step=10**12 + 1), [second])
    assert np.abs(first['target'] - second['target']).max() > 0


@pytest.fixture(scope='module')
def marked(tmp_path_factory):
    """Ten photographs, each of one gray that is its number, so that a batch says whom it holds."""
    root = tmp_path_factory.mktemp('marked')
    for index in range(10):
        save(root / f'{index}.png', np.full((20, 20, 3), 20 * index, np.uint8))
    return make_source(str(root))


def records(batches, rows=slice(None)):
    """Which of the marked photographs the batches hold."""
    grays = np.concatenate([batch['target'][rows, 0, 0, 0] for batch in batches])
    return np.rint(grays * 255 / 20).astype(int).tolist()


def test_every_epoch_visits_every_record_once_in_an_order_of_its_own(marked):
    sequence = records(take(marked, 15, batch_size=4, space='rgb'))
    epochs = [sequence[start : start + 10] for start in range(0, 60, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_the_sequence_does_not_depend_on_how_it_is_cut_into_batches(marked):
    sequences = [
        records(take(marked, 60 // size, batch_size=size, space='rgb')) for size in (1, 4, 15)
    ]
    assert sequences[0] == sequences[1] == sequences[2]


def test_the_seed_decides_order_and_augmentation(photos, marked):
    orders = {tuple(records(take(marked, 5, space='rgb', seed=seed))) for seed in range(8)}
    assert len(orders) == 8
    one = make_source(str(pathlib.Path(photos.root, 'a')))
    crops = [take(one, 3, seed=seed)[0]['condition'] for seed in (0, 1)]
    assert np.abs(crops[0] - crops[1]).max() > 0


@pytest.fixture(scope='module')
def single(tmp_path_factory):
    """One photograph, 40 x 60."""
    root = tmp_path_factory.mktemp('single')
    save(root / 'only.png', skimage.data.chelsea()[100:140, 120:180])
    return make_source(str(root))


def test_augmentation_differs_each_time_a_photograph_comes_round(single):
    (batch,) = take(single, 1, batch_size=20)
    assert len({crop.tobytes() for crop in batch['condition']}) >= 18
    (plain,) = take(single, 1, batch_size=20, flip=False)
    same = np.isclose(plain['condition'], batch['condition'], atol=1e-5).all((1, 2, 3))
    mirror = plain['condition'][:, :, ::-1]
    mirrored = np.isclose(mirror, batch['condition'], atol=1e-5).all((1, 2, 3))
    assert (same | mirrored).all()
    assert 3 <= mirrored.sum() <= 17


def test_crops_are_uniform_over_the_positions(single):
    (batch,) = take(single, 1, batch_size=400, size=20, resize_ratio=2, flip=False, space='rgb')
    pixels = decode(single[0]['image'])
    counts = np.zeros((21, 41), int)
    for target in np.rint(batch['target'] * 255):
        found = [
            (y, x)
            for y, x in itertools.product(range(21), range(41))
            if (target[0, 0] == pixels[y, x]).all()
            and (target == pixels[y : y + 20, x : x + 20]).all()
        ]
        assert len(found) == 1
        counts[found[0]] += 1
    assert 140 <= counts[:, :20].sum() <= 250  # 400 * 20/41 = 195, five standard deviations
    assert 140 <= counts[:10].sum() <= 240  # 400 * 10/21 = 190
    assert counts[0].any()
    assert counts[-1].any()
    assert counts[:, 0].any()
    assert counts[:, -1].any()


def test_scales_of_crops_are_uniform_between_the_two_ratios(tmp_path):
    ramp = np.tile(np.linspace(0, 255, 240).round().astype(np.uint8), (240, 1))
    save(tmp_path / 'ramp.png', np.stack([ramp, ramp.T, ramp * 0], -1))
    (batch,) = take(
        *(make_source(str(tmp_path)), 1),
        **{'batch_size': 300, 'size': 20, 'resize_ratio': 1, 'max_resize_ratio': 2},
        **{'flip': False, 'space': 'rgb'},
    )
    red = batch['target'][..., 0].mean(1)
    shares = (red[:, 18] - red[:, 1]) * 20 / 17  # of the short side, by the slope of the ramp
    assert shares.min() == pytest.approx(0.5, abs=0.03)
    assert shares.max() == pytest.approx(1, abs=0.03)
    counts, _ = np.histogram(shares, 5, (0.5, 1))
    assert counts.min() > 30
    green = batch['target'][..., 1].mean(2)
    np.testing.assert_allclose((green[:, 18] - green[:, 1]) * 20 / 17, shares, atol=0.02)


def test_cropping_first_is_resizing_first(single):
    """A 40 x 60 photograph at load size 20 and crop 10: every crop is one of the resized whole."""
    (batch,) = take(single, 1, batch_size=60, size=10, resize_ratio=2, flip=False, space='rgb')
    pixels = decode(single[0]['image'])
    whole = pixels.reshape(20, 2, 30, 2, 3).mean((1, 3))
    aligned = 0
    for target in batch['target'] * 255:
        errors = np.array(
            [np.abs(target - whole[y : y + 10, x : x + 10]).max() for y, x in np.ndindex(11, 21)]
        )
        aligned += errors.min() <= 0.51
    assert aligned >= 5  # a quarter of the positions lie on the grid of the resized photograph


def test_cropping_first_is_resizing_first_for_any_ratio(tmp_path):
    y, x = np.mgrid[0:227, 0:300] / 227
    smooth = np.stack([np.sin(3 * y + x), np.cos(2 * x), np.sin(4 * x * y)], -1) * 100 + 128
    save(tmp_path / 'smooth.png', smooth.astype(np.uint8))
    source = make_source(str(tmp_path))
    load = round(64 * 286 / 256)
    (batch,) = take(
        source, 1, batch_size=8, size=64, resize_ratio=286 / 256, flip=False, space='rgb'
    )
    whole = skimage.transform.resize(smooth, (load, round(load * 300 / 227)), anti_aliasing=True)
    for target in batch['target'] * 255:
        errors = [
            np.abs(target[::4, ::4] - whole[y : y + 64 : 4, x : x + 64 : 4]).mean()
            for y, x in np.ndindex(load - 64 + 1, whole.shape[1] - 64 + 1)
        ]
        assert min(errors) < 1.5
        assert np.median(errors) > 4


def test_small_photographs_are_enlarged(tmp_path):
    save(tmp_path / 'tiny.png', skimage.data.astronaut()[100:107, 200:209])
    save(tmp_path / 'pixel.png', np.full((1, 1, 3), 90, np.uint8))
    source = make_source(str(tmp_path))
    batches = take(source, 2, batch_size=2, size=32)
    assert all(batch['target'].shape == (2, 32, 32, 2) for batch in batches)
    (batch,) = list(eval_batches(source, size=32, space='rgb', batch_size=2, rows=[0, 1]))
    np.testing.assert_allclose(batch['target'][0] * 255, 90, atol=1e-3)
    assert batch['target'][1].std() > 0


def test_gray_photographs_have_no_chroma(tmp_path):
    save(tmp_path / 'gray.png', skimage.data.astronaut()[:64, :64, 0])
    (batch,) = take(make_source(str(tmp_path)), 1)
    assert np.abs(batch['target'] * 110).max() < 0.01
    assert batch['condition'].std() > 0.1


def test_examples_are_what_color_encodes(marked):
    (lab,), (rgb,) = take(marked, 1, space='lab'), take(marked, 1, space='rgb')
    pixels = np.rint(rgb['target'] * 255).astype(np.uint8)
    condition, target = color.encode(pixels, 'lab')
    np.testing.assert_allclose(lab['condition'], condition, atol=1e-6)
    np.testing.assert_allclose(lab['target'], target, atol=1e-6)


@pytest.fixture
def damaged(marked, tmp_path):
    """The marked photographs; number 4 is cut short and number 7 is no image."""
    for index in range(10):
        data = pathlib.Path(marked.root, f'{index}.png').read_bytes()
        (tmp_path / f'{index}.png').write_bytes({4: data[:-30], 7: b'text'}.get(index, data))
    return make_source(str(tmp_path))


def test_unreadable_records_are_replaced_and_nothing_else_changes(marked, damaged):
    whole, found = take(marked, 9, space='rgb'), take(damaged, 9, space='rgb')
    numbers, others = records(whole), records(found)
    unreadable = np.concatenate([batch['unreadable'] for batch in found]).tolist()
    assert {4, 7} == set(unreadable) - {-1}
    for number, other, bad in zip(numbers, others, unreadable, strict=True):
        assert bad == (number if number in (4, 7) else -1)
        assert other == number if bad < 0 else other not in (4, 7)
    damage = np.concatenate([batch['damage'] for batch in found])
    kinds = {4: 1 + KINDS.index('damaged'), 7: 1 + KINDS.index('no_image')}
    assert damage.dtype == np.int32
    assert damage.tolist() == [kinds.get(number, 0) for number in numbers]
    stand_ins = {(number, other) for number, other in zip(numbers, others, strict=True)}
    assert len(stand_ins) == 10  # the same one each time
    assert_equal(take(damaged, 9, space='rgb', threads=4), found)


@pytest.mark.slow
def test_a_worker_process_replaces_unreadable_records_as_a_thread_does(damaged):
    found = take(damaged, 9, space='rgb')
    assert_equal(take(damaged, 9, space='rgb', workers=1), found)


def test_an_outage_of_a_bucket_is_no_unreadable_record(marked):
    class Busy(Picked):
        def __getitem__(self, index):
            raise OSError('SlowDown: Please reduce your request rate')

    with pytest.raises(OSError, match='SlowDown'):
        take(Busy(marked, range(10)), 1)


def test_unreadable_records_are_reported_once_with_their_reason(damaged):
    seen = set()
    sentences = report_unreadable(damaged, np.array([7, -1, 4, 7]), seen)
    assert len(sentences) == 2
    assert sentences[0].startswith('4.png cannot be read (')
    assert 'truncated' in sentences[0]
    assert sentences[1].startswith('7.png cannot be read (not a JPEG')
    assert all(sentence.endswith('and is replaced') for sentence in sentences)
    assert report_unreadable(damaged, [4, 7], seen) == []
    assert seen == {4, 7}


def test_a_file_that_vanishes_is_replaced_too(damaged):
    pathlib.Path(damaged.root, '2.png').unlink()
    with pytest.raises(UnreadableImage, match='No such file') as error:
        read_image(damaged, 2)
    assert error.value.kind == 'no_file'
    found = take(damaged, 5, space='rgb')
    assert 2 not in records(found)
    assert 2 in {int(v) for batch in found for v in batch['unreadable']}


def test_the_label_is_that_of_the_photograph_that_is_shown(tmp_path):
    save(tmp_path / 'good' / '1.png', np.full((20, 20, 3), 200, np.uint8))
    (tmp_path / 'bad').mkdir()
    (tmp_path / 'bad' / '1.png').write_bytes(b'')
    batches = take(make_source(str(tmp_path), labels=True), 2, labels=True)
    assert all((batch['label'] == 1).all() for batch in batches)
    assert any((batch['unreadable'] == 0).any() for batch in batches)


@pytest.mark.parametrize('workers', [0, 1])
def test_a_source_without_one_readable_image_is_named(tmp_path, workers):
    for index in range(3):
        (tmp_path / f'{index}.jpg').write_bytes(b'nothing')
    source = make_source(str(tmp_path))
    with pytest.raises(UserError, match=f'{tmp_path} and 16 substitutes cannot be read'):
        take(source, 1, workers=workers)


def test_substitutes_spread_over_all_records():
    picks = np.array([substitute(index, 0, 50) for index in range(5000)])
    counts = np.bincount(picks, minlength=50)
    assert len(counts) == 50
    assert 50 < counts.min() <= counts.max() < 160
    assert len({substitute(7, attempt, 10**9) for attempt in range(16)}) == 16


def test_evaluation_sees_every_record_once_in_order_and_pads_the_last_batch(marked):
    (first, second, third) = list(
        eval_batches(marked, size=8, space='rgb', batch_size=4, rows=range(4))
    )
    assert records([first, second, third], slice(None))[:10] == list(range(10))
    np.testing.assert_array_equal(third['mask'], np.float32([1, 1, 0, 0]))
    np.testing.assert_array_equal(third['index'], [8, 9, -1, -1])
    np.testing.assert_array_equal(first['index'], [0, 1, 2, 3])
    assert (third['condition'][2:] == 0).all()
    assert (third['target'][2:] == 0).all()
    assert first['mask'].dtype == np.float32
    assert first['index'].dtype == first['unreadable'].dtype == np.int64


def test_evaluation_is_the_same_for_every_number_of_processes_and_workers(marked):
    whole = list(eval_batches(marked, size=8, space='lab', batch_size=4, rows=range(4)))
    shares = [
        list(eval_batches(marked, size=8, space='lab', batch_size=4, rows=rows, workers=workers))
        for rows, workers in [([0, 1], 0), ([2, 3], 1)]
    ]
    assembled = [
        {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
        for batches in zip(*shares, strict=True)
    ]
    assert_equal(assembled, whole)


def test_evaluation_masks_unreadable_records_out(damaged):
    batches = list(eval_batches(damaged, size=8, space='lab', batch_size=5, rows=range(5)))
    np.testing.assert_array_equal(batches[0]['mask'], [1, 1, 1, 1, 0])
    np.testing.assert_array_equal(batches[0]['unreadable'], [-1, -1, -1, -1, 4])
    np.testing.assert_array_equal(batches[1]['unreadable'], [-1, -1, 7, -1, -1])
    np.testing.assert_array_equal(batches[0]['index'], range(5))
    assert (batches[0]['condition'][4] == 0).all()


def test_evaluation_takes_the_centre_of_the_resized_photograph(single):
    (batch,) = list(eval_batches(single, size=20, space='rgb', batch_size=1, rows=[0]))
    expected = crop_square(resize_short(decode(single[0]['image']), 20), 20)
    assert np.abs(batch['target'][0] * 255 - expected).max() <= 1
    (batch,) = list(eval_batches(single, size=80, space='rgb', batch_size=1, rows=[0]))
    expected = crop_square(resize_short(decode(single[0]['image']), 80), 80)
    assert np.abs(batch['target'][0] * 255 - expected)[:, 4:-4].max() <= 1  # the crop's own border


@pytest.mark.slow
def test_closing_ends_the_worker_processes(photos):
    batches = train_batches(photos, **OPTIONS, batch_size=4, rows=range(4), workers=2)
    next(batches), next(batches)  # one of each
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    batches.close()
    assert not any(worker.is_alive() for worker in workers)
    with pytest.raises(StopIteration):
        next(batches)


@pytest.mark.slow
def test_workers_outlive_a_signal_to_all_but_not_the_main_process(photos):
    """SIGTERM to all processes of a job leaves the workers to the main one, whose end is theirs."""
    script = (
        'import multiprocessing, sys\n'
        'from absl import flags\n'
        'from chromagan_jax.data.pipeline import train_batches\n'
        'from chromagan_jax.data.sources import make_source\n'
        "if __name__ == '__main__':\n"
        "    flags.FLAGS(['x'])\n"
        '    batches = train_batches(make_source(sys.argv[1]), size=8, resize_ratio=1, flip=True,\n'
        "        space='lab', seed=0, batch_size=2, rows=[0, 1], workers=2)\n"
        '    next(batches), next(batches)\n'
        '    print(*(w.pid for w in multiprocessing.active_children()), flush=True)\n'
        '    sys.stdin.readline()\n'
        '    for _ in range(20):\n'
        '        next(batches)\n'
        "    print('alive', flush=True)\n"
        '    sys.stdin.readline()\n'
    )
    main = pathlib.Path(photos.root).parent / 'main.py'
    main.write_text(script)
    process = subprocess.Popen(
        [sys.executable, str(main), photos.root],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {'PYTHONPATH': str(pathlib.Path(pipeline.__file__).parents[2])},
    )
    workers = [int(pid) for pid in process.stdout.readline().split()]
    try:
        assert len(workers) == 2
        for pid in workers:
            os.kill(pid, signal.SIGTERM)
        process.stdin.write('\n')
        process.stdin.flush()
        assert process.stdout.readline() == 'alive\n'
        process.kill()
        # The workers hold the write end of this pipe: its end of file comes when both are gone.
        process.communicate(timeout=20)
    finally:
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_a_process_reads_no_rows_but_its_own(photos, monkeypatch):
    read = []
    original = transforms.read_image
    monkeypatch.setattr(transforms, 'read_image', lambda *a: read.append(a[1]) or original(*a))
    take(photos, 3, rows=[1], threads=0, prefetch=0)
    assert len(read) == 3
