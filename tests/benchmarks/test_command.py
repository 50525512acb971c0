"""The command line of the benchmarks."""

import sys

import pytest

from benchmarks import command
from chromagan_jax.errors import UserError


def test_help_shows_the_description_and_no_flags_of_libraries(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['benchmark', '--help'])
    command.start(lambda argv: pytest.fail('the command ran'))
    command.run(lambda config: pytest.fail('the command ran'))
    shown = capsys.readouterr().out
    assert '--config.FIELD=VALUE' in shown
    assert '--verbosity' not in shown


def test_a_user_error_ends_the_command_with_one_sentence(monkeypatch):
    def fail(argv: list[str]) -> None:
        raise UserError('Nothing to measure.')

    monkeypatch.setattr(sys, 'argv', ['benchmark'])
    with pytest.raises(SystemExit, match=r'^chromagan_jax: Nothing to measure\.$'):
        command.start(fail)
