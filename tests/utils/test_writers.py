import importlib.metadata
import io
import json
import struct
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import skimage.data
from PIL import Image
from tensorboardX.proto import event_pb2

from chromagan_jax.errors import UserError
from chromagan_jax.utils import writers

LOSSES = {'generator/loss': 12.3123, 'discriminator/loss': 0.642, 'generator/l1': 0.08104}


def refuse_constant(name: str) -> float:
    raise ValueError(f'{name} is no JSON')


def read_strictly(path: Path) -> list[dict]:
    lines = path.read_text().split('\n')
    assert lines.pop() == ''  # the last line is ended too
    return [json.loads(line, parse_constant=refuse_constant) for line in lines]


def scalars_of(step: int) -> dict[str, float]:
    return {'generator/loss': 100 / (step + 3), 'discriminator/loss': 1e-7 * step}


# --- metrics.jsonl ---


@pytest.mark.parametrize('torn', ['', '{"step": 10, "genera', '\0\0\0', '\xff'])
def test_a_resumed_metrics_file_is_the_uninterrupted_one(tmp_path, torn):
    whole = writers.Metrics(tmp_path / 'whole.jsonl')
    for step in range(2, 21, 2):
        whole.write(step, scalars_of(step))

    path = tmp_path / 'run' / 'metrics.jsonl'
    first = writers.Metrics(path)
    for step in (2, 4, 6, 8):  # two of them past the checkpoint of step 5
        first.write(step, scalars_of(step))
    with path.open('ab') as file:
        file.write(torn.encode('latin-1'))
    resumed = writers.Metrics(path, start_step=5)
    assert [entry['step'] for entry in read_strictly(path)] == [2, 4]
    for step in range(6, 21, 2):
        resumed.write(step, scalars_of(step))
    assert path.read_bytes() == (tmp_path / 'whole.jsonl').read_bytes()
    assert len(read_strictly(path)) == 10
    assert [p.name for p in path.parent.iterdir() if p.is_file()] == ['metrics.jsonl']


