"""The program for a few photographs colours as the one for many does."""

import numpy as np
import pytest
from skimage import data

import chromagan_jax.colorize as colorize
from chromagan_jax.errors import UserError
from chromagan_jax.inference import predictor
from chromagan_jax.inference.outcomes import Job


def test_the_quick_program_colours_as_the_fast_one_within_1_of_255():
    trained = predictor.load()
    photograph, results = data.astronaut()[:96, 100:196], []
    for quick in (True, False):
        predict = predictor.make_predict(
            trained.generator, trained.variables, (64,), 1, quick=quick
        )
        rest = 64, 1, None, trained.config.colorize, None
        results += predictor.colorize_with(predict, [photograph], *rest)
    difference = np.abs(results[0].astype(int) - results[1])
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01
    assert np.abs(results[0].astype(int) - photograph).max() > 20  # it colours at all


def test_samples_of_the_released_network_are_refused_for_the_lack_of_noise():
    trained = predictor.load()
    arguments = trained.generator, trained.variables, (64,), 1
    with pytest.raises(UserError, match='The network has no noise'):
        predictor.make_predict(*arguments, noise=True, hints=True, quick=True)


@pytest.mark.parametrize(('count', 'quick'), [(1, True), (29, True), (30, False)])
def test_few_photographs_get_the_quick_program_and_many_the_fast_one(count, quick, monkeypatch):
    made = []
    monkeypatch.setattr(colorize.batch, 'colorize_files', lambda *args: None)
    values = colorize.options.make_flags()
    values(['', '--output=out'])
    jobs = [Job(f'{number}.jpg', f'out/{number}.jpg') for number in range(count)]
    make = lambda *sizes, quick: made.append(quick)
    colorize._colorize_photographs(values, jobs, '', make, 64, predictor.OFF, None)
    assert made == [quick]
