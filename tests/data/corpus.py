"""Image files of all kinds that are read, made by several writers, with the pixels they hold.

The picture is a gray or coloured gradient, in [0, 1]. A writer that is not installed adds nothing.
"""

import functools
import importlib.util
import io
import struct
from collections.abc import Callable
from typing import NamedTuple

import cv2
import imagecodecs
import numpy as np
import tifffile
from PIL import Image

HEIGHT, WIDTH = 40, 56
GRAY = np.linspace(0, 1, WIDTH) * np.linspace(0.5, 1, HEIGHT)[:, None]
RGB = np.dstack([GRAY, GRAY[:, ::-1], np.full_like(GRAY, 0.3)])
ALPHA = np.tile(np.linspace(1, 0.5, WIDTH), (HEIGHT, 1))
LOSSY = 0.02


class Made(NamedTuple):
    """A file, and what is in it."""

    data: bytes
    expected: np.ndarray  # (H, W) or (H, W, C) in [0, 1]
    tolerance: float  # of the mean absolute difference


def steps(values: np.ndarray, bits: int) -> np.ndarray:
    """[0, 1] to unsigned integers of so many bits."""
    kind = np.uint8 if bits <= 8 else np.uint16 if bits <= 16 else np.uint32
    return np.rint(values * (2**bits - 1)).astype(kind)


def written(save: Callable[..., None], *arguments, **options) -> bytes:
    """What a function writes into a file object."""
    buffer = io.BytesIO()
    save(buffer, *arguments, **options)
    return buffer.getvalue()


def tiff(values: np.ndarray, **options) -> bytes:
    """By tifffile; gray unless said otherwise."""
    options.setdefault('photometric', 'rgb' if values.ndim == 3 else 'minisblack')
    return written(tifffile.imwrite, values, **options)


@functools.cache
def corpus() -> dict[str, Made]:
    """All files by name."""
    made: dict[str, Made] = {}
    for part in (_pillow, _other_kinds, _tiff_depths, _tiff_codecs, _tiff_layouts, _tiff_colours):
        for name, data, expected, *tolerance in part():
            made[name] = Made(data, expected, tolerance[0] if tolerance else 1e-3)
    return made


def _pillow():
    gray, rgb = (Image.fromarray(steps(x, 8)) for x in (GRAY, RGB))
    near = 0.51 / 255
    for kind, options in (
        ('PNG', {}),
        ('BMP', {}),
        ('PPM', {}),
        ('WEBP', {'lossless': True}),
        ('JPEG2000', {'irreversible': False}),
        ('TIFF', {'compression': 'tiff_lzw'}),
    ):
        yield f'{kind} gray by Pillow', written(gray.save, kind, **options), GRAY, near
        yield f'{kind} RGB by Pillow', written(rgb.save, kind, **options), RGB, near
    yield 'GIF gray by Pillow', written(gray.save, 'GIF'), GRAY, near
    yield 'PNG palette', written(gray.convert('P').save, 'PNG'), GRAY, near
    for kind, options in (
        ('JPEG', {'quality': 95}),
        ('JPEG', {'quality': 95, 'progressive': True}),
        ('WEBP', {'quality': 95}),
        ('AVIF', {'quality': 95}),
        ('JPEG2000', {'quality_layers': [5]}),
    ):
        yield f'{kind} gray {options}', written(gray.save, kind, **options), GRAY, LOSSY
        yield f'{kind} RGB {options}', written(rgb.save, kind, **options), RGB, LOSSY
    cmyk = Image.fromarray(np.dstack([steps(0 * RGB, 8), steps(1 - GRAY, 8)]), 'CMYK')
    yield 'JPEG CMYK', written(cmyk.save, 'JPEG', quality=95), GRAY, LOSSY
    alpha = Image.fromarray(steps(ALPHA, 8))
    both = Image.merge('LA', [gray, alpha])
    yield 'PNG gray and alpha', written(both.save, 'PNG'), np.dstack([GRAY] * 3 + [ALPHA]), near
    deep = Image.fromarray(steps(GRAY, 16))
    yield 'PNG gray 16 bits', written(deep.save, 'PNG'), GRAY, 1e-5
    yield (
        'PGM 16 bits',
        b'P5\n%d %d\n65535\n' % (WIDTH, HEIGHT) + steps(GRAY, 16).astype('>u2').tobytes(),
        GRAY,
        1e-5,
    )
    dark = steps(GRAY / 400, 16).astype('>u2').tobytes()
    yield 'PGM 16 bits, dark', b'P5\n%d %d\n65535\n' % (WIDTH, HEIGHT) + dark, GRAY / 400, 1e-5
    yield (
        'PGM as text',
        f'P2\n{WIDTH} {HEIGHT}\n255\n'.encode()
        + ' '.join(map(str, steps(GRAY, 8).ravel())).encode(),
        GRAY,
        near,
    )


