"""The warning about gray photographs in a training set."""

import numpy as np
import pytest

from chromagan_jax import color
from chromagan_jax.data.gray import mean_chroma, warn_if_gray


def batch(space, number, grays):
    """A batch of `number` photographs, of which `grays` are gray."""
    rgb = np.random.default_rng(0).integers(0, 256, (number, 16, 16, 3)).astype(np.uint8)
    rgb[:grays] = rgb[:grays, ..., :1]
    condition, target = zip(*(color.encode(image, space) for image in rgb), strict=True)
    return {'condition': np.stack(condition), 'target': np.stack(target)}


@pytest.mark.parametrize('space', color.SPACES)
def test_chroma_is_that_of_lab(space):
    measured = mean_chroma(batch(space, 4, 2))
    assert max(measured[:2]) < 0.1
    assert min(measured[2:]) > 20


@pytest.mark.parametrize('space', color.SPACES)
def test_gray_photographs_are_told_once_and_batches_are_passed_on(space):
    batches, said = [batch(space, 16, 16) for _ in range(6)], []
    passed = list(warn_if_gray(batches, 100, 'scans', said.append))
    assert all(a is b for a, b in zip(passed, batches, strict=True))
    (sentence,) = said
    assert sentence.startswith('64 of the first 64 photographs of scans are gray')
    assert 'chromagan_jax.prepare' in sentence


def test_a_run_of_few_steps_is_judged_by_them():
    said = []
    batches = warn_if_gray([batch('lab', 8, 5)] * 9, 2, 'scans', said.append)
    next(batches)
    assert said == []
    next(batches)
    assert said[0].startswith('10 of the first 16 photographs')


def test_a_set_of_which_half_is_gray_is_no_mistake():
    said = []
    list(warn_if_gray([batch('lab', 8, 4)] * 9, 100, 'scans', said.append))
    assert said == []
