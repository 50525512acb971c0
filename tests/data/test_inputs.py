import os
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest
import skimage.data
from jax.sharding import Mesh, NamedSharding

from chromagan_jax import sharding
from chromagan_jax.data import inputs
from chromagan_jax.data.pipeline import eval_batches, train_batches
from chromagan_jax.data.sources import Source, make_source
from chromagan_jax.errors import UserError
from chromagan_jax.utils import files


@pytest.fixture(scope='module')
def source(tmp_path_factory) -> Source:
    """Nineteen photographs in two folders, a class each, 40 x 48 px."""
    folder = tmp_path_factory.mktemp('photographs')
    for index in range(19):
        path = folder / ('ab'[index % 2]) / f'{index:02d}.png'
        path.parent.mkdir(exist_ok=True)
        crop = skimage.data.astronaut()[9 * index : 9 * index + 240 : 6, 30:318:6]
        files.write_png(path, np.ascontiguousarray(crop))
    return make_source(str(folder), labels=True)


@pytest.fixture
def mesh() -> Mesh:
    return sharding.make_mesh()


def take(batches: Generator[dict[str, np.ndarray], None, None], count: int) -> list[dict]:
    taken = [next(batches) for _ in range(count)]
    batches.close()
    return taken


def assert_batches_equal(got: list[dict], expected: list[dict]) -> None:
    for a, b in zip(got, expected, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


@pytest.fixture
def opened(monkeypatch) -> list[tuple]:
    """What `open_sources` asks of `make_source`, which it then does not get."""
    asked: list[tuple] = []

    def note(source: str, split: str = 'train', labels: bool = False) -> tuple:
        asked.append((source, split, labels))
        return asked[-1]

    monkeypatch.setattr(inputs, 'make_source', note)
    return asked


def test_an_empty_training_source_is_named_with_the_mend(tiny):
    tiny.data.source = ''
    with pytest.raises(UserError, match=r'data\.source is empty.*--config\.data\.source=DIR'):
        inputs.open_sources(tiny)


@pytest.mark.parametrize('field', ['data', 'eval'])
def test_a_source_that_does_not_exist_is_named(tiny, tmp_path, field):
    getattr(tiny, field).source = str(tmp_path / 'nowhere')
    with pytest.raises(UserError, match='nowhere does not exist'):
        inputs.open_sources(tiny)


@pytest.mark.parametrize(
    ('eval_source', 'expected'), [('', 'tfds:x'), ('tfds:x', 'tfds:x'), ('held/out', 'held/out')]
)
def test_each_source_is_read_at_its_own_split(tiny, opened, eval_source, expected):
    tiny.data = replace(tiny.data, source='tfds:x', split='train[:90%]', labels=True)
    tiny.eval = replace(tiny.eval, source=eval_source, split='test')
    trained_on, evaluated_on = inputs.open_sources(tiny)
    assert trained_on == ('tfds:x', 'train[:90%]', True)
    assert evaluated_on == (expected, 'test', False)  # nothing is scored by class


def test_both_sources_are_opened(tiny, source, tmp_path):
    files.write_png(tmp_path / 'only.png', np.zeros((4, 4, 3), np.uint8))
    tiny.data.source, tiny.eval.source = source.location, str(tmp_path)
    trained_on, evaluated_on = inputs.open_sources(tiny)
    assert (len(trained_on), len(evaluated_on)) == (19, 1)
    tiny.eval.source = ''
    assert inputs.open_sources(tiny)[1].fingerprint == source.fingerprint


def configured(tiny: Any) -> Any:
    """A config in which no field of the input has the value that a default could give it."""
    tiny = replace(tiny, seed=11, batch_size=16, color_space='rgb')
    tiny.data = replace(tiny.data, size=16, resize_ratio=1.25, flip=False, labels=True)
    tiny.data = replace(tiny.data, max_resize_ratio=1.5)
    tiny.data = replace(tiny.data, workers=3, threads=5, prefetch=7)
    tiny.eval = replace(tiny.eval, size=24, batch_size=11)
    return tiny


def test_training_input_passes_on_every_field(tiny, source, mesh, monkeypatch):
    monkeypatch.setattr(inputs, 'train_batches', lambda *args, **fields: (args, fields))
    got: Any = inputs.training_input(configured(tiny), source, mesh, 6)
    expected = {
        'size': 16,
        'resize_ratio': 1.25,
        'max_resize_ratio': 1.5,
        'flip': False,
        'space': 'rgb',
        'seed': 11,
        'batch_size': 16,
        'rows': list(range(16)),
        'start_step': 6,
        'workers': 3,
        'threads': 5,
        'prefetch': 7,
        'labels': True,
    }
    assert got == ((source,), expected)


def test_training_input_yields_the_batches_that_follow_the_step(tiny, source, mesh):
    config = configured(tiny)
    config.data.workers = 0
    got = take(inputs.training_input(config, source, mesh, 2), 2)
    whole = train_batches(
        source,
        size=16,
        resize_ratio=1.25,
        max_resize_ratio=1.5,
        flip=False,
        space='rgb',
        seed=11,
        batch_size=16,
        rows=range(16),
        labels=True,
    )
    assert_batches_equal(got, take(whole, 4)[2:])
    assert got[0]['target'].shape == (16, 16, 16, 3)
    assert set(got[0]['label']) == {0, 1}


@pytest.mark.parametrize('workers', [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_batch_lands_on_the_cpu_without_a_copy(tiny, source, mesh, workers):
    tiny.data.workers = workers
    tiny.batch_size = 8 * mesh.size
    tiny.data.size = 16
    (batch,) = take(inputs.training_input(tiny, source, mesh, 0), 1)
    placed = sharding.to_global(batch, mesh)
    for name in ('condition', 'target'):
        rows = batch[name].ctypes.data
        for shard in placed[name].addressable_shards:
            assert shard.data.unsafe_buffer_pointer() == rows
            rows += shard.data.nbytes


def pretend(patch: pytest.MonkeyPatch, process: int, of: int) -> None:
    """Lets JAX take every `of`-th device, from number `process` on, for this process's own."""

    def own(self: Any, shape: tuple[int, ...]) -> dict:
        indices = self.devices_indices_map(shape).items()
        return {device: index for device, index in indices if device.id % of == process}

    patch.setattr(NamedSharding, 'addressable_devices_indices_map', own)


@pytest.mark.parametrize('fsdp', [1, 4])
@pytest.mark.parametrize('accumulate', [1, 2])
@pytest.mark.parametrize('processes', [2, 4])
def test_the_processes_together_read_each_row_of_the_global_batch_once(
    tiny, source, processes, accumulate, fsdp
):
    tiny = replace(tiny, batch_size=16, grad_accum_steps=accumulate)
    tiny.data.size = 8
    mesh = sharding.make_mesh(fsdp)
    whole = take(inputs.training_input(tiny, source, mesh, 3), 1)[0]
    expected = whole['target'].reshape(accumulate, 8, -1, *whole['target'].shape[1:])
    held: list[int] = []
    for process in range(processes):
        with pytest.MonkeyPatch.context() as patch:
            pretend(patch, process, processes)
            rows = sharding.local_rows(mesh, 16, accumulate)
            own = take(inputs.training_input(tiny, source, mesh, 3), 1)[0]
        held += rows
        np.testing.assert_array_equal(own['target'], whole['target'][rows])
        # Device d works on the d-th eighth of every micro-batch.
        mine = expected[:, process::processes]
        np.testing.assert_array_equal(own['target'], mine.reshape(-1, *mine.shape[3:]))
    assert sorted(held) == list(range(16))


@pytest.mark.parametrize(
    ('asked', 'devices', 'given'), [(1, 8, 8), (8, 8, 8), (9, 8, 16), (11, 4, 12), (5, 1, 5)]
)
def test_evaluation_input_passes_on_every_field_and_rounds_the_batch_up_to_the_devices(
    tiny, source, monkeypatch, asked, devices, given
):
    monkeypatch.setattr(inputs, 'eval_batches', lambda *args, **fields: (args, fields))
    config = configured(tiny)
    config.eval.batch_size = asked
    mesh = sharding.make_mesh(devices=jax.devices()[:devices])
    got: Any = inputs.evaluation_input(config, source, mesh, 2)
    expected = {
        'size': 24,
        'space': 'rgb',
        'batch_size': given,
        'rows': list(range(given)),
        'workers': 2,
        'threads': 5,
        'prefetch': 7,
    }
    assert got == ((source,), expected)


@pytest.mark.parametrize(('size', 'expected'), [(0, 16), (24, 24)])
def test_an_evaluation_size_of_0_is_that_of_training(tiny, source, mesh, size, expected):
    config = configured(tiny)
    config.eval.size = size
    batch = take(inputs.evaluation_input(config, source, mesh), 1)[0]
    assert batch['condition'].shape == (16, expected, expected, 1)


def test_evaluation_input_holds_every_record_once(tiny, source, mesh):
    got = list(inputs.evaluation_input(tiny, source, mesh))
    rows = range(8)
    expected = eval_batches(source, size=32, space='lab', batch_size=8, rows=rows)
    assert_batches_equal(got, list(expected))
    indices = np.concatenate([batch['index'] for batch in got])
    assert sorted(indices[indices >= 0]) == list(range(19))


@pytest.mark.parametrize('processes', [2, 4])
def test_the_processes_together_evaluate_every_record_once(tiny, source, mesh, processes):
    counted = []
    for process in range(processes):
        with pytest.MonkeyPatch.context() as patch:
            pretend(patch, process, processes)
            own = list(inputs.evaluation_input(tiny, source, mesh))
        assert len(own) == 3  # as many on every process, or they would wait for one another
        counted += [i for batch in own for i in batch['index'][batch['mask'] > 0]]
    assert sorted(counted) == list(range(19))


@pytest.mark.parametrize(
    ('cores', 'workers', 'threads'), [(2, 0, 2), (2, 2, 2), (16, 0, 15), (64, 0, 16), (16, 3, 5)]
)
def test_threads_go_by_the_cores_that_this_process_may_use(cores, workers, threads, monkeypatch):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: range(cores), raising=False)
    assert inputs.thread_count(0, workers) == threads
    assert inputs.thread_count(3, workers) == 3
