"""Scores with random hints."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from chromagan_jax.config import Config
from chromagan_jax.data.sources import make_source
from chromagan_jax.gan.released import Trained
from tools import hints


def test_more_hints_contain_the_fewer_and_reveal_the_mean_of_their_squares():
    target = np.random.default_rng(0).uniform(-1, 1, (40, 60, 2)).astype(np.float32)
    few, many = hints.reveal(target, 1, 7), hints.reveal(target, 30, 7)
    inside = few[..., 2] == 1
    assert 9 <= inside.sum() <= 25
    np.testing.assert_allclose(few[inside][0, :2], target[inside].mean(0), atol=1e-6)
    assert (many[..., 2] >= few[..., 2]).all()
    assert hints.reveal(target, 0, 7).any() == 0


def stand_in(hints):
    generator = SimpleNamespace(hints=hints)
    return lambda workdir: Trained('the stand-in', Config(), generator, {}, 0)


def test_a_generator_without_hints_is_refused_in_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(hints, 'load', stand_in(False))
    assert hints.main(['--val=sample']) == 1
    assert 'the stand-in takes no hints: train one with generator.h' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        ([], '--val is missing'),
        (['--val=sample', '--counts=1,x'], '--counts must be comma-separated integers'),
        (['--val=sample', '--size=4'], '--size must be'),
    ],
)
def test_wrong_flags_end_in_one_sentence(arguments, sentence, capsys):
    assert hints.main(arguments) == 1
    assert sentence in capsys.readouterr().err


def test_the_section_of_the_model_card_has_the_scores_and_the_size_of_the_submodule():
    variables = {'params': {'hints': {'a': np.zeros((3, 4))}, 'other': {'a': np.zeros(99)}}}
    rows = [{'hints': n, 'psnr': 20.0 + n, 'ab_mae': 9.0, 'images': 3} for n in (0, 5)]
    text = hints.section(variables, rows, 'It is new.', 'photographs of a friend')
    assert text.startswith('## Hints\n\nThe part `hints` (12 parameters)')
    assert '\nIt is new.\n\n3 photographs of a friend, at 256 px' in text
    assert '| 5 | 25.00 | 9.00 |' in text


def test_the_command_prints_the_scores_of_each_number(monkeypatch, capsys):
    """The generator is a stand-in that returns the hinted colours, and gray elsewhere."""
    monkeypatch.setattr(hints, 'load', stand_in(True))
    monkeypatch.setattr(hints.model_lib, 'predict', lambda _, __, condition: condition[..., 1:3])
    assert hints.main(['--val=sample', '--counts=0,50', '--size=64']) == 0
    none, some = map(json.loads, capsys.readouterr().out.splitlines())
    assert none['images'] == some['images'] == len(make_source('sample', 'validation'))
    assert none['hints'] == 0
    assert some['psnr'] > none['psnr']
    assert some['ab_mae'] < none['ab_mae']
