"""A decoder in a process of its own costs one file when it crashes, hangs or takes all memory."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from chromagan_jax.data.decode import process
from chromagan_jax.data.decode.frame import UnreadableImage


def double(data, times=2):
    return data * times


def crash(data):
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(data):
    time.sleep(60)


def take_memory(data):
    return np.ones(2**40, np.uint8)


def print_much(data):
    os.write(1, b'words' * 10_000)
    print('words')
    return len(data)


def fail(data):
    raise UnreadableImage('why', 'no_image')


def err(data):
    raise ZeroDivisionError('a fault of the reader')


def meet(data, folder):
    """Returns once two processes are in it."""
    (folder / str(os.getpid())).touch()
    while len(list(folder.iterdir())) < 2:
        time.sleep(0.01)
    return os.getpid()


def ignore_signals(data):
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)
    return os.getpid()


def test_a_call_returns_what_the_function_returns():
    assert process.call(double, 1, b'ab', times=3) == b'ababab'


def test_a_crash_costs_one_call():
    with pytest.raises(UnreadableImage, match=r'its decoder crashed \(code -11\)'):
        process.call(crash, 1, b'')
    assert process.call(double, 1, b'a') == b'aa'


def test_a_call_ends_after_a_time(monkeypatch):
    monkeypatch.setattr(process, '_SECONDS', 0.2)
    with pytest.raises(UnreadableImage, match='took more than'):
        process.call(hang, 1, b'')


def test_too_much_memory_costs_one_call():
    with pytest.raises(UnreadableImage, match='too much memory'):
        process.call(take_memory, 1, b'')
    assert process.call(double, 1, b'a') == b'aa'


def test_what_a_library_prints_does_not_mix_with_answers():
    assert process.call(print_much, 1, b'abc') == 3


def test_exceptions_are_raised_where_the_call_came_from():
    with pytest.raises(UnreadableImage, match='why') as raised:
        process.call(fail, 1, b'')
    assert raised.value.kind == 'no_image'
    with pytest.raises(ZeroDivisionError, match='a fault of the reader'):
        process.call(err, 1, b'')


def test_signals_do_not_end_a_decoder():
    first = process.call(ignore_signals, 1, b'')
    assert process.call(ignore_signals, 1, b'') == first


def test_threads_have_processes_of_their_own(tmp_path):
    with ThreadPoolExecutor(2) as pool:
        numbers = pool.map(lambda _: process.call(meet, 1, b'', tmp_path), range(2))
        assert len({os.getpid(), *numbers}) == 3


def test_a_decoder_ends_with_the_process_that_started_it():
    decoder = process.Decoder()
    done, number = decoder.ask((ignore_signals, (b'',), {}), 30)
    assert done
    decoder._process.stdin.close()  # as the end of this process would
    assert decoder._process.wait(10) == 0
    decoder.end()
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)
