"""What is done to a colour version after the network, and to a photograph before it; all optional.

Lightness is L* in [0, 100], chroma a*, b*. The chroma is treated at the size of the network, where
it was found, the lightness at that of the photograph.
"""

import cv2
import numpy as np
from skimage import exposure

from chromagan_jax import color
from chromagan_jax.config.postprocess import PostProcess
from chromagan_jax.inference.gamut import lab_to_rgb_of_lightness

_PATCH, _SEARCH = 7, 21  # px, non-local means' windows, as its authors and OpenCV have them
_BILATERAL_REACH = 3.0  # px of the network's size, the bilateral filter's deviation in space
_LEAST_TILE = (
    48  # px: OpenCV clips whole counts, so that flat small tiles shift (48: 7/255; 16: 40)
)
_ENDS = 1.0  # L* from black and from white within which colours do not count


def treat_chroma(post: PostProcess, lightness: np.ndarray, ab: np.ndarray) -> np.ndarray:
    """Saturation, white balance and denoising of chroma, in this order.

    Args:
        post: which of them; without any, `ab` itself is returned.
        lightness: (h, w) L* of the same pixels; it stays what it is.
        ab: (h, w, 2) float32.
    """
    if post.saturation != 1:
        ab = ab * np.float32(post.saturation)
    if post.white_balance == 'gray_world':
        ab = gray_world(lightness, ab, post.white_balance_strength)
    elif post.white_balance == 'percentile':
        ab = balance_percentiles(lightness, ab, post.white_balance_strength)
    if post.denoise_after:
        denoise = {'nlm': denoise_chroma, 'bilateral': smooth_chroma}[post.denoise_method]
        ab = denoise(ab, post.denoise_after)
    return ab


def gray_world(lightness: np.ndarray, ab: np.ndarray, strength: float) -> np.ndarray:
    """Shifts a*, b* so that their means become (1 - strength) of what they were.

    After Buchsbaum (1980, https://doi.org/10.1016/0016-0032(80)90058-7), in Lab instead of on
    cones. Black and white, which can have no colour (borders, transparent parts), do not count.

    Args:
        lightness: (h, w) L*.
        ab: (h, w, 2) float32.
        strength: share of the correction, in [0, 1].

    Returns:
        (h, w, 2) float32.
    """
    counts = _counts(lightness)
    if not counts.any():
        return ab
    return ab - np.float32(strength) * ab[counts].mean(axis=0)


def balance_percentiles(lightness: np.ndarray, ab: np.ndarray, strength: float) -> np.ndarray:
    """Brings the 1st and the 99th percentiles of R, G and B together, and takes the ab of that.

    Each channel is stretched to the mean of the three ranges, so that a picture whose darkest and
    brightest parts are neutral stays as it is. Black and white do not count, as in `gray_world`,
    and arguments and result are its.
    """
    counts = _counts(lightness)
    if not counts.any():
        return ab
    rgb = np.dstack(lab_to_rgb_of_lightness(lightness, ab[..., 0], ab[..., 1]))
    low, high = np.percentile(rgb[counts], (1, 99), axis=0)
    common = (low.mean(), high.mean())
    stretched = [
        exposure.rescale_intensity(rgb[..., i], in_range=(low[i], high[i]), out_range=common)
        for i in range(3)
    ]
    balanced = color.rgb_to_lab(np.dstack(stretched).astype(np.float32))[..., 1:]
    return ab + np.float32(strength) * (balanced - ab)


def _counts(lightness: np.ndarray) -> np.ndarray:
    return (lightness > _ENDS) & (lightness < 100 - _ENDS)


def denoise_gray(gray: np.ndarray, strength: float) -> np.ndarray:
    """(H, W) uint16 through non-local means of `strength` h, in steps of 257 (8-bit steps)."""
    return _non_local_means(gray, 257 * strength)


def denoise_chroma(ab: np.ndarray, strength: float) -> np.ndarray:
    """(h, w, 2) float32 through non-local means of `strength` h, in units of a* and b*."""
    coded = np.rint((ab + 128) * 256).clip(0, 65535).astype(np.uint16)
    return _non_local_means(coded, 256 * strength).astype(np.float32) / 256 - 128


def _non_local_means(values: np.ndarray, strength: float) -> np.ndarray:
    """Buades et al. (2011, https://doi.org/10.5201/ipol.2011.bcm_nlm) on uint16.

    At 16 bits, at which OpenCV knows the L1 distance only: the mean of many noisy values lies
    between 8-bit steps.
    """
    return cv2.fastNlMeansDenoising(
        values,
        h=[strength],
        templateWindowSize=_PATCH,
        searchWindowSize=_SEARCH,
        normType=cv2.NORM_L1,
    )


def smooth_chroma(ab: np.ndarray, strength: float) -> np.ndarray:
    """(h, w, 2) float32 through a bilateral filter whose deviation in ab is `strength`."""
    three = np.dstack([ab, np.zeros_like(ab[..., 0])])  # OpenCV takes 1 or 3 channels
    return np.ascontiguousarray(cv2.bilateralFilter(three, 0, strength, _BILATERAL_REACH)[..., :2])


def contrast_change(steps: np.ndarray, strength: float, clip: float, tiles: int) -> np.ndarray:
    """What contrast limited adaptive histogram equalization (CLAHE) adds to L*.

    Pizer et al. 1987 (https://doi.org/10.1016/S0734-189X(87)80186-X). On 8 bits, and to be added
    to a finer lightness: at 16 bits the clip limit, which is a count of pixels in a bin, loses its
    meaning (of skimage's astronaut 8 bits change 15 steps in the mean, 16 bits 4.6).

    Args:
        steps: (H, W) uint8, L* in steps of 100/255.
        strength: share of the change, in [0, 1].
        clip: the clip limit, in units of a flat histogram's bins.
        tiles: tiles a side, fewer in a photograph in which they would be smaller than 48 px; one
            with a shorter side than that is left alone.

    Returns:
        (H, W) float32 L*.
    """
    height, width = steps.shape
    across, down = (min(tiles, side // _LEAST_TILE) for side in (width, height))
    if not across or not down:
        return np.zeros(steps.shape, np.float32)
    equalized = cv2.createCLAHE(clip, (across, down)).apply(steps)
    scale = strength * 100 / 255
    return cv2.addWeighted(equalized, scale, steps, -scale, 0, dtype=cv2.CV_32F)
