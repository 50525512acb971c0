import contextlib
import fcntl
import io
import os
import pty
import struct
import termios

import pytest

from chromagan_jax.utils import progress as progress_lib

LOSSES = {'generator/loss': 12.3123, 'discriminator/loss': 0.642, 'generator/l1': 0.08104}


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
    progress = progress_lib.Progress(600, 100, 4, stream, clock)
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
        progress = progress_lib.Progress(60000, 0, 16, terminal, clock)
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
    progress = progress_lib.Progress(600, 0, 4, terminal, clock)
    clock.now += 20
    progress.report(200, {'discriminator/accuracy_fake': 0.5, **LOSSES})
    assert terminal.lines == ['step 200/600 (33%)  G 12.31  40.0 img/s  40s left']


def test_a_message_stands_above_the_line_which_comes_back(clock, monkeypatch):
    monkeypatch.setenv('COLUMNS', '90')
    terminal = Terminal(90)
    progress = progress_lib.Progress(600, 0, 4, terminal, clock)
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
        progress = progress_lib.Progress(600, 0, 4, stream, clock)
        clock.now += 20
        progress.report(200, LOSSES)
        written = os.read(ours, 1000).decode()
    os.close(ours)
    assert written == '\r\x1b[Kstep 200/600 (33%)  40.0 img/s'[: 4 + 29]


def test_paused_time_is_left_out_of_the_throughput(clock):
    progress = progress_lib.Progress(600, 0, 8, io.StringIO(), clock)
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
    progress = progress_lib.Progress(1000, 0, 1, stream, clock)
    for step in range(1, 31):
        clock.now += 1 if step <= 10 else 3
        progress.report(step, {})
    left = [line.rsplit('  ', 1)[1] for line in stream.getvalue().splitlines()]
    assert left[9] == '16m 30s left'  # 990 steps of 1 s
    assert left[10] == '26m 22s left'  # 989 steps of 1.6 s
    assert left[29] == '48m 28s left'  # 970 steps of 3 s - 2 s * 0.7 ** 20


def test_a_report_before_any_time_has_passed_shows_no_time_left(clock):
    stream = io.StringIO()
    progress_lib.Progress(10, 0, 1, stream, clock).report(0, {})
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
    assert progress_lib.format_duration(seconds) == text
