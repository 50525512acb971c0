"""Per-image metrics of a batch, as jnp functions for `METRICS`.

RGB is sRGB in [0, 1]. All functions except `ab_mae` first round it to uint8 values, so that the
results equal those measured on saved files.
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
AB_BIN = 10  # width of a histogram bin in units of a* and b*, as in Zhang et al. 2016
AB_BINS = 23  # bins per axis; the middle one is centred on gray, and sRGB needs 22
BLOTCH_SIDE = 64  # px of the shorter side at which blotchiness is measured
BLOTCH_FLOOR = 0.1  # ab units per pixel; an original below it counts as colourless


def quantize(rgb: Array) -> Array:
    """Rounds RGB in [0, 1], any shape, to the nearest multiples of 1/255; float32."""
    return jnp.round(rgb.astype(jnp.float32) * 255) / 255


def psnr(a: Array, b: Array) -> Array:
    """Peak signal-to-noise ratio at uint8, two (B, H, W, 3) -> (B,) dB.

    The squared error is averaged over all pixels and channels. The result is capped at `PSNR_CAP`,
    the value of identical images, because JSON has no Infinity.
    """
    return jnp.minimum(dm_pix.psnr(quantize(a), quantize(b)), PSNR_CAP)


def _gaussian_blur(height: int, width: int) -> Callable[[Array], Array]:
    """The SSIM window filter of (B, height, width, C), without padding ('valid').

    It multiplies by two banded matrices: on a CPU this is faster than `dm_pix`'s convolutions.
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
    """Structural similarity at uint8 (Wang et al. 2004), two (B, H, W, 3) -> (B,) in [-1, 1].

    The mean over the channels, as in scikit-image with `gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, channel_axis=-1`.

    Raises:
      UserError: if a side is shorter than the window's 11 px.
    """
    height, width = a.shape[-3:-1]
    if min(height, width) < SSIM_WINDOW:
        raise UserError(
            f'SSIM needs sides of at least {SSIM_WINDOW} px, but the images are {height} x '
            f'{width}: set eval.size or data.size to {SSIM_WINDOW} or more.'
        )
    return dm_pix.ssim(quantize(a), quantize(b), filter_fn=_gaussian_blur(height, width))


def ab_mae(a: Array, b: Array) -> Array:
    """Mean absolute error of a* and b*, two (B, H, W, 3) Lab -> (B,) in Lab units."""
    return jnp.abs((b - a)[..., 1:]).mean(axis=(-3, -2, -1))


def colorfulness(rgb: Array) -> Array:
    """Colorfulness at uint8, on the 0..255 scale, (B, H, W, 3) -> (B,).

    M3 of Hasler & Suesstrunk 2003: with rg = R - G and yb = (R + G)/2 - B,
    sqrt(var(rg) + var(yb)) + 0.3 sqrt(mean(rg)^2 + mean(yb)^2). Some implementations use |rg| and
    |yb|, which gives different, mostly lower values.
    """
    red, green, blue = jnp.moveaxis(quantize(rgb) * 255, -1, 0)
    rg, yb = red - green, (red + green) / 2 - blue
    spread = jnp.sqrt(rg.var(axis=(-2, -1)) + yb.var(axis=(-2, -1)))
    offset = jnp.hypot(rg.mean(axis=(-2, -1)), yb.mean(axis=(-2, -1)))
    return spread + 0.3 * offset


def ab_histogram(rgb: Array) -> Array:
    """Histogram of a* and b* at uint8, (B, H, W, 3) -> (B, 23, 23) int32 pixel counts.

    Bin [i, j] counts the pixels whose a* is nearest to 10 (i - 11) and whose b* is nearest to
    10 (j - 11). All of sRGB lies within the bins.
    """
    ab = color.rgb_to_lab(quantize(rgb))[..., 1:]
    places = jnp.round(ab / AB_BIN).astype(jnp.int32) + AB_BINS // 2
    flat = (places[..., 0] * AB_BINS + places[..., 1]).reshape(len(rgb), -1)

    def count(image: Array) -> Array:
        return jnp.zeros(AB_BINS**2, jnp.int32).at[image].add(1)

    # vmap keeps the batch sharded; one scatter over the batch would gather it.
    return jax.vmap(count)(flat).reshape(-1, AB_BINS, AB_BINS)


def _area_mean(size: int, smaller: int) -> np.ndarray:
    """The (smaller, size) matrix of area-weighted downsampling along one axis."""
    edges = np.arange(smaller + 1)[:, None] * size / smaller
    pixels = np.arange(size)
    upper, lower = np.minimum(edges[1:], pixels + 1), np.maximum(edges[:-1], pixels)
    return (np.maximum(upper - lower, 0) * smaller / size).astype(np.float32)


def _shrink(x: Array) -> Array:
    """Downsamples (B, H, W, C) by area to a shorter side of `BLOTCH_SIDE`; never enlarges."""
    height, width = x.shape[1:3]
    scale = min(1, BLOTCH_SIDE / min(height, width))
    rows, columns = (_area_mean(side, round(side * scale)) for side in (height, width))
    precision = jax.lax.Precision.HIGHEST
    return jnp.einsum('iy,byxc,jx->bijc', rows, x, columns, precision=precision)


def _gradient_magnitude(x: Array) -> Array:
    """Norm over channels of central differences: (B, H, W, C) -> (B, H - 2, W - 2)."""
    down = (x[:, 2:, 1:-1] - x[:, :-2, 1:-1]) / 2
    right = (x[:, 1:-1, 2:] - x[:, 1:-1, :-2]) / 2
    return jnp.sqrt((down**2 + right**2).sum(axis=-1))


def blotchiness(original: Array, colorized: Array) -> Array:
    """Ratio of the ab gradients of two images where the original's L* is smooth.

    Lab at uint8 is downsampled by area to a shorter side of 64 px; smaller images are not resized.
    S is the set of inner pixels whose |grad L*| in the original is at most its median.

      mean over S of |grad ab| of the colorized image / the same mean of the original,
      |grad ab|^2 = (da/dy)^2 + (da/dx)^2 + (db/dy)^2 + (db/dx)^2.

    Colour blotches on smooth surfaces give a large ratio. A gray image has 0.

    Args:
      original: (B, H, W, 3) RGB in [0, 1], sides of 3 px or more.
      colorized: the same shape.

    Returns:
      (B,) float32; NaN where the original's mean is below `BLOTCH_FLOOR`, as in a gray image.
    """
    lab, made = (_shrink(color.rgb_to_lab(quantize(rgb))) for rgb in (original, colorized))
    steepness = _gradient_magnitude(lab[..., :1])
    smooth = steepness <= jnp.median(steepness, axis=(-2, -1), keepdims=True)
    gradients = (_gradient_magnitude(x[..., 1:]) for x in (lab, made))
    of_original, of_made = (g.mean(axis=(-2, -1), where=smooth) for g in gradients)
    colored = of_original >= BLOTCH_FLOOR
    return jnp.where(colored, of_made / jnp.where(colored, of_original, 1), jnp.nan)
