"""docs/files.md: each row of its tables of what is read and what is not."""

import io
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from chromagan_jax.data.decode import UnreadableImage, count_pages, decode, formats, pillow, read
from tests.data.corpus import ALPHA, GRAY, HEIGHT, RGB, WIDTH, corpus, dng, steps, tiff, written
from tests.data.profiles import gray_profile

TEXT = (Path(__file__).parents[2] / 'docs/files.md').read_text()
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()


def rows(heading):
    """The cells of the table below a heading, without its head."""
    section = TEXT.split(f'## {heading}\n')[1].split('\n## ')[0]
    lines = [line for line in section.splitlines() if line.startswith('|')]
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in lines[2:]]


def values(data, **options):
    """Pixels in [0, 1]."""
    pixels = read(data, deep=True, **options).pixels
    return pixels / np.iinfo(pixels.dtype).max


def near(found, expected, tolerance=2e-3):
    if found.ndim > np.ndim(expected):
        found = found[..., 0]
    assert np.abs(found - expected).mean() <= tolerance


def from_light(light):
    """sRGB of light (IEC 61966-2-1)."""
    return np.where(light > 0.0031308, 1.055 * light ** (1 / 2.4) - 0.055, 12.92 * light)


def all_named(pattern):
    """Files of the corpus, each with the right values."""
    names = [name for name in corpus() if re.search(pattern, name)]
    assert names
    for name in names:
        near(values(corpus()[name].data), corpus()[name].expected, corpus()[name].tolerance)


def test_the_kinds_are_those_of_the_decoder():
    kinds = {row[0]: row for row in rows('Kinds')}
    assert list(kinds) == [kind.name for kind in formats.FORMATS]
    for kind in formats.FORMATS:
        _, suffixes, _, needs = kinds[kind.name]
        assert suffixes.split() == list(kind.suffixes)
        assert needs == (f'`chromagan_jax[{kind.extra}]`' if kind.extra else '')


def gray_icc():
    for gamma in (1.0, 1.75, 2.25):  # in steps of 1 / 256
        profile = gray_profile(gamma)
        right = from_light(GRAY**gamma)
        deep = tiff(steps(GRAY, 16), iccprofile=profile)
        near(values(deep), right, 1e-4)
        png = written(Image.fromarray(steps(GRAY, 16)).save, 'PNG', icc_profile=profile)
        near(values(png), right, 1e-4)
        both = np.dstack([GRAY, ALPHA])
        for bits in (8, 16):
            options = {'photometric': 'minisblack', 'extrasamples': ['unassalpha']}
            data = tiff(steps(both, bits), iccprofile=profile, **options)
            near(values(data), np.dstack([right] * 3 + [ALPHA]), 4e-3 if bits == 8 else 1e-4)
        eight = written(Image.fromarray(steps(GRAY, 8)).save, 'PNG', icc_profile=profile)
        near(values(eight), right, 4e-3)


def rgb_icc():
    """A profile whose three channels are swapped shows that it is applied, in 8 and 16 bits."""
    swapped = SRGB.replace(b'rXYZ', b'????').replace(b'bXYZ', b'rXYZ').replace(b'????', b'bXYZ')
    for bits in (8, 16):
        data = tiff(steps(RGB, bits), iccprofile=swapped)
        near(values(data), RGB[..., ::-1], 4e-3)


def bad_icc():
    for profile in (b'nonsense', SRGB[:200], gray_profile(1.0)):
        near(values(tiff(steps(RGB, 16), iccprofile=profile)), RGB, 1e-5)
    near(values(tiff(steps(GRAY, 16), iccprofile=SRGB)), GRAY, 1e-5)


def gamma_chunk():
    png = corpus()['PNG gray 16 bits'].data
    chunk = struct.pack('>I4sI', 4, b'gAMA', 100_000)
    import zlib

    chunk += struct.pack('>I', zlib.crc32(chunk[4:]))
    near(values(png[:33] + chunk + png[33:]), from_light(GRAY), 1e-4)


