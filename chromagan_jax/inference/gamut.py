"""Lab to sRGB at the resolution of a photograph, for colours that may lie outside sRGB."""

import numpy as np

from chromagan_jax.color import F_INVERSE_KNEE, F_SLOPE, FROM_XYZ, LINEAR_KNEE


def lab_to_rgb_of_lightness(
    lightness: np.ndarray, a: np.ndarray, b: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`color.lab_to_rgb` that preserves L* of colours outside sRGB; clipping would change it.

    Such a colour is mixed in linear light with the gray of equal L* until it lies inside sRGB. Both
    have the same Y, and Y is linear in the mixture, so L* and the dominant wavelength stay.

    It works in place on separate planes, which is faster than on interleaved pixels.

    Args:
        lightness: L* in [0, 100], float32, any shape.
        a: a*, of the same shape.
        b: b*, of the same shape.

    Returns:
        R, G and B in [0, 1], float32, of the same shape.
    """
    f = (lightness + np.float32(16)) * np.float32(1 / 116)
    x = _cubed_f(f + a * np.float32(1 / 500))
    z = _cubed_f(np.maximum(f - b * np.float32(1 / 200), 0))  # as in color.lab_to_rgb
    gray = _cubed_f(f)
    rgb = [np.float32(u) * x + np.float32(v) * gray + np.float32(w) * z for u, v, w in FROM_XYZ]
    over = np.maximum(np.maximum(rgb[0], rgb[1]), rgb[2]) - gray
    under = gray - np.minimum(np.minimum(rgb[0], rgb[1]), rgb[2])
    # The largest share of the colour that leaves all channels in [0, 1].
    share = (1 - gray) / np.maximum(over, 1e-6)
    share = np.minimum(share, gray / np.maximum(under, 1e-6))
    share = np.minimum(np.maximum(share, 0), 1)
    for channel in rgb:
        channel -= gray
        channel *= share
        channel += gray
    red, green, blue = map(_encoded, rgb)
    return red, green, blue


def _cubed_f(f: np.ndarray) -> np.ndarray:
    """The inverse of Lab's f, computed in place; above the knee the linear term is 0."""
    above = np.maximum(f, np.float32(F_INVERSE_KNEE))
    f -= above
    f *= np.float32(1 / F_SLOPE)
    cube = above * above
    cube *= above
    f += cube
    return f


def _encoded(linear: np.ndarray) -> np.ndarray:
    """Linear RGB to sRGB, clipped to [0, 1], computed in place."""
    above = np.maximum(linear, np.float32(LINEAR_KNEE))
    linear -= above
    linear *= np.float32(12.92)
    np.power(above, np.float32(1 / 2.4), out=above)
    above *= np.float32(1.055)
    above -= np.float32(0.055)
    linear += above
    return np.minimum(np.maximum(linear, 0, out=linear), 1, out=linear)
