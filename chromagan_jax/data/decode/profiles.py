"""Conversion of stored colours to sRGB by ICC profiles, in 8 and in 16 bits.

Relative colorimetric with black point compensation, as in browsers. A profile that is damaged or
does not match the colour space of the image is ignored.
"""

import functools
import io

import cv2
import imagecodecs
import numpy as np
from PIL import Image, ImageCms

from chromagan_jax.data.decode.frame import Frame

_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION
_SPACES = {'gray': b'GRAY', 'rgb': b'RGB ', 'cmyk': b'CMYK'}
_SRGB_GAMMA = 1 / 2.2  # a PNG of sRGB says so besides
_STRIP = 2**22  # pixels converted at a time: LittleCMS holds the interpreter's lock


def to_srgb(frame: Frame) -> np.ndarray:
    """The colours of a frame in sRGB: (H, W) or (H, W, 3), uint8 or uint16."""
    samples, profile = frame.samples, frame.profile
    if profile is not None and profile[16:20] != _SPACES.get(frame.space):
        profile = None
    if frame.space == 'gray' or (frame.space == 'rgb' and profile is None):
        curve = _curve(profile, frame.gamma)
        return samples if curve is None else _apply_curve(curve, samples)
    if frame.space == 'rgb':
        return rgb_to_srgb(samples, profile)
    if frame.space == 'cmyk':
        return _cmyk_to_srgb(to_8_bits(samples), profile)
    return _lab_to_srgb(samples)


def to_8_bits(samples: np.ndarray) -> np.ndarray:
    """uint8 or uint16 of any shape to uint8, rounded."""
    if samples.dtype == np.uint8:
        return samples
    return cv2.convertScaleAbs(samples, alpha=1 / 257).reshape(samples.shape)


def _curve(profile: bytes | None, gamma: float | None) -> np.ndarray | None:
    """(65536,) uint16: the sRGB value of each 16-bit value; None if it is the value itself."""
    if profile is not None:
        return _curve_of_profile(profile)
    if gamma is None or abs(gamma / _SRGB_GAMMA - 1) < 0.05:
        return None
    return _curve_of_gamma(gamma)


@functools.lru_cache(maxsize=16)
def _curve_of_profile(profile: bytes) -> np.ndarray | None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    try:
        values = imagecodecs.cms_transform(
            values,
            profile,
            imagecodecs.cms_profile('gray', gamma=2.2),  # finer in the shadows than light itself
            colorspace='gray',
            outcolorspace='gray',
            outdtype='uint16',
            intent=_INTENT,
            flags=_FLAGS | ImageCms.Flags.NOOPTIMIZE,
        )
    except (RuntimeError, ValueError):
        return None
    return _encode((values.ravel() / 65535) ** 2.2)


@functools.lru_cache(maxsize=16)
def _curve_of_gamma(gamma: float) -> np.ndarray:
    return _encode((np.arange(65536) / 65535) ** (1 / gamma))


def _encode(light: np.ndarray) -> np.ndarray:
    """Light in [0, 1] to sRGB in 16 bits (IEC 61966-2-1)."""
    value = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(value.clip(0, 1) * 65535).astype(np.uint16)


def _apply_curve(curve: np.ndarray, samples: np.ndarray) -> np.ndarray:
    if samples.dtype == np.uint16:
        return curve[samples]
    return np.rint(curve[::257] / 257).astype(np.uint8)[samples]


def rgb_to_srgb(samples: np.ndarray, profile: bytes | None) -> np.ndarray:
    """(H, W, 3) uint8 or uint16 with a profile to sRGB; itself if the profile is None or unfit."""
    transform = profile_transform(profile, 'RGB') if profile else None
    if transform is None or profile is None:
        return samples
    if samples.dtype == np.uint8:
        return np.asarray(transform.apply(Image.fromarray(samples)))
    return _transform_16_bits(samples, profile, 'rgb')


def _cmyk_to_srgb(samples: np.ndarray, profile: bytes | None) -> np.ndarray:
    """(H, W, 4) uint8, 255 for full ink."""
    image = Image.frombuffer('CMYK', samples.shape[1::-1], np.ascontiguousarray(samples))
    transform = profile_transform(profile, 'CMYK') if profile else None
    return np.asarray(transform.apply(image) if transform else image.convert('RGB'))


def _lab_to_srgb(samples: np.ndarray) -> np.ndarray:
    """(H, W, 3) CIELAB of D50."""
    deep = samples if samples.dtype == np.uint16 else samples.astype(np.uint16) * 257
    rgb = _transform_16_bits(deep, imagecodecs.cms_profile('lab4'), 'lab')
    return to_8_bits(rgb) if samples.dtype == np.uint8 else rgb


def _transform_16_bits(samples: np.ndarray, profile: bytes, space: str) -> np.ndarray:
    """(H, W, 3) uint16 through LittleCMS."""
    rows = max(1, _STRIP // samples.shape[1])
    result = np.empty(samples.shape, np.uint16)
    for top in range(0, len(samples), rows):
        result[top : top + rows] = imagecodecs.cms_transform(
            np.ascontiguousarray(samples[top : top + rows]),
            profile,
            imagecodecs.cms_profile('srgb'),
            colorspace=space,
            outcolorspace='rgb',
            outdtype='uint16',
            intent=_INTENT,
            flags=_FLAGS,
        )
    return result


@functools.lru_cache(maxsize=16)  # few, because a profile may be 500 kB
def profile_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform of 8-bit images of a Pillow mode to sRGB; None if it would change nothing."""
    try:
        source = ImageCms.getOpenProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(
            source, ImageCms.createProfile('sRGB'), mode, 'RGB', _INTENT, _FLAGS
        )
    except (ImageCms.PyCMSError, OSError):
        return None
    if mode == 'RGB':
        # Most profiles are variants of sRGB, which names do not identify reliably: they map a
        # sample of all colours to itself.
        levels = np.linspace(0, 255, 18).astype(np.uint8)
        probe = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(18, -1, 3)
        converted = np.asarray(transform.apply(Image.fromarray(probe)))
        if np.abs(converted.astype(np.int16) - probe).max() <= 2:
            return None
    return transform