def _other_kinds():
    """PNG and JPEG 2000 of 16 bits, HEIF, JPEG XL."""
    bgr = np.ascontiguousarray(steps(RGB, 16)[..., ::-1])
    yield 'PNG RGB 16 bits by OpenCV', cv2.imencode('.png', bgr)[1].tobytes(), RGB, 1e-5
    deep = steps(np.dstack([RGB, ALPHA]), 16)
    yield 'PNG RGBA 16 bits', imagecodecs.png_encode(deep), np.dstack([RGB, ALPHA]), 1e-5
    two = np.ascontiguousarray(steps(np.dstack([GRAY, ALPHA]), 16))
    expected = np.dstack([GRAY] * 3 + [ALPHA])
    yield 'PNG gray and alpha 16 bits', imagecodecs.png_encode(two), expected, 1e-5
    j2k = imagecodecs.jpeg2k_encode(steps(GRAY, 16), level=0, codecformat='jp2')
    yield 'JPEG 2000 gray 16 bits', j2k, GRAY, 1e-3
    if importlib.util.find_spec('pillow_heif'):
        import pillow_heif

        rgb = pillow_heif.from_pillow(Image.fromarray(steps(RGB, 8)))
        yield 'HEIF RGB', written(rgb.save, quality=95, format='HEIF'), RGB, LOSSY
    if importlib.util.find_spec('pillow_jxl'):
        lossless = imagecodecs.jpegxl_encode(steps(RGB, 8), lossless=True)
        yield 'JPEG XL RGB', lossless, RGB, 0.51 / 255
        yield 'JPEG XL gray lossy', imagecodecs.jpegxl_encode(steps(GRAY, 8)), GRAY, LOSSY


def _tiff_depths():
    for bits in (1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 24):
        values = np.rint(GRAY * (2**bits - 1)).astype(np.uint32)
        expected = values / (2**bits - 1)
        yield f'TIFF gray {bits} bits', packed(values, bits, 1), expected
        white = packed(2**bits - 1 - values, bits, 0)
        yield f'TIFF white is zero {bits} bits', white, expected
    for bits in (8, 16):
        yield f'TIFF gray {bits} bits, lzw', tiff(steps(GRAY, bits), compression='lzw'), GRAY, 2e-3
    bilevel = GRAY > 0.5
    yield 'TIFF gray 1 bits, lzw', tiff(bilevel, compression='lzw'), bilevel * 1.0
    yield 'TIFF gray uint32', tiff(steps(GRAY, 32)), GRAY
    for kind, full in (('i1', 127), ('i2', 32767), ('i4', 2**31 - 1)):
        values = np.rint(GRAY * full).astype(kind)
        yield f'TIFF gray {kind}', tiff(values), GRAY, 0.01 if kind == 'i1' else 1e-3
    for kind in ('f2', 'f4', 'f8'):
        yield f'TIFF gray {kind}', tiff(GRAY.astype(kind)), GRAY
        yield f'TIFF RGB {kind} to 255', tiff((RGB * 255).astype(kind)), RGB
    yield 'TIFF f4 predictor', tiff(GRAY.astype('f4'), compression='zlib', predictor=True), GRAY


