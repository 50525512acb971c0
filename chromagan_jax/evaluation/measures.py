"""Measures of each image of a batch: jnp functions, which `METRICS` names.

RGB is sRGB in [0, 1]. All but `ab_mae` look at it as a uint8 file would hold it, so that they
equal what anybody measures on the files.
"""

from collections.abc import Callable

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np

from chromagan_jax import color
from chromagan_jax.errors import UserError

Array = jax.Array

PSNR_CAP = 60.0
SSIM_WINDOW = 11  # px, with a Gaussian of sigma 1.5 (Wang et al. 2004)
AB_BIN = 10  # units of a* and b* that a bin of the histogram is wide, as in Zhang et al. 2016
AB_BINS = 23  # of either; the one in the middle has gray in its centre, and sRGB fills 22
BLOTCH_SIDE = 64  # px of the shorter side at which blotchiness is measured
BLOTCH_FLOOR = 0.1  # units of ab a pixel: an original below it has no colour to compare with


def quantize(rgb: Array) -> Array:
    """RGB in [0, 1], any shape, to the nearest values that a uint8 file holds; float32."""
    return jnp.round(rgb.astype(jnp.float32) * 255) / 255


def psnr(a: Array, b: Array) -> Array:
    """Peak signal-to-noise ratio at uint8, (B, H, W, 3) twice -> (B,) dB.

    Capped at `PSNR_CAP`, which identical images reach: JSON has no Infinity. The error is taken
    over all three channels of an image together.
    """
    return jnp.minimum(dm_pix.psnr(quantize(a), quantize(b)), PSNR_CAP)


def _gaussian_blur(height: int, width: int) -> Callable[[Array], Array]:
    """The SSIM window over (B, height, width, C), at the pixels where it lies inside the image.

    Two banded matrices: on a CPU four times as fast as the convolutions of `dm_pix.ssim`.
    """
    offsets = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    window = np.exp(-0.5 * (offsets / 1.5) ** 2)
    window /= window.sum()

    def band(size: int) -> Array:
        rows = size - SSIM_WINDOW + 1
        return jnp.asarray(
            [np.pad(window, (i, rows - 1 - i)) for i in range(rows)], dtype=jnp.float32
        )

    def blur(x: Array) -> Array:
        return jnp.einsum(
            'iy,byxc,jx->bijc', band(height), x, band(width), precision=jax.lax.Precision.HIGHEST
        )

    return blur


def ssim(a: Array, b: Array) -> Array:
    """Structural similarity at uint8 (Wang et al. 2004), (B, H, W, 3) twice -> (B,) in [-1, 1].

    The mean over the three channels, as scikit-image has it with `gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, channel_axis=-1`.

    Raises:
      UserError: if a side is shorter than the window's 11 px.
    """
    height, width = a.shape[-3:-1]
    if min(height, width) < SSIM_WINDOW:
        raise UserError(
            f'SSIM needs images of {SSIM_WINDOW} px or more a side, these are {height} x {width}: '
            'evaluate at a larger size'
        )
    return dm_pix.ssim(quantize(a), quantize(b), filter_fn=_gaussian_blur(height, width))


def ab_mae(a: Array, b: Array) -> Array:
    """Mean absolute error of a* and b*, (B, H, W, 3) Lab twice -> (B,) in units of Lab."""
    return jnp.abs((b - a)[..., 1:]).mean(axis=(-3, -2, -1))


def colorfulness(rgb: Array) -> Array:
    """Colorfulness at uint8, on the 0..255 scale, (B, H, W, 3) -> (B,).

    M3 of Hasler & Suesstrunk 2003: with rg = R - G and yb = (R + G)/2 - B,
    sqrt(var rg + var yb) + 0.3 sqrt(mean rg^2 + mean yb^2) (where "mean rg^2" is the square of the
    mean). Some code takes |rg| and |yb| first, which gives other, mostly lower values.
    """
    red, green, blue = jnp.moveaxis(quantize(rgb) * 255, -1, 0)
    rg, yb = red - green, (red + green) / 2 - blue
    spread = jnp.sqrt(rg.var(axis=(-2, -1)) + yb.var(axis=(-2, -1)))
    offset = jnp.hypot(rg.mean(axis=(-2, -1)), yb.mean(axis=(-2, -1)))
    return spread + 0.3 * offset


