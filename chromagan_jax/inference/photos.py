"""Photographs at their own resolution: read, recoloured and written.

Pixels are sRGB: (H, W) gray, uint8 or uint16; (H, W, 3) RGB or (H, W, 4) RGBA, uint8.
"""

import contextlib
import errno
import functools
import io
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile

import cv2
import numpy as np
from PIL import Image

from chromagan_jax import color
from chromagan_jax.config.postprocess import OFF, PostProcess
from chromagan_jax.data.decode import count_frames, load, resize, to_srgb
from chromagan_jax.errors import UserError
from chromagan_jax.inference import postprocess
from chromagan_jax.inference.gamut import lab_to_rgb_of_lightness

_STRIP = 2**15  # pixels whose colours are computed at a time: their floats stay in a cache
_NOISE = 4.0  # variance of L* that is taken for grain, not for an edge


def prepare(
    pixels: np.ndarray, size: int, post: PostProcess = OFF
) -> tuple[np.ndarray, np.ndarray]:
    """A photograph whose lightness is to be kept, and what a network sees of it.

    Args:
        pixels: (H, W), (H, W, 3) or (H, W, 4).
        size: px, the side of the square that the network sees.
        post: of it only `denoise_before` counts.

    Returns:
        `pixels`, or denoised ones, (H, W) uint16 or (H, W, 4) uint8; and `shrink` of them.
    """
    if post.denoise_before:
        gray = postprocess.denoise_gray(to_gray(pixels), post.denoise_before)
        if pixels.shape[2:] == (4,):
            gray = cv2.convertScaleAbs(gray, alpha=1 / 257)
            pixels = cv2.merge([gray, gray, gray, pixels[..., 3]])
        else:
            pixels = gray
    return pixels, shrink(pixels, size)


def shrink(pixels: np.ndarray, size: int) -> np.ndarray:
    """What a network sees of a photograph: all of it, squeezed to (size, size, 3) uint8 RGB.

    Squeezed and not padded or cut: of 242 held-out photographs with an aspect above 1.2 the squeeze
    had the lowest ab error among inputs of one square (13.4; letterbox 13.5), and no higher one
    than a square and its double (13.5 stretched, 13.7 mirrored). Transparent parts are white.
    """
    if pixels.ndim == 3:
        return resize(on_white(pixels), size, size)
    small = resize(pixels, size, size)
    if small.dtype == np.uint16:
        small = np.rint(small / 257).astype(np.uint8)
    return cv2.merge([small] * 3)


