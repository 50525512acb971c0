"""What all processes decide alike. Real processes: tests/integration/test_distributed.py."""

import time

import jax
import pytest

from chromagan_jax.errors import UserError
from chromagan_jax.utils import agreement


def fail():
    raise UserError('no such folder')


@pytest.mark.parametrize('in_thread', [False, True])
@pytest.mark.parametrize('processes', [1, 2])
def test_a_result_and_an_error_of_this_process_come_back(monkeypatch, in_thread, processes):
    monkeypatch.setattr(jax, 'process_count', lambda: processes)
    monkeypatch.setattr(agreement, 'in_any_process', bool)
    assert agreement.in_all_processes(lambda: 7, in_thread) == 7
    with pytest.raises(UserError, match='no such folder'):
        agreement.in_all_processes(fail, in_thread)


def test_an_error_of_another_process_ends_this_one_with_a_sentence(monkeypatch):
    monkeypatch.setattr(agreement, 'in_any_process', lambda value: True)
    with pytest.raises(UserError, match='Another process cannot start'):
        agreement.in_all_processes(lambda: None)


def test_a_call_in_a_thread_is_waited_for_in_all_processes(monkeypatch):
    asked = []
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    monkeypatch.setattr(agreement, '_PACE', 0.01)

    def in_any_process(value):
        asked.append(value)
        return value or len(asked) == 1  # the other process is slower, by one message

    monkeypatch.setattr(agreement, 'in_any_process', in_any_process)
    assert agreement.in_all_processes(time.monotonic, in_thread=True) > 0
    assert len(asked) >= 3  # twice for the call, once for its error