def test_a_last_line_that_lacks_only_its_end_is_kept(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    path.write_text('{"step": 1, "a": 0.5}\n{"step": 2, "a": 0.25}')
    writers.Metrics(path, start_step=2).write(3, {'a': 0.125})
    assert [(e['step'], e['a']) for e in read_strictly(path)] == [(1, 0.5), (2, 0.25), (3, 0.125)]


def test_a_new_run_drops_what_a_run_without_a_checkpoint_left(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    writers.Metrics(path).write(5, {'a': 1.0})
    writers.Metrics(path, start_step=0)
    assert path.read_bytes() == b''


def test_a_foreign_line_in_the_middle_is_named_and_the_file_left_alone(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    content = '{"step": 1}\n{"epoch": 2}\n{"step": 3}\n'
    path.write_text(content)
    with pytest.raises(UserError, match=r'^Line 2 of .*metrics\.jsonl is not valid'):
        writers.Metrics(path, start_step=3)
    assert path.read_text() == content


def test_floats_keep_all_their_digits_and_what_is_not_finite_is_null(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    metrics = writers.Metrics(path)
    metrics.write(np.int64(1), {'a': float('nan'), 'b': float('-inf'), 'c': 1 / 3})
    metrics.write(2, {'a': np.float32(0.1), 'b': jax.numpy.float32(np.inf), 'c': 1e300})
    assert read_strictly(path) == [
        {'step': 1, 'a': None, 'b': None, 'c': 1 / 3},
        {'step': 2, 'a': float(np.float32(0.1)), 'b': None, 'c': 1e300},
    ]


def test_a_line_is_on_disk_when_write_returns(tmp_path):
    metrics = writers.Metrics(tmp_path / 'metrics.jsonl')
    for step in range(1, 4):
        metrics.write(step, {'a': 0.0})
        assert len(read_strictly(tmp_path / 'metrics.jsonl')) == step


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='no /dev/full')
def test_a_full_disk_is_one_sentence_that_names_the_file(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    metrics = writers.Metrics(path)
    path.unlink()
    path.symlink_to('/dev/full')
    with pytest.raises(UserError, match=r'metrics\.jsonl cannot be written \(No space left'):
        metrics.write(1, {'a': 0.0})


# --- TensorBoard ---


def crc32c(data: bytes) -> int:
    """Bit by bit, from the polynomial of RFC 3720."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_events(path: Path) -> list[event_pb2.Event]:
    data, events = path.read_bytes(), []
    while data:
        (length,) = struct.unpack('<Q', data[:8])
        body = data[12 : 12 + length]
        checksums = struct.unpack('<I', data[8:12]) + struct.unpack('<I', data[12 + length :][:4])
        assert checksums == (masked(data[:8]), masked(body))
        events.append(event_pb2.Event.FromString(body))
        data = data[16 + length :]
    return events


def test_tensorboard_events_hold_the_scalars_and_pictures(tmp_path):
    metrics = writers.Metrics(tmp_path / 'metrics.jsonl')
    picture = skimage.data.astronaut()[:40, 100:160]
    metrics.write(3, {**LOSSES, 'bad': float('nan')})
    metrics.image(4, 'samples', picture)
    (path,) = (tmp_path / 'tensorboard' / 'metrics').glob('events.out.tfevents.*')
    version, restart, scalars, image = read_events(path)  # no close, no flush: all is there
    assert version.file_version == 'brain.Event:2'
    assert restart.session_log.status == event_pb2.SessionLog.START
    values = {value.tag: value.simple_value for value in scalars.summary.value}
    assert scalars.step == 3
    assert np.isnan(values.pop('bad'))
    assert values == pytest.approx(LOSSES, rel=1e-6)
    assert image.step == 4
    (entry,) = image.summary.value
    assert (entry.tag, entry.image.colorspace) == ('samples', 3)  # RGB
    assert (entry.image.height, entry.image.width) == (40, 60)
    with Image.open(io.BytesIO(entry.image.encoded_image_string)) as decoded:
        np.testing.assert_array_equal(np.asarray(decoded), picture)


def test_on_a_resume_tensorboard_is_told_to_hide_the_steps_that_follow(tmp_path):
    writers.Metrics(tmp_path / 'metrics.jsonl').write(8, {'a': 1.0})
    writers.Metrics(tmp_path / 'metrics.jsonl', start_step=5).write(6, {'a': 2.0})
    files = list((tmp_path / 'tensorboard' / 'metrics').iterdir())
    assert len(files) == 2  # though both began in the same second
    (resumed,) = (path for path in files if path.name.endswith('.5'))
    restart = read_events(resumed)[1]
    assert (restart.step, restart.session_log.status) == (6, event_pb2.SessionLog.START)


def test_without_tensorboardx_there_are_metrics_and_one_hint(tmp_path, monkeypatch, caplog):
    for name in [name for name in sys.modules if name.split('.')[0] == 'tensorboardX']:
        monkeypatch.setitem(sys.modules, name, None)
    with caplog.at_level('INFO', logger='absl'):
        metrics = writers.Metrics(tmp_path / 'metrics.jsonl')
        metrics.write(1, {'a': 1.0})
        metrics.image(1, 'samples', np.zeros((4, 4, 3), np.uint8))
    assert read_strictly(tmp_path / 'metrics.jsonl') == [{'step': 1, 'a': 1.0}]
    assert [path.name for path in tmp_path.iterdir()] == ['metrics.jsonl']
    assert len([r for r in caplog.records if 'chromagan_jax[tensorboard]' in r.getMessage()]) == 1


# --- grids and files ---


@pytest.mark.parametrize('count', [1, 4, 5, 8])
def test_a_grid_holds_every_picture_unchanged_in_its_place(count):
    astronaut = skimage.data.astronaut()
    rows = [
        [astronaut[64 * i : 64 * i + 48, 128 * j : 128 * j + 96] for j in range(3)]
        for i in range(count)
    ]
    grid = writers.sample_grid(rows, ['gray', 'colorized', 'original'])
    across, down = (1, count) if count <= 4 else (2, -(-count // 2))
    top = grid.shape[0] - down * (48 + 8)
    assert top > 16  # room for the labels
    assert grid.shape == (top + down * 56, 8 + across * 3 * 104 + (across - 1) * 16, 3)
    rest = grid.copy()
    for index, row in enumerate(rows):
        for column, picture in enumerate(row):
            y = top + index % down * 56
            x = 8 + index // down * (3 * 104 + 16) + column * 104
            np.testing.assert_array_equal(grid[y : y + 48, x : x + 96], picture)
            rest[y : y + 48, x : x + 96] = 255
    assert (rest[top:] == 255).all()
    for block in range(across):  # a label above every column, and nothing between them
        for column in range(3):
            x = 8 + block * (3 * 104 + 16) + column * 104
            assert (rest[:top, x : x + 96] < 128).any()
            assert (rest[:top, x + 96 : x + 104] == 255).all()


def test_a_grid_takes_floats_as_shares_of_255_and_centres_smaller_pictures():
    picture = skimage.data.coffee()[:60, :100]
    values = picture.astype(np.float32) / 255
    values[0, 0] = 1.5, -0.5, 0.5
    grid = writers.sample_grid([[picture, values, picture[:40, :80]]], ['a', 'b', 'c'])
    top = grid.shape[0] - 68
    np.testing.assert_array_equal(grid[top, 116], [255, 0, 128])
    np.testing.assert_array_equal(grid[top : top + 60, 116:216][1:], picture[1:])
    np.testing.assert_array_equal(grid[top + 10 : top + 50, 234:314], picture[:40, :80])
    assert (grid[top : top + 10, 224:] == 255).all()


def test_labels_wider_than_the_pictures_do_not_touch():
    tiny = [np.zeros((8, 8, 3), np.uint8)] * 2
    grid = writers.sample_grid([tiny], ['colorized', 'colorized'])
    columns = (grid[:20] < 255).any(axis=(0, 2))
    assert columns[: len(columns) // 2].any()
    middle = len(columns) // 2
    assert not columns[middle - 3 : middle + 3].any()


def test_a_grid_refuses_rows_that_do_not_match_the_labels():
    picture = np.zeros((8, 8, 3), np.uint8)
    for rows in ([], [[picture]], [[picture, picture], [picture]]):
        with pytest.raises(ValueError, match='rows of 2 images'):
            writers.sample_grid(rows, ['gray', 'colorized'])


def test_versions_name_packages_and_devices(monkeypatch):
    found = writers.versions()
    assert found['python'] == '.'.join(map(str, sys.version_info[:3]))
    assert found['jax'] == jax.__version__
    assert found['numpy'] == np.__version__
    assert (found['device'], found['device_count']) == ('cpu', str(len(jax.devices())))
    assert json.loads(json.dumps(found)) == found

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, 'version', missing)
    assert writers.versions()['chromagan_jax'] == 'not installed'