def signed():
    for bits, kind in ((8, np.int8), (16, np.int16)):
        half = 2 ** (bits - 1)
        near(values(tiff(np.rint(GRAY * (half - 1)).astype(kind))), GRAY, 0.01)
        stored = steps(GRAY, bits)
        offset = stored.view(kind) if bits == 8 else (stored.astype(int) - half).astype(kind)
        near(values(tiff(offset)), GRAY)


def orientation():
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(steps(GRAY, 8))))
    for kind in ('JPEG', 'PNG', 'TIFF', 'WEBP', 'AVIF'):
        near(values(written(stored.save, kind, exif=exif.tobytes())), GRAY, 0.02)


def transparency():
    for name in ('PNG gray and alpha', 'PNG RGBA 16 bits', 'TIFF RGB and alpha 16 bits lzw'):
        made = corpus()[name]
        colour, alpha = made.expected[..., :3], made.expected[..., 3:]
        near(values(made.data), made.expected)
        near(decode(made.data) / 255, colour * alpha + 1 - alpha, 4e-3)


def pages():
    data = corpus()['TIFF pages, the first a thumbnail'].data
    assert count_pages(data) == read(data).frames == 2
    near(values(data, page=0), RGB)
    near(values(data, page=1), RGB[::-1])


def animation():
    frames = [Image.fromarray(np.full((9, 9, 3), v, np.uint8)) for v in (40, 200)]
    for kind in ('GIF', 'WEBP', 'PNG', 'AVIF'):
        data = written(frames[0].save, kind, save_all=True, append_images=frames[1:])
        photo = read(data)
        assert photo.frames == 2
        assert np.abs(photo.pixels.astype(int) - 40).max() <= 2


def large_metadata():
    from PIL import PngImagePlugin

    text = PngImagePlugin.PngInfo()
    text.add_text('Comment', 'metadata ' * 250_000, zip=True)
    text.add_itxt('Comment', 'metadata ' * 250_000, zip=True)
    profile = struct.pack('>I', 1_600_000) + SRGB[4:] + bytes(1_600_000 - len(SRGB))
    image = Image.fromarray(steps(RGB, 8))
    near(values(written(image.save, 'PNG', pnginfo=text, icc_profile=profile)), RGB, 4e-3)


def documented(heading):
    """The first cells of a table."""
    return [row[0] for row in rows(heading)]


READ = {
    'gray ICC profile': gray_icc,
    'ICC profile of RGB or CMYK': rgb_icc,
    'profile that is damaged or of another colour space': bad_icc,
    'gAMA chunk in a PNG without profile and sRGB chunk': gamma_chunk,
    'EXIF orientation': orientation,
    'transparency': transparency,
    'associated alpha in a TIFF': lambda: all_named('times alpha'),
    'infrared and other extra samples in a TIFF': lambda: all_named('infrared'),
    'TIFF with white at zero': lambda: all_named('white is zero'),
    'TIFF of 1 to 16 bits, 12 among them': lambda: all_named(
        'TIFF (gray|white is zero) 1?[0-9] bits'
    ),
    'TIFF of 32-bit integers or floats': lambda: all_named('uint32| [if][248]'),
    'TIFF of signed integers': signed,
    'TIFF in planes, strips or tiles, BigTIFF, both byte orders': lambda: all_named(
        'planes|strips|tiles|Big|big'
    ),
    'TIFF compressed by LZW, deflate, PackBits, ZSTD, LZMA, JPEG, JPEG 2000, JPEG XL, CCITT': (
        lambda: all_named('TIFF .*(lzw|zlib|packbits|zstd|lzma|jpeg|group|ccitt)')
    ),
    'TIFF of palette, CMYK, CIELab or YCbCr colours': lambda: all_named('palette|CMYK|Lab|YCbCr'),
    'TIFF of several pages': pages,
    'TIFF with a thumbnail': pages,
    'animation': animation,
    'metadata of megabytes': large_metadata,
}


def test_every_row_of_what_is_read_has_a_test():
    assert documented('What is in a file, and what is read') == list(READ)


@pytest.mark.filterwarnings('ignore::UserWarning')
@pytest.mark.parametrize('row', READ)
def test_what_is_in_a_file_is_read_as_the_row_says(row):
    assert row in documented('What is in a file, and what is read')
    READ[row]()