def on_white(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) or (H, W, 4) uint8 to (H, W, 3), transparent parts on white."""
    if pixels.shape[2] == 3:
        return pixels
    alpha = cv2.merge([pixels[..., 3]] * 3)
    rgb = cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB)
    return cv2.add(cv2.multiply(rgb, alpha, scale=1 / 255), 255 - alpha)


def recolor(
    pixels: np.ndarray, small: np.ndarray, ab: np.ndarray, post: PostProcess = OFF
) -> np.ndarray:
    """The lightness of a photograph with colours that were found for a small version of it.

    Where ab follows L* in the small version, it does so in the large one: with the slope A of the
    local regression of ab on L*,

        ab_large = up(ab - A L_small) + up(A) L_large,

    kept between the smallest and the largest ab of the neighbourhood. It is the residual form of a
    guided filter (He et al. 2013, https://doi.org/10.1109/TPAMI.2012.213) computed on the small
    version (He and Sun 2015, https://arxiv.org/abs/1505.00996), so that colours end at the edges
    of the photograph. Mean ab error where L* is steepest (a tenth of the pixels; five photographs,
    64 px to about 500) and within 8 px of a synthetic edge: nearest 5.2 and 3.9, bilinear 5.0
    (photographs), bicubic 4.8 and 3.8, Lanczos 4.8 (photographs), this 4.2 and 0.5.

    L* is that of `pixels` everywhere, up to the rounding of the result and unless `post.contrast`
    changes it: colours that sRGB does not have lose chroma, not lightness.

    Args:
        pixels: the photograph, (H, W), (H, W, 3) or (H, W, 4).
        small: (h, w, 3) uint8 of the whole of it.
        ab: (h, w, 2) a*, b* of `small`.
        post: what is done to colours and contrast.

    Returns:
        (H, W, 3) uint8, or (H, W, 4) with the alpha of `pixels`.
    """
    height, width = pixels.shape[:2]
    seen = lightness(small)
    maps = _guided_maps(seen, postprocess.treat_chroma(post, seen, ab))
    tall = [_resized(image, image.shape[1], height) for image in maps]
    result = np.empty((height, width, 4 if pixels.shape[2:] == (4,) else 3), np.uint8)
    change = _contrast_change(pixels, post) if post.contrast else None
    for strip in _strips(height, width):
        wide = [_resized(image[strip], width, image[strip].shape[0]) for image in tall]
        guide = lightness(pixels[strip])
        light = guide if change is None else np.clip(guide + change[strip], 0, 100)
        a, b = (_chroma(guide, *wide[index : index + 4]) for index in (0, 4))
        for index, plane in enumerate(lab_to_rgb_of_lightness(light, a, b)):
            channel = cv2.convertScaleAbs(plane, alpha=255)
            cv2.mixChannels([channel], [result[strip]], [0, index])
    if result.shape[2] == 4:
        result[..., 3] = pixels[..., 3]
    return result


def _chroma(
    guide: np.ndarray, rest: np.ndarray, slope: np.ndarray, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """a* or b* from L* and its maps, (h, w) each."""
    chroma = slope * guide
    chroma += rest
    return np.minimum(np.maximum(chroma, low, out=chroma), high, out=chroma)


def _strips(height: int, width: int) -> Iterator[slice]:
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):
        yield slice(top, min(top + rows, height))


def _contrast_change(pixels: np.ndarray, post: PostProcess) -> np.ndarray:
    steps = np.rint(_lightness_of_gray(np.dtype(np.uint16)) * 2.55).astype(np.uint8)
    return postprocess.contrast_change(
        steps[to_gray(pixels)], post.contrast, post.clahe_clip, post.clahe_tiles
    )


def to_gray(pixels: np.ndarray) -> np.ndarray:
    """(H, W) uint16 gray of the same L*; what alpha hides altogether is white."""
    if pixels.ndim == 2:
        return pixels if pixels.dtype == np.uint16 else pixels.astype(np.uint16) * 257
    gray = np.empty(pixels.shape[:2], np.uint16)
    for strip in _strips(*pixels.shape[:2]):
        gray[strip] = np.rint(color.lightness_to_gray(lightness(pixels[strip])) * 65535)
    if pixels.shape[2] == 4:
        gray[pixels[..., 3] == 0] = 65535
    return gray


def lightness(pixels: np.ndarray) -> np.ndarray:
    """(H, W) float32 L* of pixels of any kind, alpha left out."""
    if pixels.ndim == 2:
        return _lightness_of_gray(pixels.dtype)[pixels]
    return color.lightness(pixels)


@functools.cache
def _lightness_of_gray(dtype: np.dtype) -> np.ndarray:
    full = np.iinfo(dtype).max
    return color.gray_to_lightness(np.arange(full + 1, dtype=np.float64) / full).astype(np.float32)


def _guided_maps(guide: np.ndarray, ab: np.ndarray) -> list[np.ndarray]:
    """(h, w) each, first of a*, then of b*: it less what L* explains, the slope, the bounds nearby.

    The bounds are the least and the greatest value of the neighbourhood.
    """

    def mean(x: np.ndarray) -> np.ndarray:
        return cv2.blur(x, (3, 3), borderType=cv2.BORDER_REFLECT)

    guide_mean = mean(guide)
    variance = mean(guide * guide)
    variance -= guide_mean * guide_mean
    variance += np.float32(_NOISE)
    window = np.ones((3, 3), np.uint8)
    maps = []
    for plane in cv2.split(np.asarray(ab, np.float32)):
        covariance = mean(plane * guide)
        covariance -= mean(plane) * guide_mean
        covariance /= variance
        slope = mean(covariance)
        rest = plane - slope * guide
        maps += [rest, slope, cv2.erode(plane, window), cv2.dilate(plane, window)]
    return maps


def _resized(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """(h, w) to (height, width) by bicubic interpolation to enlarge, by areas to shrink.

    One of the two sides stays what it is: then no row, or no column, depends on its neighbours.
    """
    if image.shape == (height, width):
        return image
    shrinks = width * height < image.size
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(image, (width, height), interpolation=method)


def read(path: Path, max_pixels: int) -> tuple[np.ndarray, int]:
    """The first frame of an image file, upright, and how many frames there are.

    Raises:
        UnreadableImage: it is damaged, no image, or has more than `max_pixels`.
        OSError: it cannot be read.
    """
    data = path.read_bytes()
    image = load(data, max_pixels=max_pixels)
    frames = count_frames(data)
    del data
    if image.mode.startswith('I;16'):
        return np.asarray(image).astype(np.uint16), frames
    if image.mode in ('1', 'L') and not {'transparency', 'icc_profile'} & image.info.keys():
        return np.asarray(image.convert('L')), frames
    colour, alpha = to_srgb(image)
    if alpha is not None:
        del image
        colour.putalpha(alpha)
    return np.asarray(colour), frames


def write(path: Path, pixels: np.ndarray) -> None:
    """Writes (H, W, 3), or (H, W, 4) for PNG, as the suffix says: all of it or nothing.

    JPEG has quality 95 and colours at full resolution.

    Raises:
        UserError: if nothing more can be written there.
        OSError: if this one cannot be written.
    """
    temporary = path.with_name(f'.{path.name}.tmp')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(_encoded(pixels, path.suffix))
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise UserError(
                f'{path} cannot be written ({error.strerror}): make room there, or choose another '
                '--output.'
            ) from error
        raise


def _encoded(pixels: np.ndarray, suffix: str) -> bytes:
    """The content of a file."""
    if suffix == '.jpg':
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, 'JPEG', quality=95, subsampling=0)
        return data.getvalue()
    order = cv2.COLOR_RGBA2BGRA if pixels.shape[2] == 4 else cv2.COLOR_RGB2BGR
    # Faster than Pillow and little larger: photographs repeat little but runs of pixels.
    options = {
        cv2.IMWRITE_PNG_COMPRESSION: 2,
        cv2.IMWRITE_PNG_STRATEGY: cv2.IMWRITE_PNG_STRATEGY_RLE,
        cv2.IMWRITE_PNG_FILTER: cv2.IMWRITE_PNG_FILTER_PAETH,
    }
    parameters = [number for option in options.items() for number in option]
    return cv2.imencode('.png', cv2.cvtColor(pixels, order), parameters)[1].tobytes()


def check_writable(output: Path) -> None:
    """Makes the output folder; raises UserError if nothing can be written there."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise UserError(
            f'{output} cannot be written ({error.strerror}): make room or permission there, or '
            'choose another --output.'
        ) from error
