"""Every kind of file ends as the sRGB picture that a viewer would show, or as one exception."""

import io
import random
import struct
import tracemalloc

import numpy as np
import pytest
import skimage.color
import skimage.data
import skimage.transform
import tifffile
from PIL import Image, ImageCms, ImageOps, JpegImagePlugin

from chromagan_jax.data.decode import (
    MAX_PIXELS,
    UnreadableImage,
    count_pages,
    crop_square,
    decode,
    formats,
    read,
    resize,
    resize_short,
    tiff,
)
from tests.data.corpus import corpus

PHOTO = skimage.data.astronaut()[:120, 100:260]


def encoded(image, kind, **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation):
    data = Image.Exif()
    data[0x0112] = orientation
    return data


def test_lossless_formats_give_back_the_pixels():
    for kind, options in [('PNG', {}), ('BMP', {}), ('TIFF', {}), ('WEBP', {'lossless': True})]:
        pixels = decode(encoded(PHOTO, kind, **options))
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, PHOTO)


# EXIF 2.3, tag Orientation: what the stored rows and columns are of the upright picture.
STORED_FROM_UPRIGHT = {
    1: lambda u: u,
    2: lambda u: u[:, ::-1],
    3: lambda u: u[::-1, ::-1],
    4: lambda u: u[::-1],
    5: lambda u: u.transpose(1, 0, 2),
    6: lambda u: u.transpose(1, 0, 2)[::-1],
    7: lambda u: u.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda u: u.transpose(1, 0, 2)[:, ::-1],
}


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('kind', ['PNG', 'TIFF', 'JPEG'])
def test_exif_orientation_is_applied(kind, orientation):
    stored = np.ascontiguousarray(STORED_FROM_UPRIGHT[orientation](PHOTO))
    options = {'quality': 95, 'subsampling': 0} if kind == 'JPEG' else {}
    pixels = decode(encoded(stored, kind, exif=exif(orientation), **options))
    assert pixels.shape == PHOTO.shape
    error = np.abs(pixels.astype(int) - PHOTO)
    assert error.max() == 0 if kind != 'JPEG' else error.mean() < 3


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_damaged_exif_does_not_cost_the_photograph():
    data = bytearray(encoded(PHOTO, 'JPEG', exif=exif(6)))
    start = data.find(b'Exif\0\0') + 6
    data[start : start + 2] = b'??'
    assert decode(bytes(data)).shape == PHOTO.shape


