import contextlib
import fcntl
import importlib.metadata
import io
import json
import os
import pty
import struct
import sys
import termios
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
    with pytest.raises(UserError, match=r'metrics\.jsonl has a line 2 '):
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


# --- progress ---


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """Carriage return, clear to end of line and newline, as a terminal does them."""

    def __init__(self, columns: int):
        super().__init__()
        self.columns, self.lines, self.column = columns, [''], 0

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        for piece in text.replace('\x1b[K', '\x00'):
            if piece == '\r':
                self.column = 0
            elif piece == '\x00':
                self.lines[-1] = self.lines[-1][: self.column]
            elif piece == '\n':
                self.lines.append('')
                self.column = 0
            else:
                line = self.lines[-1]
                self.lines[-1] = line[: self.column] + piece + line[self.column + 1 :]
                self.column += 1
                assert self.column < self.columns, f'wraps: {self.lines[-1]!r}'
        return len(text)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_log_gets_plain_lines(clock):
    stream = io.StringIO()
    progress = writers.Progress(600, 100, 4, stream, clock)
    clock.now += 10
    progress.report(200, LOSSES)
    progress.message('saved step 200')
    clock.now += 20
    progress.report(300, dict(sorted(LOSSES.items())))
    progress.close()
    assert stream.getvalue() == (
        'step 200/600 (33%)  G 12.31  D 0.642  l1 0.08104  40.0 img/s  40s left\n'
        'saved step 200\n'
        # 0.1 s a step moved 0.3 of the way to 0.2 s, times 300 steps
        'step 300/600 (50%)  D 0.642  G 12.31  l1 0.08104  20.0 img/s  39s left\n'
    )


def test_a_terminal_keeps_one_line_within_its_width(clock, monkeypatch):
    for columns in (20, 40, 60, 80, 200):
        monkeypatch.setenv('COLUMNS', str(columns))
        terminal = Terminal(columns)
        progress = writers.Progress(60000, 0, 16, terminal, clock)
        for step, wordy in ((100, {}), (200, {'perceptual': 0.123456}), (300, {})):
            clock.now += 7
            progress.report(step, LOSSES | wordy)
            assert len(terminal.lines) == 1
            assert ('perceptual' in terminal.lines[0]) == (bool(wordy) and columns == 200)
        assert terminal.lines[0].startswith('step 300/60000 (0%'[:columns])
        assert ('img/s' in terminal.lines[0]) == (columns >= 40)
        assert ('l1' in terminal.lines[0]) == (columns >= 80)
        progress.close()
        assert terminal.lines[1:] == ['']


def test_the_time_left_outlives_the_losses_on_a_narrow_terminal(clock, monkeypatch):
    monkeypatch.setenv('COLUMNS', '56')
    terminal = Terminal(56)
    progress = writers.Progress(600, 0, 4, terminal, clock)
    clock.now += 20
    progress.report(200, {'discriminator/accuracy_fake': 0.5, **LOSSES})
    assert terminal.lines == ['step 200/600 (33%)  G 12.31  40.0 img/s  40s left']


def test_a_message_stands_above_the_line_which_comes_back(clock, monkeypatch):
    monkeypatch.setenv('COLUMNS', '90')
    terminal = Terminal(90)
    progress = writers.Progress(600, 0, 4, terminal, clock)
    progress.message('compiled')
    clock.now += 20
    progress.report(200, LOSSES)
    line = 'step 200/600 (33%)  G 12.31  D 0.642  l1 0.08104  40.0 img/s  40s left'
    progress.message('saved')
    assert terminal.lines == ['compiled', 'saved', line]
    progress.close()
    progress.message('done')
    assert terminal.lines == ['compiled', 'saved', line, 'done', '']


def test_the_width_is_that_of_the_terminal_written_to(clock, monkeypatch):
    monkeypatch.setenv('COLUMNS', '200')
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 30, 0, 0))
    with os.fdopen(theirs, 'w') as stream:
        progress = writers.Progress(600, 0, 4, stream, clock)
        clock.now += 20
        progress.report(200, LOSSES)
        written = os.read(ours, 1000).decode()
    os.close(ours)
    assert written == '\r\x1b[Kstep 200/600 (33%)  40.0 img/s'[: 4 + 29]


def test_paused_time_is_left_out_of_the_throughput(clock):
    progress = writers.Progress(600, 0, 8, io.StringIO(), clock)
    clock.now += 3
    with progress.paused():
        clock.now += 50
        with progress.paused():  # a save within an evaluation
            clock.now += 50
        clock.now += 5
    clock.now += 1
    assert progress.images_per_second(10) == pytest.approx(80 / 4)
    progress.report(10, {})
    assert progress.images_per_second(10) == 0
    clock.now += 2
    with contextlib.suppress(KeyError), progress.paused():
        clock.now += 50
        raise KeyError
    assert progress.images_per_second(15) == pytest.approx(40 / 2)


def test_the_time_left_follows_the_rate_without_jumping_to_it(clock):
    stream = io.StringIO()
    progress = writers.Progress(1000, 0, 1, stream, clock)
    for step in range(1, 31):
        clock.now += 1 if step <= 10 else 3
        progress.report(step, {})
    left = [line.rsplit('  ', 1)[1] for line in stream.getvalue().splitlines()]
    assert left[9] == '16m 30s left'  # 990 steps of 1 s
    assert left[10] == '26m 22s left'  # 989 steps of 1.6 s
    assert left[29] == '48m 28s left'  # 970 steps of 3 s - 2 s * 0.7 ** 20


def test_a_report_before_any_time_has_passed_shows_no_time_left(clock):
    stream = io.StringIO()
    writers.Progress(10, 0, 1, stream, clock).report(0, {})
    assert stream.getvalue() == 'step 0/10 (0%)  0.0 img/s\n'


@pytest.mark.parametrize(
    ('seconds', 'text'),
    [
        (0, '0s'),
        (44.6, '45s'),
        (59.7, '1m 00s'),
        (200, '3m 20s'),
        (3599.6, '1h 00m'),
        (7500, '2h 05m'),
        (86390, '1d 00h'),
        (3 * 86400 + 7 * 3600, '3d 07h'),
    ],
)
def test_durations_are_rounded_to_what_is_shown(seconds, text):
    assert writers.format_duration(seconds) == text


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
        with pytest.raises(ValueError, match='rows of 2 pictures'):
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
