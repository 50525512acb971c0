"""Scores by kind of photograph."""

from types import SimpleNamespace

import jax.numpy as jnp
import pytest
from PIL import Image
from skimage import data

from chromagan_jax.config import Config
from chromagan_jax.gan.released import Trained
from tools import kinds


@pytest.fixture
def photographs(tmp_path):
    """A folder with two kinds: one photograph of people, two of animals."""
    found = {'people': [data.astronaut()], 'animals': [data.chelsea(), data.chelsea()[:, ::-1]]}
    for kind, images in found.items():
        (tmp_path / kind).mkdir()
        for number, pixels in enumerate(images):
            Image.fromarray(pixels).save(tmp_path / kind / f'{number}.png')
    return tmp_path


def test_each_folder_is_a_row_and_the_last_row_is_the_mean_of_all(photographs, monkeypatch, capsys):
    """The generator is a stand-in that predicts one colour."""
    monkeypatch.setattr(kinds, 'load', lambda _: Trained('stand-in', Config(), None, {}, 0))
    made = SimpleNamespace(generator=None, replicated=None)
    monkeypatch.setattr(kinds, 'make_model', lambda config, mesh: made)
    monkeypatch.setattr(kinds.evaluator, 'predict', lambda _, __, c: jnp.tile(c * 0, 2) + 0.1)
    assert kinds.main([f'--val={photographs}']) == 0
    lines = capsys.readouterr().out.splitlines()
    animals, people, everything = [line.strip('| ').split(' | ') for line in lines[2:]]
    assert [row[:2] for row in (animals, people, everything)] == [
        ['animals', '2'],
        ['people', '1'],
        ['all', '3'],
    ]
    one, two, mean = (float(row[4]) for row in (people, animals, everything))
    assert mean == pytest.approx((one + 2 * two) / 3, abs=0.1)
    assert one != two


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [([], '--val is missing: add --val=DIR.'), (['--val=.'], 'holds no folders')],
)
def test_wrong_flags_end_in_one_sentence(arguments, sentence, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert kinds.main(arguments) == 1
    assert sentence in capsys.readouterr().err