def refused(data, words, **options):
    with pytest.raises(UnreadableImage, match=words):
        read(data, **options)


def without_extra(kinds):
    """Files of kinds whose packages seem to be missing."""
    pillow._plugin.cache_clear()
    for name, data in kinds.items():
        extra = formats.BY_NAME[name].extra
        refused(data, f"{name} is not read without an extra: pip install 'chromagan_jax.{extra}.'")
    pillow._plugin.cache_clear()


def early_end():
    for kind in ('JPEG', 'PNG', 'WEBP', 'BMP', 'TIFF', 'AVIF', 'JPEG2000'):
        data = written(Image.fromarray(steps(RGB, 8)).save, kind)
        refused(data[: len(data) * 2 // 3], r'it is damaged \(|its data end early')


def too_large():
    png = written(Image.new('1', (20_100, 10_000)).save, 'PNG')
    words = '20100 x 10000 px are more than 200 megapixels'
    refused(png, words)
    with pytest.raises(UnreadableImage, match=words):
        decode(png)
    lying = bytearray(corpus()['TIFF gray 8 bits'].data)
    with tifffile.TiffFile(io.BytesIO(bytes(lying))) as file:
        tags = file.pages[0].tags
        for name in ('ImageWidth', 'ImageLength', 'RowsPerStrip'):
            lying[tags[name].valueoffset : tags[name].valueoffset + 2] = b'\x20\x4e'
    refused(bytes(lying), '20000 x 20000 px are more than 200 megapixels')


NOT_READ = {
    'camera raw without the extra, in a TIFF by name, too': lambda: without_extra(
        {'camera raw': dng()}
    ),
    'HEIF or JPEG XL without the extra': lambda: without_extra(
        {'HEIF': b'\0\0\0\x18ftypheic' + bytes(40), 'JPEG XL': b'\xff\x0a' + bytes(40)}
    ),
    'more than 200 megapixels': too_large,
    'data that end early or are damaged': early_end,
    'TIFF of colours or compressions that neither tifffile nor libtiff knows': lambda: refused(
        tiff(steps(GRAY, 16), photometric=32844), 'photometric 32844 and compression 1 is not read'
    ),
    'anything else: PDF, PSD, SVG, text': lambda: [
        refused(head + bytes(99), 'not a JPEG, PNG, .* or JPEG XL image')
        for head in (b'%PDF-1.4', b'8BPS\0\1', b'<svg xmlns=', b'text')
    ],
}


def test_every_row_of_what_is_not_read_has_a_test():
    assert documented('What is not read') == list(NOT_READ)


@pytest.mark.parametrize('row', NOT_READ)
def test_what_is_not_read_is_told_as_the_row_says(row, monkeypatch):
    if 'extra' in row:  # the decoder's process would not see the patches
        monkeypatch.setattr(
            'chromagan_jax.data.decode.process.call', lambda f, size, *a, **o: f(*a, **o)
        )
        for module in ('pillow', 'raw'):
            path = f'chromagan_jax.data.decode.{module}.is_available'
            monkeypatch.setattr(path, lambda kind: not kind.module)
    assert row in documented('What is not read')
    NOT_READ[row]()


def test_the_bits_that_are_kept_are_those_of_the_table():
    kept = {row[0]: row[2] for row in rows('Kinds')}
    deep = {
        'PNG': ('PNG gray 16 bits', 'PNG RGB 16 bits by OpenCV'),
        'PNM': ('PGM 16 bits',),
        'JPEG 2000': ('JPEG 2000 gray 16 bits',),
        'TIFF': ('TIFF gray 16 bits lzw', 'TIFF RGB 16 bits lzw'),
    }
    for kind, names in deep.items():
        assert kept[kind].startswith('16')
        assert (', in colour 8' in kept[kind]) == (len(names) == 1)
        for name in names:
            assert read(corpus()[name].data, deep=True).pixels.dtype == np.uint16
    assert {kind for kind, bits in kept.items() if bits.startswith('16')} == {*deep, 'camera raw'}
    assert GRAY.shape == (HEIGHT, WIDTH)