def _tiff_codecs():
    for bits in (8, 16):
        for name, values in (('gray', GRAY), ('RGB', RGB)):
            for codec in ('lzw', 'zlib', 'packbits', 'zstd', 'lzma', 'jpeg2000', 'jpegxl', 'png'):
                data = tiff(steps(values, bits), compression=codec)
                yield f'TIFF {name} {bits} bits {codec}', data, values, 2e-3
                if codec in ('lzw', 'zlib', 'zstd'):
                    data = tiff(steps(values, bits), compression=codec, predictor=True)
                    yield f'TIFF {name} {bits} bits {codec}, predictor', data, values, 2e-3
            for codec in (1, 5, 8, 32773):  # none, LZW, deflate, PackBits
                stored = steps(values, bits)
                stored = stored[..., ::-1] if values.ndim == 3 else stored
                data = cv2.imencode('.tif', stored, [cv2.IMWRITE_TIFF_COMPRESSION, codec])[1]
                yield f'TIFF {name} {bits} bits {codec} by OpenCV', data.tobytes(), values, 2e-3
    bits = Image.fromarray(steps(GRAY, 8)).convert('1')
    for codec in ('group3', 'group4', 'tiff_ccitt'):
        yield f'TIFF {codec}', written(bits.save, 'TIFF', compression=codec), np.asarray(bits) * 1.0
    for name, values in (('L', GRAY), ('RGB', RGB)):
        image = Image.fromarray(steps(values, 8))
        for codec in ('jpeg', 'tiff_adobe_deflate'):
            data = written(image.save, 'TIFF', compression=codec)
            yield f'TIFF {name} {codec} by Pillow', data, values, LOSSY


def _tiff_layouts():
    for bits in (8, 16):
        gray, rgb = steps(GRAY, bits), steps(RGB, bits)
        planes = np.ascontiguousarray(np.moveaxis(rgb, 2, 0))
        noise = np.random.default_rng(0).integers(0, 2**bits, GRAY.shape).astype(gray.dtype)
        alpha = steps(ALPHA, bits)
        for codec in (None, 'lzw'):
            end = f'{bits} bits {codec}'
            options = {'compression': codec}
            separate = tiff(planes, photometric='rgb', planarconfig='separate', **options)
            yield f'TIFF planes {end}', separate, RGB, 2e-3
            yield f'TIFF tiles {end}', tiff(rgb, tile=(16, 32), **options), RGB, 2e-3
            yield f'TIFF strips {end}', tiff(rgb, rowsperstrip=7, **options), RGB, 2e-3
            yield f'BigTIFF {end}', tiff(gray, bigtiff=True, **options), GRAY, 2e-3
            yield f'TIFF big-endian {end}', tiff(rgb, byteorder='>', **options), RGB, 2e-3
            for name, extra, kind in (
                ('infrared', noise, 'unspecified'),
                ('alpha', alpha, 'unassalpha'),
            ):
                options['extrasamples'] = [kind]
                shown = [ALPHA] if kind == 'unassalpha' else []
                data = tiff(np.dstack([gray, extra]), photometric='minisblack', **options)
                expected = np.dstack([GRAY] * 3 + shown) if shown else GRAY
                yield f'TIFF gray and {name} {end}', data, expected, 2e-3
                data = tiff(np.dstack([rgb, extra]), **options)
                yield f'TIFF RGB and {name} {end}', data, np.dstack([RGB, *shown]), 2e-3
        times = np.rint(rgb * ALPHA[..., None]).astype(rgb.dtype)
        data = tiff(np.dstack([times, alpha]), extrasamples=['assocalpha'])
        yield f'TIFF RGB times alpha {bits} bits', data, np.dstack([RGB, ALPHA]), 2e-3
    pages = written(_write_pages)
    yield 'TIFF pages, the first a thumbnail', pages, RGB, 2e-3


def dng() -> bytes:
    """A camera's raw file: sensor values behind a colour filter, and a preview of other size."""
    sensor = {
        'photometric': 'cfa',
        'extratags': [
            (33421, 'H', 2, (2, 2), True),  # the pattern of the filter
            (33422, 'B', 4, (0, 1, 1, 2), True),
        ],
    }
    camera = [
        (50706, 'B', 4, (1, 4, 0, 0), True),  # DNG version
        (50708, 's', 0, 'Testmaker Model 1', True),
        (271, 's', 0, 'Testmaker', True),
        (272, 's', 0, 'Model 1', True),
    ]
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        preview = steps(RGB[::4, ::4], 8)
        writer.write(preview, photometric='rgb', subfiletype=1, subifds=1, extratags=camera)
        writer.write(np.kron(steps(GRAY, 14), np.ones((4, 4), np.uint16)), **sensor)
    return buffer.getvalue()


