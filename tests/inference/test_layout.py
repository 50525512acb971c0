"""What the network sees of bordered and long photographs, and which ones are in colour."""

import cv2
import numpy as np
import pytest
from skimage import data
from skimage.color import rgb2lab

from chromagan_jax.inference import layout, photos, toning

SIZE = 32


@pytest.fixture(scope='module')
def gray():
    return cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2GRAY)


def bordered(pixels, value, border=40):
    return cv2.copyMakeBorder(pixels, *[border] * 4, cv2.BORDER_CONSTANT, value=value)


@pytest.mark.parametrize('value', [255, 240, 0, 12])
@pytest.mark.parametrize('deep', [False, True])
def test_a_plain_border_is_not_seen_and_stays_gray(value, deep, gray):
    framed = bordered(gray[:300], value)
    if deep:
        framed = framed.astype(np.uint16) * 257
    view = layout.prepare(framed, SIZE)
    for found, right in zip(view.box, (40, 340, 40, 552), strict=True):
        assert abs(found - right) <= 2
    (seen,) = view.inputs
    assert np.abs(seen.astype(int) - photos.shrink(gray[:300], SIZE)).mean() < 3
    result = layout.recolor(view, [np.full((SIZE, SIZE, 2), 30, np.float32)])
    spread = np.ptp(result.astype(int), axis=2)
    assert spread[:38].max() == spread[-38:].max() == spread[:, :38].max() == 0
    assert np.median(spread[60:320, 60:500]) > 20
    lightness = photos.lightness(framed)
    assert np.abs(photos.lightness(result) - lightness).max() < 0.5


def test_noise_and_a_side_alone_make_no_border(gray):
    rng = np.random.default_rng(0)
    plain = [
        gray,
        rng.integers(0, 256, (200, 300), np.uint8),
        np.zeros((100, 100), np.uint8),
        np.full((100, 100), 255, np.uint8),
        np.tile(np.linspace(0, 255, 300).astype(np.uint8), (200, 1)),  # bright to dark
        np.concatenate([np.full((60, 512), 250, np.uint8), gray[:300]]),  # a sky
    ]
    for pixels in plain:
        assert layout.content_box(pixels) == (0, pixels.shape[0], 0, pixels.shape[1])


@pytest.mark.parametrize('turned', [False, True])
@pytest.mark.parametrize('width', [97, 150, 640])
def test_a_strip_is_seen_in_squares_whose_colours_are_blended_in_their_places(width, turned):
    strip = np.random.default_rng(0).integers(0, 256, (40, width), np.uint8)
    view = layout.prepare(strip.T if turned else strip, SIZE)
    across = round(SIZE * width / 40)
    starts = layout._starts(across, SIZE)
    assert starts[0] == 0
    assert starts[-1] == across - SIZE
    assert max(np.diff(starts)) <= SIZE / 2
    assert all(image.shape == (SIZE, SIZE, 3) for image in view.inputs)
    # A network whose a* is the place along the strip gives that place back.
    colors = []
    for start in starts:
        place = np.broadcast_to(np.arange(start, start + SIZE)[None, :, None], (SIZE, SIZE, 2))
        colors.append(np.float32(place.swapaxes(0, 1) if turned else place))
    joined = layout.joined(view, colors)
    assert joined.shape[:2] == view.small.shape[:2]
    expected = np.broadcast_to(np.arange(across)[None], (SIZE, across))
    np.testing.assert_allclose(joined[..., 0], expected.T if turned else expected, atol=1e-3)


def test_an_endless_strip_has_a_bounded_number_of_inputs():
    view = layout.prepare(np.zeros((2, 60_000), np.uint8), SIZE)
    assert len(view.inputs) == layout._MAX_PARTS
    assert layout.recolor(view, [np.zeros((SIZE, SIZE, 2))] * 64).shape == (2, 60_000, 3)


@pytest.mark.parametrize('shape', [(61, 47), (100, 190), (200, 100)])
def test_an_ordinary_photograph_is_one_squeezed_input_as_a_whole(shape, gray):
    pixels = np.ascontiguousarray(gray[100 : 100 + shape[0], 100 : 100 + shape[1]])
    view = layout.prepare(pixels, SIZE)
    assert view.box == (0, shape[0], 0, shape[1])
    (seen,) = view.inputs
    np.testing.assert_array_equal(seen, photos.shrink(pixels, SIZE))
    assert view.pixels is pixels


@pytest.mark.parametrize('channels', [None, 3, 4])
def test_16_bits_of_a_result_are_those_of_the_lightness(channels):
    pixels = np.linspace(0, 65535, 4096).astype(np.uint16).reshape(64, 64)
    if channels:
        pixels = np.dstack([pixels] * channels)
    ab = np.zeros((SIZE, SIZE, 2), np.float32)
    result = photos.recolor(pixels, photos.shrink(pixels, SIZE), ab, deep=True)
    assert result.dtype == np.uint16
    assert len(np.unique(result[..., 1])) > 4000
    expected = pixels if channels is None else pixels[..., 0]
    assert np.abs(result[..., 1].astype(int) - expected).max() <= 8
    if channels == 4:
        np.testing.assert_array_equal(result[..., 3], pixels[..., 3])


def toned(gray, a, b):
    """A print of one tone, strongest in the middle."""
    light = rgb2lab(np.dstack([gray] * 3))[..., 0].astype(np.float32)
    tone = 1 - ((light - 50) / 50) ** 2
    lab = np.dstack([light, a * tone, b * tone]).astype(np.float32)
    return np.rint(np.clip(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), 0, 1) * 255).astype(np.uint8)


@pytest.mark.parametrize('tone', [(0, 0), (8, 22), (-3, -25), (15, 5), (0, 40)])
@pytest.mark.parametrize('quality', [None, 60])
def test_toned_prints_are_gray(tone, quality, gray):
    pixels = toned(gray, *tone)
    if quality:
        code = cv2.imencode('.jpg', pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        pixels = cv2.imdecode(code, cv2.IMREAD_COLOR)
    assert not toning.is_color(pixels)


@pytest.mark.parametrize('name', ['astronaut', 'coffee', 'chelsea', 'rocket'])
def test_photographs_in_colour_are_noticed(name):
    pixels = getattr(data, name)()
    assert toning.is_color(pixels)
    alpha = np.full(pixels.shape[:2], 255, np.uint8)
    assert toning.is_color(np.dstack([pixels, alpha]).astype(np.uint16) * 257)
    assert not toning.is_color(np.dstack([pixels, 0 * alpha]))  # nothing of it is shown
    assert not toning.is_color(pixels[..., 0])