def ab_histogram(rgb: Array) -> Array:
    """How many pixels have which a* and b*: (B, H, W, 3) -> (B, 23, 23) int32.

    Bin [i, j] holds the pixels whose a* is nearest to 10 (i - 11) and whose b* to 10 (j - 11); sRGB
    lies within.
    """
    ab = color.rgb_to_lab(quantize(rgb))[..., 1:]
    places = jnp.round(ab / AB_BIN).astype(jnp.int32) + AB_BINS // 2
    flat = (places[..., 0] * AB_BINS + places[..., 1]).reshape(len(rgb), -1)

    def count(image: Array) -> Array:
        return jnp.zeros(AB_BINS**2, jnp.int32).at[image].add(1)

    # One image at a time: a scatter over the batch would gather what devices hold apart.
    return jax.vmap(count)(flat).reshape(-1, AB_BINS, AB_BINS)


def _area_mean(size: int, smaller: int) -> np.ndarray:
    """The matrix (smaller, size) that averages over equal lengths, pixels shared by overlap."""
    edges = np.arange(smaller + 1)[:, None] * size / smaller
    pixels = np.arange(size)
    upper, lower = np.minimum(edges[1:], pixels + 1), np.maximum(edges[:-1], pixels)
    return (np.maximum(upper - lower, 0) * smaller / size).astype(np.float32)


def _shrink(x: Array) -> Array:
    """Area mean of (B, H, W, C) to a shorter side of `BLOTCH_SIDE`; smaller pictures stay."""
    height, width = x.shape[1:3]
    scale = min(1, BLOTCH_SIDE / min(height, width))
    rows, columns = (_area_mean(side, round(side * scale)) for side in (height, width))
    precision = jax.lax.Precision.HIGHEST
    return jnp.einsum('iy,byxc,jx->bijc', rows, x, columns, precision=precision)


def _gradient_magnitude(x: Array) -> Array:
    """Of (B, H, W, C), over all channels, by central differences: (B, H - 2, W - 2)."""
    down = (x[:, 2:, 1:-1] - x[:, :-2, 1:-1]) / 2
    right = (x[:, 1:-1, 2:] - x[:, 1:-1, :-2]) / 2
    return jnp.sqrt((down**2 + right**2).sum(axis=-1))


def blotchiness(original: Array, colorized: Array) -> Array:
    """Gradient of ab where the original's L* is smooth, as a multiple of the original's.

    With Lab of the uint8 pictures, averaged over areas down to a shorter side of 64 px, and S the
    half of the inner pixels with the smaller |grad L*| of the original:

      mean over S of |grad ab| of the colorized picture / the same of the original,
      |grad ab|^2 = (da/dy)^2 + (da/dx)^2 + (db/dy)^2 + (db/dx)^2.

    Patches of colour on smooth surfaces make it large; a gray picture has 0. Pictures below 64 px
    are measured as they are. Of equal |grad L*| at the median all pixels are in S.

    Args:
      original: (B, H, W, 3) RGB in [0, 1], 3 px or more a side.
      colorized: the same shape.

    Returns:
      (B,) float32; NaN where the original has less than `BLOTCH_FLOOR`, as a gray one has.
    """
    lab, made = (_shrink(color.rgb_to_lab(quantize(rgb))) for rgb in (original, colorized))
    steepness = _gradient_magnitude(lab[..., :1])
    smooth = steepness <= jnp.median(steepness, axis=(-2, -1), keepdims=True)
    gradients = (_gradient_magnitude(x[..., 1:]) for x in (lab, made))
    of_original, of_made = (g.mean(axis=(-2, -1), where=smooth) for g in gradients)
    colored = of_original >= BLOTCH_FLOOR
    return jnp.where(colored, of_made / jnp.where(colored, of_original, 1), jnp.nan)
