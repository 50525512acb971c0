"""What a set of photographs scores: one figure from the values of all its images.

NumPy's, on the host. Each takes arrays (N, ...), a row an image, and returns None where the set has
no such figure.
"""

import numpy as np

from chromagan_jax.errors import UserError
from chromagan_jax.evaluation.measures import AB_BINS, PSNR_CAP

AB_OF_GRAY = np.pad([[1]], AB_BINS // 2)  # the histogram of a gray picture of one pixel
BLOTCHY = 2.0  # a photograph whose blotchiness is larger counts as blotchy


def mean(values: np.ndarray) -> float:
    """Over the images, (N,), in float64."""
    return float(values.mean(dtype=np.float64))


def mean_of_known(values: np.ndarray) -> float | None:
    """Over the images whose value is not NaN, (N,); None if there is none."""
    known = values[~np.isnan(values)]
    return mean(known) if known.size else None


def mean_below_cap(psnr: np.ndarray) -> float | None:
    """Over the images whose PSNR is below `PSNR_CAP`, (N,) dB; None if there is none.

    The gray picture reaches the cap where the original is gray itself.
    """
    below = psnr[psnr < PSNR_CAP]
    return mean(below) if below.size else None


def blotchy_share(blotchiness: np.ndarray) -> float | None:
    """Share above `BLOTCHY` of the images whose blotchiness is not NaN; None if there is none."""
    known = blotchiness[~np.isnan(blotchiness)]
    return float((known > BLOTCHY).mean()) if known.size else None


def histogram_distance(made: np.ndarray, original: np.ndarray) -> float:
    """`total_variation` between the ab of all pixels of two sets, (N, 23, 23) counts each."""
    return total_variation(*(h.sum(axis=0, dtype=np.int64) for h in (made, original)))


def histogram_distance_of_gray(original: np.ndarray) -> float:
    """`histogram_distance` between gray pictures and originals, (N, 23, 23) counts."""
    return total_variation(AB_OF_GRAY, original.sum(axis=0, dtype=np.int64))


def share_of_grays_distance(
    distance: float, gray: np.ndarray, original: np.ndarray, psnr_of_gray: np.ndarray
) -> float | None:
    """A Frechet distance from the originals, as a share of the gray pictures' distance from them.

    Args:
      distance: `frechet_distance` between the colorized pictures and the originals.
      gray: (N, F) features of the gray pictures.
      original: (N, F) features of the originals.
      psnr_of_gray: (N,) dB; if all are at `PSNR_CAP`, all originals are gray: None.
    """
    if (psnr_of_gray >= PSNR_CAP).all():
        return None
    return distance / frechet_distance(gray, original)


def total_variation(a: np.ndarray, b: np.ndarray) -> float:
    """Distance of two histograms of the same shape, in [0, 1]; neither may be empty.

    Half the sum of the absolute differences of their shares: the share of the pixels that would
    have to go to another bin to make one of the other.
    """
    return float(np.abs(a / a.sum() - b / b.sum()).sum() / 2)


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance of the Gaussians fitted to two sets of features (Heusel et al. 2017).

    |mean a - mean b|^2 + tr(A + B - 2 (A B)^(1/2)), with covariances of N - 1 degrees of freedom.
    The trace of the root is the sum of the singular values of A^(1/2) B^(1/2), which takes no root
    of what rounding left of a zero and so also holds for fewer images than features.

    Args:
      a: (N, F), a row an image, in any float type; the computation is in float64.
      b: (M, F).

    Raises:
      UserError: if a set has fewer than two rows.
    """
    if min(len(a), len(b)) < 2:
        raise UserError(
            'A Frechet distance needs two photographs or more: name a larger eval.source, or leave '
            'eval.features empty.'
        )
    a, b = a.astype(np.float64), b.astype(np.float64)
    covariances = [np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b)]
    root_a, root_b = (_symmetric_root(covariance) for covariance in covariances)
    overlap = np.linalg.norm(root_a @ root_b, 'nuc')
    spread = np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * overlap
    return float(np.square(a.mean(0) - b.mean(0)).sum() + max(spread, 0))


def _symmetric_root(matrix: np.ndarray) -> np.ndarray:
    """The positive semi-definite root of such a matrix, whatever rounding made of its zeros."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
