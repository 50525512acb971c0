import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

import pytest

from chromagan_jax.utils.preemption import stop_requests

SIGNALS = (signal.SIGTERM, signal.SIGINT)


Handler = Callable[[int, FrameType | None], None]


class ActedAtOnceError(Exception):
    """What the handler that was there before raises."""


@pytest.fixture(autouse=True)
def previous() -> Iterator[Handler]:
    """Handlers that a test survives, in place of those of pytest."""

    def act(number: int, frame: FrameType | None) -> None:
        raise ActedAtOnceError

    before = {number: signal.signal(number, act) for number in SIGNALS}
    yield act
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)  # Python runs the handler before the next line


def test_without_a_signal_no_stop_is_requested() -> None:
    with stop_requests() as stopping:
        assert not stopping()


@pytest.mark.parametrize('number', SIGNALS)
def test_the_first_signal_only_requests_a_stop(number: signal.Signals) -> None:
    with stop_requests() as stopping:
        send(number)
        assert stopping()
        assert stopping(), 'the request stands'


@pytest.mark.parametrize('number', SIGNALS)
def test_the_second_signal_acts_as_if_there_were_no_context(number: signal.Signals) -> None:
    with stop_requests() as stopping:
        send(number)
        with pytest.raises(ActedAtOnceError):
            send(number)
        assert stopping()


def test_a_signal_of_the_other_kind_is_a_first_one() -> None:
    with stop_requests() as stopping:
        send(signal.SIGTERM)
        send(signal.SIGINT)
        assert stopping()


@pytest.mark.parametrize('sent', [(), SIGNALS])
def test_the_handlers_from_before_are_back_afterwards(
    sent: Sequence[signal.Signals], previous: Handler
) -> None:
    with stop_requests():
        assert [signal.getsignal(number) for number in SIGNALS] != [previous, previous]
        for number in sent:
            send(number)
    assert [signal.getsignal(number) for number in SIGNALS] == [previous, previous]


def test_the_handlers_from_before_are_back_after_an_error(previous: Handler) -> None:
    with pytest.raises(KeyError), stop_requests():
        raise KeyError
    assert [signal.getsignal(number) for number in SIGNALS] == [previous, previous]


def test_one_context_after_another_starts_without_a_request() -> None:
    with stop_requests():
        send(signal.SIGTERM)
    with stop_requests() as stopping:
        assert not stopping()


def test_sigterm_is_left_to_jax_and_ctrl_c_becomes_one_when_processes_decide_together(
    previous: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('jax.distributed.is_initialized', lambda: True)
    with stop_requests(agreed=True) as stopping:
        assert signal.getsignal(signal.SIGTERM) is previous
        with pytest.raises(ActedAtOnceError):  # what stands in JAX's place here
            send(signal.SIGINT)
        assert not stopping()
    with stop_requests() as stopping:  # of a command that asks its processes by itself
        send(signal.SIGTERM)
        assert stopping()


def test_off_the_main_thread_it_leaves_signals_alone(previous: Handler) -> None:
    found: list[object] = []

    def work() -> None:
        with stop_requests() as stopping:
            found.extend([stopping(), *(signal.getsignal(number) for number in SIGNALS)])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False, previous, previous]
