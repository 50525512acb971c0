"""Reductions of per-image values to one value for a data set, in NumPy on the host.

Each takes arrays (N, ...), one row per image, and returns None if the value is undefined.
"""

import numpy as np

from chromagan_jax.errors import UserError
from chromagan_jax.evaluation.measures import AB_BINS, PSNR_CAP

AB_OF_GRAY = np.pad([[1]], AB_BINS // 2)  # the ab histogram of one gray pixel
BLOTCHY = 2.0  # images with a larger blotchiness count as blotchy


def mean(values: np.ndarray) -> float:
    """Mean of (N,) values, in float64."""
    return float(values.mean(dtype=np.float64))


def mean_of_known(values: np.ndarray) -> float | None:
    """Mean of the (N,) values that are not NaN; None if all are."""
    known = values[~np.isnan(values)]
    return mean(known) if known.size else None


def mean_below_cap(psnr: np.ndarray) -> float | None:
    """Mean of the (N,) values in dB that are below `PSNR_CAP`; None if there are none.

    The gray image has the cap if the original is gray.
    """
    below = psnr[psnr < PSNR_CAP]
    return mean(below) if below.size else None


def blotchy_share(blotchiness: np.ndarray) -> float | None:
    """Share of the (N,) values above `BLOTCHY`, ignoring NaN; None if all are NaN."""
    known = blotchiness[~np.isnan(blotchiness)]
    return float((known > BLOTCHY).mean()) if known.size else None


def histogram_distance(made: np.ndarray, original: np.ndarray) -> float:
    """`total_variation` between the summed histograms of two sets, (N, 23, 23) counts each."""
    return total_variation(*(h.sum(axis=0, dtype=np.int64) for h in (made, original)))


def histogram_distance_of_gray(original: np.ndarray) -> float:
    """`histogram_distance` between gray images and originals, (N, 23, 23) counts."""
    return total_variation(AB_OF_GRAY, original.sum(axis=0, dtype=np.int64))


def share_of_grays_distance(
    distance: float, gray: np.ndarray, original: np.ndarray, psnr_of_gray: np.ndarray
) -> float | None:
    """A Frechet distance, divided by the distance between gray images and originals.

    Args:
      distance: `frechet_distance` between colorized images and originals.
      gray: (N, F) features of the gray images.
      original: (N, F) features of the originals.
      psnr_of_gray: (N,) dB of the gray images.

    Returns:
      The ratio, or None if all originals are gray (`psnr_of_gray` at `PSNR_CAP`).
    """
    if (psnr_of_gray >= PSNR_CAP).all():
        return None
    return distance / frechet_distance(gray, original)


def total_variation(a: np.ndarray, b: np.ndarray) -> float:
    """Total variation distance of two histograms of the same shape, in [0, 1].

    Half the sum of the absolute differences of the normalised histograms. Neither may be empty.
    """
    return float(np.abs(a / a.sum() - b / b.sum()).sum() / 2)


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance of the Gaussians fitted to two sets of features (Heusel et al. 2017).

    |mean a - mean b|^2 + tr(A + B - 2 (A B)^(1/2)), with covariances of N - 1 degrees of freedom.
    The trace of the root is computed as the sum of the singular values of A^(1/2) B^(1/2). This is
    stable for singular covariances, as with fewer images than features.

    Args:
      a: (N, F) features of any float type; the computation is in float64.
      b: (M, F) features.

    Raises:
      UserError: if a set has fewer than two rows.
    """
    if min(len(a), len(b)) < 2:
        raise UserError(
            'A Frechet distance needs two photographs or more: choose a larger eval.source, or '
            'leave eval.features empty.'
        )
    a, b = a.astype(np.float64), b.astype(np.float64)
    covariances = [np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b)]
    root_a, root_b = (_symmetric_root(covariance) for covariance in covariances)
    overlap = np.linalg.norm(root_a @ root_b, 'nuc')
    spread = np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * overlap
    return float(np.square(a.mean(0) - b.mean(0)).sum() + max(spread, 0))


def _symmetric_root(matrix: np.ndarray) -> np.ndarray:
    """Square root of a positive semi-definite matrix; negative rounding errors count as 0."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
