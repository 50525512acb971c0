import numpy as np
import pytest
import scipy.linalg

from chromagan_jax.errors import UserError
from chromagan_jax.evaluation import reductions


def test_total_variation_is_the_share_that_would_have_to_move():
    a, b = np.array([[6, 2], [2, 0]]), np.array([[0, 1], [2, 1]])
    assert reductions.total_variation(a, b) == pytest.approx(0.6)  # .6 .2 .2 0 and 0 .25 .5 .25
    assert reductions.total_variation(a, 7 * a) == pytest.approx(0, abs=1e-12)
    assert reductions.total_variation(np.array([3, 0]), np.array([0, 5])) == 1
    assert reductions.total_variation(a, b) == reductions.total_variation(b, a)


def plain_frechet(a, b):
    """As Heusel et al. compute it."""
    mean_a, mean_b = a.mean(0), b.mean(0)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    return np.square(mean_a - mean_b).sum() + np.trace(cov_a + cov_b - 2 * root)


def test_frechet_distance_is_that_of_the_matrix_root():
    random = np.random.default_rng(0)
    mix = random.standard_normal((2, 20, 20))
    a = random.standard_normal((300, 20)) @ mix[0]
    b = random.standard_normal((200, 20)) @ mix[1] + 0.5
    assert reductions.frechet_distance(a, b) == pytest.approx(plain_frechet(a, b), rel=1e-8)
    assert reductions.frechet_distance(b, a) == pytest.approx(plain_frechet(a, b), rel=1e-8)


@pytest.mark.parametrize('rows', [400, 10])  # more and fewer than features
def test_frechet_distance_has_its_closed_forms(rows):
    a = np.random.default_rng(0).standard_normal((rows, 50))
    variance = a.var(0, ddof=1).sum()
    distance = reductions.frechet_distance
    assert distance(a, a[::-1]) == pytest.approx(0, abs=1e-10 * variance)
    shift = np.linspace(-1, 1, 50)
    assert distance(a, a + shift) == pytest.approx(np.square(shift).sum(), rel=1e-8)
    assert distance(a, 3 * a - 2 * a.mean(0)) == pytest.approx(4 * variance, rel=1e-8)


def test_frechet_distance_of_diagonal_covariances_is_that_of_their_deviations():
    signs = np.stack(np.meshgrid(*[[-1.0, 1.0]] * 3), -1).reshape(8, 3)  # uncorrelated columns
    scale_a, scale_b = np.array([1.0, 2, 3]), np.array([2.0, 0, 0.5])
    expected = 8 / 7 * np.square(scale_a - scale_b).sum()
    got = reductions.frechet_distance(scale_a * signs, (scale_b * signs).astype(np.float32))
    assert got == pytest.approx(expected, rel=1e-7)


def test_frechet_distance_keeps_the_differences_of_large_features():
    a = np.random.default_rng(0).standard_normal((30, 40)) * 1e-3 + 1e3
    assert reductions.frechet_distance(a, a + 1e-3) == pytest.approx(40e-6, rel=1e-4)


def test_frechet_distance_of_a_single_photograph_is_the_users_to_mend():
    with pytest.raises(UserError, match='two photographs or more'):
        reductions.frechet_distance(np.ones((1, 3)), np.ones((5, 3)))
