"""Scores of sizes and saturation."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from tools import options


class Echo:
    """Predicts the side of its input in px, as ab."""

    def apply(self, variables, condition, train):
        del variables, train
        return jnp.full((*condition.shape[:3], 2), float(condition.shape[1]))


def test_the_colours_of_all_sizes_are_averaged_and_multiplied():
    averaged = options.Averaged(Echo(), (32, 64), 1.5)
    ab = averaged.apply({}, jnp.zeros((2, 48, 48, 1)), train=False)
    np.testing.assert_allclose(ab, np.full((2, 48, 48, 2), 1.5 * 48), rtol=1e-6)


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        ([], '--val is missing: add --val=DIR.'),
        (['--val=sample', '--sizes=256,x'], 'must be comma-separated integers'),
        (['--val=sample', '--saturation=x'], 'invalid float value'),
    ],
)
def test_wrong_flags_end_in_one_sentence(arguments, sentence, capsys):
    assert options.main(arguments) == 1
    assert sentence in capsys.readouterr().err


def test_a_network_of_rgb_is_refused(monkeypatch, capsys):
    config = SimpleNamespace(color_space='rgb', eval=SimpleNamespace(size=0))
    trained = SimpleNamespace(config=config, title='the stand-in')
    monkeypatch.setattr(options, 'load', lambda workdir: trained)
    assert options.main(['--val=sample']) == 1
    assert 'the stand-in predicts RGB' in capsys.readouterr().err
