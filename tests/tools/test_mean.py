"""The mean of the weights of several generators."""

import jax
import numpy as np
import pytest

from chromagan_jax.config import to_dict
from chromagan_jax.gan import released
from chromagan_jax.inference import predictor
from tests.inference.test_colorize import make_run
from tools import mean


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """A run, a release of the same network, and a run of another one."""
    folder = tmp_path_factory.mktemp('runs')
    make_run(folder / 'a')
    one = predictor.load(str(folder / 'a'))
    described = {'config': to_dict(one.config), 'step': 0}
    released.save(folder / 'b', jax.tree.map(lambda leaf: 2 * leaf, one.variables), described)
    make_run(folder / 'other', dropout=0.5)
    return folder


def test_the_mean_is_that_of_the_arrays_and_is_loaded_as_a_run(runs, tmp_path):
    arguments = [f'--output={tmp_path / "mean"}', '--weights=3,1', f'{runs}/a', f'{runs}/b']
    assert mean.main(arguments) == 0
    places = (tmp_path / 'mean', runs / 'a', runs / 'b')
    leaves = [jax.tree.leaves(predictor.load(str(place)).variables) for place in places]
    for made, one, other in zip(*leaves, strict=True):
        expected = 0.75 * np.asarray(one) + 0.25 * np.asarray(other)
        np.testing.assert_allclose(made, expected, atol=1e-3, rtol=1e-3)  # float16


def test_the_mean_of_equal_weights_is_exact():
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    np.testing.assert_array_equal(mean.mean([values] * 7, [0.3] * 7), values)


def test_a_release_is_one_of_the_runs(tmp_path):
    package = str(released.WEIGHTS)
    assert mean.main([f'--output={tmp_path / "mean"}', package, package]) == 0
    ours = predictor.load(str(tmp_path / 'mean')).variables
    jax.tree.map(np.testing.assert_array_equal, ours, predictor.load().variables)


def test_the_workdir_of_a_run_is_not_replaced(runs, capsys):
    before = (runs / 'a/config.json').read_bytes()
    assert mean.main([f'--output={runs}/a', f'{runs}/a', f'{runs}/b']) == 1
    said = capsys.readouterr().err
    assert said == f'mean: {runs}/a is the workdir of a run: choose another --output.\n'
    assert (runs / 'a/config.json').read_bytes() == before
    assert not (runs / 'a' / released.ARRAYS).exists()


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (['{}/a'], 'A mean needs two runs or more'),
        (['--output=', '{}/a', '{}/b'], '--output is missing'),
        (['--weights=1', '{}/a', '{}/b'], '--weights must be 2 positive numbers'),
        (['--weights=1,x', '{}/a', '{}/b'], '--weights must be 2 positive numbers'),
        (['{}/a', '{}/other'], 'differ: they have no mean'),
        (['{}/a', '/nowhere'], 'is not a workdir of a run'),
    ],
)
def test_a_mistake_is_one_sentence(arguments, sentence, runs, tmp_path, capsys):
    filled = [argument.format(runs) for argument in arguments]
    assert mean.main([f'--output={tmp_path / "mean"}', *filled]) == 1
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count('\n') == 1