def _write_pages(file: io.BytesIO) -> None:
    with tifffile.TiffWriter(file) as writer:
        writer.write(steps(GRAY[::4, ::4], 8), photometric='minisblack', subfiletype=1)
        writer.write(steps(RGB, 8), photometric='rgb')
        writer.write(steps(RGB[::-1], 8), photometric='rgb')


def _tiff_colours():
    table = np.tile(np.arange(256, dtype=np.uint16) * 257, (3, 1))
    data = tiff(steps(GRAY, 8), photometric='palette', colormap=table)
    yield 'TIFF palette', data, np.dstack([GRAY] * 3), 2e-3
    whole = np.asarray(Image.fromarray(steps(RGB, 8)).convert('YCbCr'))
    data = by_hand({258: 8, 262: 6, 277: 3, 530: 1 << 16 | 1}, whole.tobytes())
    yield 'TIFF YCbCr', data, RGB, LOSSY
    yield 'TIFF YCbCr, subsampled', _subsampled(), np.dstack([GRAY] * 3), 2e-3
    for bits in (8, 16):
        ink = np.dstack([0 * RGB, 1 - GRAY])
        data = tiff(steps(ink, bits), photometric='separated')
        yield f'TIFF CMYK {bits} bits', data, np.dstack([GRAY] * 3), 3e-3
        lightness = np.dstack([GRAY, 0 * GRAY, 0 * GRAY])
        data = tiff(steps(lightness, bits), photometric='cielab')
        light = np.where(GRAY > 0.08, ((GRAY + 0.16) / 1.16) ** 3, GRAY * 2700 / 24389)
        curve = np.where(light > 0.0031308, 1.055 * light ** (1 / 2.4) - 0.055, 12.92 * light)
        yield f'TIFF Lab {bits} bits', data, np.dstack([curve] * 3), 3e-3


def _subsampled() -> bytes:
    """Four Y of 2 x 2 pixels, Cb and Cr in turn (TIFF 6.0, section 21)."""
    light = steps(GRAY, 8)
    corners = [light[top::2, left::2] for top in (0, 1) for left in (0, 1)]
    blocks = np.dstack([*corners, *[np.full_like(corners[0], 128)] * 2])
    return by_hand({258: 8, 262: 6, 277: 3, 530: 2 << 16 | 2}, blocks.tobytes())


def packed(values: np.ndarray, bits: int, photometric: int) -> bytes:
    """(H, W) integers of any number of bits, each row from a whole byte on."""
    wide = np.unpackbits(values.astype('>u4')[..., None].view(np.uint8), axis=-1)
    rows = np.packbits(wide[..., 32 - bits :].reshape(len(values), -1), axis=1)
    if bits == 16:  # in the order of the file; 24 bits are big-endian in any file
        rows = rows.reshape(len(values), -1, 2)[..., ::-1]
    return by_hand({258: bits, 262: photometric, 277: 1}, rows.tobytes())


def by_hand(tags: dict[int, int], content: bytes) -> bytes:
    """A little-endian TIFF of one strip without compression."""
    tags = {256: WIDTH, 257: HEIGHT, 259: 1, 273: 0, 278: HEIGHT, 279: len(content), **tags}
    place = 8 + 2 + 12 * len(tags) + 4
    tags[273] = place + 6  # of the strip, behind the bits of three samples
    counts = {530: 2}
    if tags[277] == 3:
        bits, counts[258], tags[258] = tags[258], 3, place
    else:
        bits = 0
    table = b''.join(
        struct.pack('<HHII', tag, 4 if tag in (273, 279) else 3, counts.get(tag, 1), value)
        for tag, value in sorted(tags.items())
    )
    head = b'II*\0' + struct.pack('<IH', 8, len(tags)) + table + bytes(4)
    return head + struct.pack('<3H', bits, bits, bits) + content
