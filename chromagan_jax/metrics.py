"""Measures of colorized photographs: batched jnp functions, one value an image.

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

# Metrics that can rank checkpoints, and the sign that makes the lower score the better one.
RANKING = {'ab_mae': 1, 'colorfulness_gap': 1, 'psnr': -1, 'ssim': -1}
PSNR_CAP = 60.0
SSIM_WINDOW = 11  # px, with a Gaussian of sigma 1.5 (Wang et al. 2004)


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


def ab_mae(condition: Array, target: Array, prediction: Array) -> Array:
    """Mean absolute error of a* and b*, in units of Lab.

    Args:
      condition: (B, H, W, 1).
      target: (B, H, W, 2) in `lab` or (B, H, W, 3) in `rgb` (see `color`).
      prediction: the same shape as the target.

    Returns:
      (B,).
    """
    error = color.to_lab(condition, prediction) - color.to_lab(condition, target)
    return jnp.abs(error[..., 1:]).mean(axis=(-3, -2, -1))


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


def image_metrics(condition: Array, target: Array, prediction: Array) -> dict[str, Array]:
    """Every measure of a batch of predictions, and those of the gray picture to hold them against.

    The gray picture's colorfulness is 0 and left out. An original that is itself gray has
    `psnr_gray` at `PSNR_CAP` and belongs in no mean of the gray picture's.

    Args:
      condition: (B, H, W, 1).
      target: (B, H, W, 2) in `lab` or (B, H, W, 3) in `rgb` (see `color`).
      prediction: the same shape as the target.

    Returns:
      'psnr' (dB), 'ssim', 'ab_mae', each also with '_gray'; 'colorfulness' of the prediction and
      'colorfulness_original'; all (B,) float32.

    Raises:
      UserError: if a side is shorter than 11 px.
    """
    gray_target = color.gray_target(condition, target.shape[-1])
    original, colorized, gray = (
        color.to_rgb(condition, t) for t in (target, prediction, gray_target)
    )
    return {
        'psnr': psnr(original, colorized),
        'ssim': ssim(original, colorized),
        'ab_mae': ab_mae(condition, target, prediction),
        'colorfulness': colorfulness(colorized),
        'colorfulness_original': colorfulness(original),
        'psnr_gray': psnr(original, gray),
        'ssim_gray': ssim(original, gray),
        'ab_mae_gray': ab_mae(condition, target, gray_target),
    }
