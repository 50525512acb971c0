"""Pictures against scikit-image, SciPy and closed forms; hashes, bands and splits by property."""

import io
import random

import cv2
import numpy as np
import pytest
import scipy.fft
import scipy.linalg
import scipy.special
import skimage.color
import skimage.data
import skimage.transform
from PIL import Image, ImageEnhance, ImageOps

from chromagan_jax.prepare.pictures import (
    DISTANCE,
    Dropped,
    Kept,
    Options,
    bands,
    colour_statistics,
    content_digest,
    hamming,
    mirrored,
    near,
    perceptual_hash,
    process,
    rank,
    split_of,
    thumbnail,
)

PHOTOS = {
    'astronaut': skimage.data.astronaut(),
    'chelsea': skimage.data.chelsea(),
    'coffee': skimage.data.coffee(),
    'rocket': skimage.data.rocket(),
}
each_photo = pytest.mark.parametrize('photo', PHOTOS.values(), ids=PHOTOS)


def jpeg(image, quality=90, **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, 'JPEG', quality=quality, **options)
    return buffer.getvalue()


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, 'PNG', compress_level=1)
    return buffer.getvalue()


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)))


@each_photo
def test_a_photograph_is_kept_as_a_jpeg_of_the_area_filtered_pixels(photo):
    height, width = photo.shape[:2]
    kept = process(png(photo), Options(size=100, quality=95))
    assert isinstance(kept, Kept)
    assert (kept.width, kept.height) == (width, height)
    image = Image.open(io.BytesIO(kept.image))
    assert (image.format, image.mode) == ('JPEG', 'RGB')
    assert image.size == (kept.kept_width, kept.kept_height)
    assert min(image.size) == 100
    assert max(image.size) == round(max(width, height) * 100 / min(width, height))
    area = Image.fromarray(photo).resize(image.size, Image.Resampling.BOX)
    error = np.asarray(image).astype(float) - np.asarray(area)
    assert 10 * np.log10(255**2 / (error**2).mean()) > 33


def test_the_colours_of_the_kept_jpeg_have_its_full_resolution_and_its_quality():
    kept = [process(png(PHOTOS['coffee']), Options(quality=quality)) for quality in (30, 95)]
    assert all(
        [layer[1:3] for layer in Image.open(io.BytesIO(one.image)).layer] == [(1, 1)] * 3
        for one in kept
    )
    assert len(kept[0].image) * 3 < len(kept[1].image)


@pytest.mark.parametrize('size', [0, 256])
def test_a_picture_is_never_enlarged_and_may_keep_its_size(size):
    photo = PHOTOS['rocket'][:120, :150] if size else PHOTOS['rocket']
    kept = process(png(photo), Options(size=size))
    assert (kept.kept_height, kept.kept_width) == photo.shape[:2]


