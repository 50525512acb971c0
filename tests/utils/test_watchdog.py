import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from chromagan_jax.utils.watchdog import HEARTBEAT, PHASES, Watchdog


class Clock:
    """A clock that a test turns."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def turn(self, seconds):
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


def test_each_second_belongs_to_the_innermost_phase(clock):
    watchdog = Watchdog(clock=clock)
    clock.now += 1
    with watchdog.phase('step'):
        clock.now += 5
        with watchdog.phase('data'):
            clock.now += 2
        clock.now += 1
        with watchdog.phase('evaluate'), watchdog.phase('save'):
            clock.now += 1
    shares = watchdog.shares()
    assert list(shares) == [f'goodput/{name}' for name in PHASES]
    assert shares['goodput/start'] == pytest.approx(0.1)
    assert shares['goodput/step'] == pytest.approx(0.6)
    assert shares['goodput/data'] == pytest.approx(0.2)
    assert shares['goodput/save'] == pytest.approx(0.1)
    assert sum(shares.values()) == pytest.approx(1)
    assert watchdog.summary() == 'goodput 60.0% (the rest: start 10.0%, data 20.0%, save 10.0%)'


def test_a_phase_that_fails_ends_all_the_same(clock):
    watchdog = Watchdog(clock=clock)
    with pytest.raises(KeyError), watchdog.phase('data'):
        raise KeyError(clock.turn(1))
    clock.now += 3
    assert watchdog.shares()['goodput/data'] == pytest.approx(0.25)


def test_the_phase_under_way_counts(clock):
    watchdog = Watchdog(clock=clock)
    with watchdog.phase('step'):
        clock.now += 4
        assert watchdog.shares()['goodput/step'] == pytest.approx(1)


def test_the_heartbeat_says_step_time_and_phase_and_is_not_written_at_every_step(clock, tmp_path):
    path = tmp_path / 'heartbeat.json'
    watchdog = Watchdog(heartbeat=path, clock=clock)
    with watchdog.watch():
        with watchdog.phase('step'):
            watchdog.beat(7)
            first = json.loads(path.read_text())
            clock.now += HEARTBEAT / 2
            watchdog.beat(8)
            assert json.loads(path.read_text()) == first
            clock.now += HEARTBEAT / 2
            watchdog.beat(9)
        second = json.loads(path.read_text())
    last = json.loads(path.read_text())
    assert [(h['step'], h['phase']) for h in (first, second, last)] == [
        (7, 'step'),
        (9, 'step'),
        (9, 'end'),
    ]
    assert first['time'] <= second['time'] <= last['time']


@pytest.mark.parametrize('progress', ['beat', 'phase'])
def test_progress_puts_the_end_off_and_a_hang_brings_it(clock, progress):
    ended, sentences = threading.Event(), []

    def end(sentence):
        sentences.append(sentence)
        ended.set()

    watchdog = Watchdog(timeout=0.5, clock=clock, end=end)
    with watchdog.watch():
        for step in range(3):
            clock.now += 0.4
            if progress == 'beat':
                watchdog.beat(step)
            else:
                with watchdog.phase('step'):
                    pass
            assert not ended.wait(0.15)  # three looks of the watch
        with watchdog.phase('data'):
            clock.now += 0.6
            assert ended.wait(60)
    (sentence,) = sentences
    step = 2 if progress == 'beat' else 0
    assert f'no progress for 0.5 s (stall_timeout) after step {step}' in sentence
    assert "in the phase 'data'" in sentence


def test_without_a_timeout_nothing_watches(clock):
    before = threading.active_count()
    with Watchdog(clock=clock).watch():
        assert threading.active_count() == before


PROGRAM = """
import sys, time
from chromagan_jax.utils.watchdog import Watchdog
with Watchdog(timeout=1).watch():
    print('ready', flush=True)
    sys.stdin.readline()
    began = time.monotonic()
    while time.monotonic() - began < 0.5:  # five looks of the watch
        pass
"""


def test_a_process_that_was_stopped_for_longer_than_the_timeout_goes_on():
    pipes = dict.fromkeys(('stdin', 'stdout', 'stderr'), subprocess.PIPE)
    process = subprocess.Popen([sys.executable, '-c', PROGRAM], text=True, **pipes)
    assert process.stdout.readline() == 'ready\n'
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(2)
    os.kill(process.pid, signal.SIGCONT)
    assert process.communicate('go\n')[1] == ''
    assert process.returncode == 0