def test_transparency_is_composited_over_white():
    alpha = np.linspace(0, 255, PHOTO.size // 3).astype(np.uint8).reshape(PHOTO.shape[:2])
    share = alpha[..., None] / 255
    expected = PHOTO * share + 255 * (1 - share)
    rgba = np.dstack([PHOTO, alpha])
    assert np.abs(decode(encoded(rgba, 'PNG')) - expected).max() <= 1
    gray = PHOTO[..., 0]
    la = Image.merge('LA', [Image.fromarray(gray), Image.fromarray(alpha)])
    expected = gray[..., None] * share + 255 * (1 - share)
    assert np.abs(decode(encoded(la, 'PNG')) - expected).max() <= 1


def test_transparent_palette_and_key_colours_become_white():
    palette = Image.fromarray(PHOTO).quantize(16)
    expected = np.asarray(palette.convert('RGB')).copy()
    np.testing.assert_array_equal(decode(encoded(palette, 'PNG')), expected)
    expected[np.asarray(palette) == 3] = 255
    for kind in ('PNG', 'GIF'):
        pixels = decode(encoded(palette, kind, transparency=3))
        np.testing.assert_array_equal(pixels, expected)
    key = tuple(int(v) for v in PHOTO[5, 5])
    pixels = decode(encoded(PHOTO, 'PNG', transparency=key))
    np.testing.assert_array_equal(pixels[5, 5], 255)


def test_gray_and_bilevel_images_are_neutral():
    gray = PHOTO[..., 1]
    np.testing.assert_array_equal(decode(encoded(gray, 'PNG')), np.dstack([gray] * 3))
    bits = Image.fromarray(gray).convert('1')
    expected = np.dstack([np.asarray(bits).astype(np.uint8) * 255] * 3)
    np.testing.assert_array_equal(decode(encoded(bits, 'PNG')), expected)
    np.testing.assert_array_equal(decode(encoded(bits, 'TIFF', compression='group4')), expected)


RAMP = np.linspace(0, 1, 4096).reshape(64, 64)


@pytest.mark.parametrize(
    ('kind', 'values'),
    [
        ('PNG', np.rint(RAMP * 65535).astype(np.uint16)),
        ('TIFF', np.rint(RAMP * 65535).astype(np.uint16)),
        ('TIFF', np.rint(RAMP * 65535).astype('>u2')),
        ('TIFF', np.rint(RAMP * 65535).astype(np.int32)),
        ('TIFF', np.rint(RAMP * 255).astype(np.int32)),
        ('TIFF', RAMP.astype(np.float32)),
        ('TIFF', (RAMP * 255).astype(np.float32)),
    ],
)
def test_deep_pixels_are_scaled_not_clipped(kind, values):
    pixels = decode(encoded(values, kind))
    assert pixels.shape == (64, 64, 3)
    assert np.abs(pixels[..., 1] - RAMP * 255).max() <= 0.51
    assert (pixels[..., 0] == pixels[..., 2]).all()


def test_dark_16_bit_images_stay_dark():
    values = np.rint(RAMP * 1000).astype(np.uint16)
    assert decode(encoded(values, 'PNG')).max() == round(1000 / 257)


def test_not_a_number_in_a_float_image_is_black():
    values = RAMP.astype(np.float32)
    values[3, 4] = np.nan
    pixels = decode(encoded(values, 'TIFF'))
    assert pixels[3, 4].max() == 0
    assert pixels[-1, -1].min() == 255


def test_a_bmp_of_4_bits_with_run_lengths_is_read():
    levels = np.arange(16, dtype=np.uint8).repeat(8)  # two runs of four pixels each
    rows = b''.join(bytes([4, level * 17]) for level in levels[::4]) + b'\0\0'
    content = rows * 20 + b'\0\1'
    palette = b''.join(bytes([level * 17] * 3 + [0]) for level in range(16))
    header = struct.pack('<IiiHHIIiiII', 40, 128, 20, 1, 4, 2, len(content), 0, 0, 16, 16)
    start = 14 + len(header) + len(palette)
    head = struct.pack('<2sIHHI', b'BM', start + len(content), 0, 0, start)
    pixels = decode(head + header + palette + content)
    np.testing.assert_array_equal(pixels, np.tile(levels[None, :, None] * 17, (20, 1, 3)))


def test_cmyk_and_lab_are_converted():
    ink = np.zeros((40, 40, 4), np.uint8)
    ink[..., 0] = 255  # cyan alone
    pixels = decode(encoded(Image.fromarray(ink, 'CMYK'), 'TIFF'))
    np.testing.assert_array_equal(pixels[20, 20], [0, 255, 255])
    lab = np.zeros((40, 40, 3), np.uint8)
    lab[...] = [150, 30, 226]  # L* 58.8, a* 30, b* -30 as signed bytes
    pixels = decode(encoded(Image.fromarray(lab, 'LAB'), 'TIFF'))
    expected = skimage.color.lab2rgb([[[150 / 2.55, 30, -30]]])[0, 0] * 255
    assert np.abs(pixels[20, 20] - expected).max() < 6  # its white is D50, scikit-image's D65


def wide_gamut_profile():
    """An ICC profile with the primaries of Rec. 2020, adapted to D50, and a gamma of 2.2."""

    def s15(values):
        return struct.pack(f'>{len(values)}i', *(round(v * 65536) for v in values))

    xyz = {
        b'rXYZ': (0.67348, 0.27904, -0.00194),
        b'gXYZ': (0.16566, 0.67534, 0.02998),
        b'bXYZ': (0.12510, 0.04561, 0.79686),
        b'wtpt': (0.96420, 1.0, 0.82491),
    }
    curve = struct.pack('>4sII', b'curv', 0, 1) + struct.pack('>H', round(2.2 * 256)) + b'\0\0'
    description = struct.pack('>4sII', b'desc', 0, 5) + b'wide\0' + b'\0' * 79
    tags = {name: b'XYZ \0\0\0\0' + s15(values) for name, values in xyz.items()}
    tags |= dict.fromkeys((b'rTRC', b'gTRC', b'bTRC'), curve)
    tags |= {b'desc': description, b'cprt': struct.pack('>4sI', b'text', 0) + b'none\0\0\0\0'}
    offset = 128 + 4 + 12 * len(tags)
    table, body = struct.pack('>I', len(tags)), b''
    for name, data in tags.items():
        data += b'\0' * (-len(data) % 4)
        table += struct.pack('>4sII', name, offset + len(body), len(data))
        body += data
    header = bytearray(128)
    header[0:4] = struct.pack('>I', offset + len(body))
    header[8:12] = b'\x02\x10\0\0'
    header[12:24] = b'mntrRGB XYZ '
    header[36:40] = b'acsp'
    header[68:80] = s15((0.96420, 1.0, 0.82491))
    return bytes(header) + table + body


def test_wide_gamut_profile_is_converted_to_srgb():
    stored = np.zeros((16, 16, 3), np.uint8)
    stored[...] = [120, 140, 100]
    pixels = decode(encoded(stored, 'PNG', icc_profile=wide_gamut_profile()))
    # Rec. 2020 to linear sRGB (ITU-R BT.2087-0, the inverse of its M2) and the sRGB curve.
    matrix = np.linalg.inv(
        [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]
    )
    linear = matrix @ (np.array([120, 140, 100]) / 255) ** 2.2
    expected = 255 * (1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(pixels[8, 8] - expected).max() <= 1.5
    assert np.abs(pixels[8, 8].astype(int) - stored[8, 8]).max() > 5


def test_srgb_profile_and_damaged_profile_leave_the_pixels_alone():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    for profile in (srgb, b'nonsense', srgb[:200]):
        np.testing.assert_array_equal(decode(encoded(PHOTO, 'PNG', icc_profile=profile)), PHOTO)


def test_profile_applies_below_transparency():
    rgba = np.dstack([PHOTO, np.full(PHOTO.shape[:2], 255, np.uint8)])
    profile = wide_gamut_profile()
    opaque = decode(encoded(PHOTO, 'PNG', icc_profile=profile))
    np.testing.assert_array_equal(decode(encoded(rgba, 'PNG', icc_profile=profile)), opaque)


def test_gray_image_with_a_colour_profile_stays_neutral():
    pixels = decode(encoded(PHOTO[..., 0], 'PNG', icc_profile=wide_gamut_profile()))
    assert (pixels == pixels[..., :1]).all()


def test_first_frame_of_an_animation():
    frames = [Image.fromarray(np.full((20, 20, 3), v, np.uint8)) for v in (40, 200)]
    for kind, options in [('GIF', {}), ('WEBP', {'lossless': True}), ('PNG', {}), ('TIFF', {})]:
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert (decode(data) == 40).all(), kind
    data = encoded(frames[0], 'MPO', save_all=True, append_images=frames[1:])
    assert np.abs(decode(data).astype(int) - 40).max() <= 2


@pytest.mark.parametrize('orientation', [1, 6])
@pytest.mark.parametrize(('shape', 'smaller'), [((400, 1000), 4), ((900, 300), 2)])
def test_large_jpeg_is_decoded_small_but_never_below_the_side_asked_for(
    shape, smaller, orientation
):
    photo = skimage.transform.resize(skimage.data.coffee(), shape, anti_aliasing=True)
    full = (photo * 255).astype(np.uint8)
    data = encoded(full, 'JPEG', quality=95, exif=exif(orientation))
    pixels = decode(data, min_side=99)
    assert min(pixels.shape[:2]) == min(shape) // smaller >= 99
    upright = decode(data)
    reference = skimage.transform.resize(upright, pixels.shape[:2], anti_aliasing=True) * 255
    assert np.abs(pixels - reference).mean() < 4
    assert decode(data, min_side=min(shape)).shape == upright.shape


@pytest.mark.parametrize('min_side', [0, 40, 60])
@pytest.mark.parametrize('subsampling', ['4:4:4', '4:2:2', '4:2:0'])
@pytest.mark.parametrize('progressive', [False, True])
def test_a_jpeg_has_the_very_pixels_that_pillow_finds(progressive, subsampling, min_side):
    for side in (120, 119, 113):  # of which some are no multiple of a block
        photo = PHOTO[:side, :side]
        data = encoded(photo, 'JPEG', progressive=progressive, subsampling=subsampling)
        image = Image.open(io.BytesIO(data))
        image.draft(None, (min_side or side,) * 2)
        np.testing.assert_array_equal(decode(data, min_side), np.asarray(image))


def test_an_upright_jpeg_in_srgb_is_decoded_without_pillow(monkeypatch):
    plain, turned = encoded(PHOTO, 'JPEG'), encoded(PHOTO, 'JPEG', exif=exif(6))
    expected = decode(plain)

    def refuse(self):
        raise OSError('Pillow was asked')

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, 'load', refuse)
    np.testing.assert_array_equal(decode(plain), expected)
    for data in (turned, plain[:-2000]):
        with pytest.raises(UnreadableImage, match='Pillow was asked'):
            decode(data)


def test_whatever_cannot_be_decoded_raises_one_exception_with_a_short_reason():
    jpeg, png = encoded(PHOTO, 'JPEG'), encoded(PHOTO, 'PNG')
    bomb = png[:16] + struct.pack('>II', 60000, 60000) + png[24:]
    for data in (
        b'',
        b'version https://git-lfs.github.com/spec/v1',
        random.Random(0).randbytes(5000),
        b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n',
        jpeg[:-2000],
        jpeg[:100],
        png[:-500],
        png[:1000] + b'\xff' * 50 + png[1050:],
        png[: png.find(b'IDAT') - 4] + struct.pack('>I', 100) + png[png.find(b'IDAT') :],
        encoded(PHOTO, 'WEBP')[:-300],
        encoded(PHOTO, 'BMP')[:-300],
        encoded(PHOTO, 'TIFF')[:9000],
        bomb,
    ):
        with pytest.raises(UnreadableImage) as raised:
            decode(data)
        assert str(raised.value)
        assert data or str(raised.value) == 'the file is empty'
        assert '\n' not in str(raised.value)


def by_pillow(data):
    """Pillow's image of a file, upright unless its EXIF data are damaged; None if it is."""
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except Exception:  # it raises many
        return None
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


@pytest.mark.filterwarnings('ignore::UserWarning')  # Pillow's, about the damage it passes over
def test_damage_of_any_kind_ends_as_pillow_finds_and_raises_nothing_else():
    rng = random.Random(0)
    small = PHOTO[:24, :32]
    whole = [encoded(small, kind) for kind in ('JPEG', 'WEBP', 'GIF', 'BMP')]
    whole += [encoded(small, kind, exif=exif(6)) for kind in ('JPEG', 'WEBP')]
    outcomes = {'decoded': 0, 'compared': 0, 'unreadable': 0}
    for _ in range(3000):
        data = bytearray(rng.choice(whole))
        if rng.random() < 0.2:
            data = data[: rng.randrange(len(data))]
        for _ in range(rng.choice([1, 2, 8])):
            reach = len(data) if rng.random() < 0.5 else min(len(data), 300)
            if reach:
                data[rng.randrange(reach)] = rng.choice([0, 255, rng.randrange(256)])
        expected = by_pillow(bytes(data))
        try:
            pixels = decode(bytes(data))
            assert expected is not None
            assert expected.size == pixels.shape[1::-1]
            if expected.mode == 'RGB' and not expected.has_transparency_data:
                np.testing.assert_array_equal(pixels, expected)
                outcomes['compared'] += 1
            assert pixels.dtype == np.uint8
            assert pixels.ndim == 3
            assert pixels.shape[2] == 3
            outcomes['decoded'] += 1
        except UnreadableImage:
            outcomes['unreadable'] += 1
    assert min(outcomes.values()) > 200


def test_resize_shrinks_by_area_and_enlarges_smoothly():
    exact = PHOTO[:120, :160].reshape(30, 4, 40, 4, 3).mean((1, 3))
    assert np.abs(resize_short(PHOTO, 30) - exact).max() <= 0.51
    large = resize_short(PHOTO[:60, :80], 120)
    assert large.shape == (120, 160, 3)
    reference = skimage.transform.resize(PHOTO[:60, :80], (120, 160), order=3) * 255
    assert np.abs(large - reference).mean() < 2
    assert resize(PHOTO, *PHOTO.shape[:2]) is PHOTO
    assert resize_short(PHOTO[:, :7], 7).shape == (120, 7, 3)


def test_crop_reaches_every_position_and_no_further():
    image = np.arange(5 * 9 * 3, dtype=np.uint8).reshape(5, 9, 3)
    grid = np.linspace(0, 1, 100, endpoint=False)
    corners = {tuple(crop_square(image, 4, y, x)[0, 0]) for y in grid for x in grid}
    assert corners == {tuple(image[y, x]) for y in range(2) for x in range(6)}
    np.testing.assert_array_equal(crop_square(image, 5), image[:, 2:7])


@pytest.mark.parametrize('compression', [None, 'lzw', 'zstd'])
def test_one_page_of_a_large_tiff_needs_the_memory_of_a_page(tmp_path, compression):
    path = tmp_path / 'a.tif'
    noise = np.random.default_rng(0).integers(0, 256, (16, 1000, 1000), np.uint8)
    with tifffile.TiffWriter(path) as writer:
        for page in noise:
            writer.write(page, compression=compression)
    assert path.stat().st_size > noise.nbytes * 0.9
    tracemalloc.start()
    frame = tiff.read(path, 9, MAX_PIXELS)  # as it runs in the process of a decoder
    assert count_pages(path) == 16
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(frame.samples, noise[9])
    np.testing.assert_array_equal(read(path, page=9).pixels, noise[9])
    assert peak < 5 * noise[0].nbytes


def test_a_tiff_by_its_path_is_the_one_of_its_bytes(tmp_path):
    path = tmp_path / 'a.tif'
    for name, file in corpus().items():
        if formats.identify(file.data).name == 'TIFF':
            path.write_bytes(file.data)
            assert count_pages(path) == count_pages(file.data)
            by_path, by_bytes = (read(source, deep=True) for source in (path, file.data))
            np.testing.assert_array_equal(by_path.pixels, by_bytes.pixels, err_msg=name)
            assert by_path.frames == by_bytes.frames