def test_a_large_jpeg_that_is_decoded_at_a_part_of_its_size_is_measured_as_the_whole():
    large = cv2.resize(PHOTOS['chelsea'], (902, 602), interpolation=cv2.INTER_CUBIC)
    by_jpeg = process(jpeg(large, 98, subsampling=0), Options(size=64))
    by_png = process(png(large), Options(size=64))
    assert (by_jpeg.width, by_jpeg.height) == (902, 602)
    assert (by_jpeg.kept_width, by_jpeg.kept_height) == (by_png.kept_width, by_png.kept_height)
    error = pixels(by_jpeg.image).astype(float) - pixels(by_png.image)
    assert 10 * np.log10(255**2 / (error**2).mean()) > 36
    assert by_jpeg.chroma == pytest.approx(by_png.chroma, rel=0.02)
    assert near(by_jpeg.phash, by_png.phash, 2)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_the_size_is_that_of_the_upright_picture(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    kept = process(jpeg(PHOTOS['rocket'], exif=exif), Options(size=64))
    upright = (640, 427) if orientation < 5 else (427, 640)
    assert (kept.width, kept.height) == upright
    assert (kept.kept_width > kept.kept_height) == (orientation < 5)


def test_the_same_bytes_give_the_same_result_and_their_own_digest():
    data = jpeg(PHOTOS['coffee'])
    assert process(data, Options()) == process(data, Options())
    assert process(data, Options()).digest == content_digest(data)
    assert content_digest(data) != content_digest(data + b'\0')
    assert len(content_digest(b'')) == 32


def test_what_cannot_be_decoded_says_why():
    whole = jpeg(PHOTOS['coffee'])
    for data in (b'', b'no image', whole[: len(whole) // 2]):
        dropped = process(data, Options())
        assert isinstance(dropped, Dropped)
        assert (dropped.reason, dropped.thumbnail) == ('undecodable', None)
        assert dropped.detail
        assert dropped.digest == content_digest(data)


@pytest.mark.parametrize(
    ('height', 'width', 'reason'),
    [
        (63, 80, 'too_small'),
        (80, 63, 'too_small'),
        (64, 80, None),
        (100, 300, None),
        (100, 301, 'too_elongated'),
        (301, 100, 'too_elongated'),
    ],
)
def test_small_and_elongated_pictures_are_dropped_beyond_the_limits(height, width, reason):
    photo = cv2.resize(PHOTOS['coffee'], (width, height))
    result = process(png(photo), Options(min_side=64, max_aspect=3.0, size=32))
    assert isinstance(result, Kept) if reason is None else result.reason == reason
    if reason:
        assert f'{width} x {height} px' in result.detail
        small = pixels(result.thumbnail)
        assert max(small.shape) == min(96, height if height > width else width)


def test_a_thumbnail_is_small_whatever_the_proportions():
    assert pixels(thumbnail(np.zeros((1, 900, 3), np.uint8))).shape == (1, 96, 3)
    assert pixels(thumbnail(np.zeros((30, 20, 3), np.uint8))).shape == (30, 20, 3)


# Colour


def spread_by_scipy(rgb):
    """The definition, with scikit-image's Lab, loops over blocks and the costs as observations."""
    lab = skimage.color.rgb2lab(rgb)
    powers = [scipy.special.eval_legendre(k, lab[..., 0] / 50 - 1) for k in range(6)]
    values = np.stack([*powers, lab[..., 1], lab[..., 2]], axis=-1)
    rows, columns = (np.split(np.arange(n), n // 8) for n in rgb.shape[:2])
    blocks = np.array([values[np.ix_(y, x)].mean((0, 1)) for y in rows for x in columns])
    curve, observed = blocks[:, :6], blocks[:, 6:]
    costs = np.sqrt(1e-4 * len(blocks)) * np.eye(6)[1:]
    solution = scipy.linalg.lstsq(
        np.concatenate([curve, costs]), np.concatenate([observed, np.zeros((5, 2))])
    )[0]
    return np.sqrt(((observed - curve @ solution) ** 2).sum() / len(blocks))


@each_photo
def test_chroma_and_spread_are_those_of_their_definitions(photo):
    picture = np.ascontiguousarray(photo[:128, 100:260])  # 16 x 20 blocks of 8 x 8 px
    lab = skimage.color.rgb2lab(picture)
    chroma, spread = colour_statistics(picture)
    assert chroma == pytest.approx(np.hypot(lab[..., 1], lab[..., 2]).mean(), abs=0.01)
    assert spread == pytest.approx(spread_by_scipy(picture), rel=1e-3)


def test_two_colours_of_one_lightness_spread_by_half_their_distance():
    lab = np.full((128, 128, 3), [60.0, 20.0, 0.0])
    lab[:, 64:, 1] = -20
    picture = (skimage.color.lab2rgb(lab) * 255).round().astype(np.uint8)
    chroma, spread = colour_statistics(picture)
    assert chroma == pytest.approx(20, abs=0.5)
    assert spread == pytest.approx(20, rel=0.1)  # rounding leaves them 0.3 apart in lightness


TINTS = {
    'gray': lambda gray: gray.convert('RGB'),
    'faded': lambda gray: ImageOps.colorize(gray, '#605848', '#f8f0e0'),
    'sepia': lambda gray: ImageOps.colorize(gray, '#000000', '#fff0d0', mid='#94795c'),
    'cyanotype': lambda gray: ImageOps.colorize(gray, '#0a1a40', '#eef4ff', mid='#3a6ea5'),
    'two inks': lambda gray: ImageOps.colorize(gray, '#3b1f5b', '#ffe9b0'),
    'red light': lambda gray: ImageOps.colorize(gray, '#000000', '#ff6e5a'),
}


@pytest.mark.parametrize('quality', [75, 95])
@pytest.mark.parametrize('tint', TINTS.values(), ids=TINTS)
@each_photo
def test_gray_and_tinted_pictures_are_dropped_even_with_subsampled_colours(photo, tint, quality):
    toned = tint(Image.fromarray(photo).convert('L'))
    dropped = process(jpeg(toned, quality, subsampling=2), Options())
    assert isinstance(dropped, Dropped)
    assert dropped.reason == 'gray'
    assert dropped.detail.startswith('mean chroma ')
    assert pixels(dropped.thumbnail).size


def with_balloon(photo, radius):
    gray = np.asarray(Image.fromarray(photo).convert('L').convert('RGB'))
    y, x = np.indices(gray.shape[:2])
    inside = (y - 150) ** 2 + (x - 200) ** 2 < radius**2
    red = (np.array([1.0, 0.15, 0.1]) * gray).astype(np.uint8)
    return np.where(inside[..., None], red, gray), inside.mean()


@each_photo
def test_a_small_coloured_part_keeps_a_gray_photograph_unless_it_is_tiny(photo):
    picture, share = with_balloon(photo, 45)
    assert 0.01 < share < 0.05
    assert isinstance(process(jpeg(picture), Options()), Kept)
    assert process(jpeg(with_balloon(photo, 4)[0]), Options()).reason == 'gray'


def test_each_limit_of_colour_drops_by_itself():
    data = png(PHOTOS['coffee'])
    kept = process(data, Options())
    for name, value in (('min_chroma', kept.chroma), ('min_spread', kept.spread)):
        assert process(data, Options()._replace(**{name: value + 0.01})).reason == 'gray'
        assert isinstance(process(data, Options()._replace(**{name: value - 0.01})), Kept)


# Hashes


@each_photo
def test_the_hash_is_the_signs_of_scipys_cosine_transform(photo):
    small = skimage.transform.downscale_local_mean(photo[:384, :384], (12, 12, 1))
    lightness = skimage.color.rgb2lab(small.round().astype(np.uint8))[..., 0]
    frequencies = scipy.fft.dctn(lightness, norm='ortho')[:8, :8].ravel()
    phash = perceptual_hash(np.ascontiguousarray(photo[:384, :384]))
    assert 0 <= phash < 2**63
    bits = np.array([phash >> 63 - i & 1 for i in range(64)])
    sure = np.abs(frequencies) > 0.5
    sure[0] = False
    assert sure.sum() > 40
    np.testing.assert_array_equal(bits[sure], frequencies[sure] > 0)


COPIES = {
    'half the size': lambda image: image.resize((image.width // 2, image.height // 2)),
    'twice the size': lambda image: image.resize((image.width * 2, image.height * 2)),
    'quality 30': lambda image: Image.open(io.BytesIO(jpeg(image, 30))),
    'brighter': lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    'darker': lambda image: ImageEnhance.Brightness(image).enhance(0.9),
    'more contrast': lambda image: ImageEnhance.Contrast(image).enhance(1.1),
    'less contrast': lambda image: ImageEnhance.Contrast(image).enhance(0.9),
    'cropped': lambda image: ImageOps.crop(image, image.width // 100),
    'mirrored': ImageOps.mirror,
}


@pytest.mark.parametrize('change', COPIES.values(), ids=COPIES)
@each_photo
def test_changed_copies_are_near(photo, change):
    original = perceptual_hash(photo)
    copy = process(jpeg(change(Image.fromarray(photo))), Options()).phash
    assert near(original, copy)
    assert set(bands(original)) & set(bands(copy))


def test_different_photographs_are_not_near():
    hashes = [perceptual_hash(photo) for photo in PHOTOS.values()]
    hashes.append(perceptual_hash(np.ascontiguousarray(PHOTOS['astronaut'][::-1])))
    apart = [
        min(hamming(a, b), hamming(a, mirrored(b)))
        for i, a in enumerate(hashes)
        for b in hashes[:i]
    ]
    assert min(apart) > 2 * DISTANCE


@each_photo
def test_the_hash_of_the_mirrored_picture_is_the_mirrored_hash(photo):
    phash = perceptual_hash(photo)
    assert hamming(perceptual_hash(np.ascontiguousarray(photo[:, ::-1])), mirrored(phash)) <= 2
    assert mirrored(mirrored(phash)) == phash
    assert hamming(phash, mirrored(phash)) == 32


def flip(phash, bits):
    for bit in bits:
        phash ^= 1 << bit
    return phash


def test_near_counts_bits_up_to_the_distance():
    assert hamming(0b1011, 0b0110) == 3
    phash = 0x1234_5678_9ABC_DEF0
    for of in (phash, mirrored(phash)):
        assert near(phash, flip(of, range(10, 16)), 6)
        assert not near(phash, flip(of, range(10, 17)), 6)


@pytest.mark.parametrize('distance', [0, 1, 3, 6, 10, 32])
def test_near_hashes_share_a_band_and_others_seldom_do(distance):
    draw = random.Random(distance)
    met = 0
    for _ in range(300):
        phash = draw.getrandbits(63)
        copy = flip(phash, draw.sample(range(63), distance))
        for other in (copy, mirrored(copy)):
            assert set(bands(phash, distance)) & set(bands(other, distance))
        met += bool(set(bands(phash, distance)) & set(bands(draw.getrandbits(63), distance)))
    assert len(bands(phash, distance)) == distance + 1
    if distance <= 3:
        assert met <= 3


def test_bands_together_hold_every_bit():
    phash = random.Random(0).getrandbits(63)
    own = {number for number, _ in bands(phash)}
    assert own == set(range(DISTANCE + 1))
    for bit in range(63):
        assert sum(a != b for a, b in zip(bands(0), bands(1 << bit), strict=True)) == 1


# Choice and split


def test_the_copy_with_most_pixels_is_kept_and_the_order_does_not_matter():
    small, large = (
        process(png(cv2.resize(PHOTOS['coffee'], size)), Options())
        for size in ((300, 200), (600, 400))
    )
    same = large._replace(digest='f' * 32), large._replace(digest='0' * 32)
    copies = [small, large, *same]
    for seed in range(5):
        random.Random(seed).shuffle(copies)
        assert sorted(copies, key=rank)[0].digest == '0' * 32
        assert sorted(copies, key=rank)[-1] == small


def test_the_share_of_the_test_set_is_the_fraction_within_its_deviation():
    digests = [content_digest(str(i).encode()) for i in range(20_000)]
    for fraction in (0.0, 0.05, 0.5, 1.0):
        for seed in (0, 1):
            number = sum(split_of(digest, fraction, seed) == 'test' for digest in digests)
            deviation = (20_000 * fraction * (1 - fraction)) ** 0.5
            assert abs(number - 20_000 * fraction) <= 4 * deviation


def test_seeds_draw_independent_splits_and_a_larger_fraction_only_adds():
    digests = [content_digest(str(i).encode()) for i in range(20_000)]
    tests = [{d for d in digests if split_of(d, 0.3, seed) == 'test'} for seed in (0, 1)]
    assert abs(len(tests[0] & tests[1]) - 0.09 * 20_000) < 4 * (20_000 * 0.09 * 0.91) ** 0.5
    assert {d for d in digests if split_of(d, 0.1, 0) == 'test'} < tests[0]
    assert split_of(digests[0], 0.3, 0) in ('train', 'test')
