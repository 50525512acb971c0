import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.color
import skimage.data

from chromagan_jax import color
from chromagan_jax.errors import UserError

BOUND = 3e-4  # of encode against scikit-image, as its docstring states


@pytest.fixture(scope='module')
def photograph() -> np.ndarray:
    return skimage.data.astronaut()[40:168, 150:310]


@pytest.fixture(scope='module')
def grays() -> np.ndarray:
    """Every gray, (16, 16, 3)."""
    return np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=-1)


@pytest.fixture(scope='module')
def any_colours() -> np.ndarray:
    """A million of the 2^24 colours, and the corners of the cube where ab is largest."""
    codes = np.random.default_rng(0).choice(2**24, 2**20, replace=False)
    colours = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=-1).astype(np.uint8)
    colours[:8] = np.indices((2, 2, 2)).reshape(3, 8).T * 255
    return colours.reshape(1024, 1024, 3)


def lab_of(condition: np.ndarray, target: np.ndarray) -> np.ndarray:
    return np.concatenate([(condition + 1) * 50, target * 110], axis=-1)


def test_encoded_lab_agrees_with_scikit_image_to_the_stated_bound(any_colours, grays):
    for rgb in (any_colours, grays):
        condition, target = color.encode(rgb, 'lab')
        error = np.abs(lab_of(condition, target) - skimage.color.rgb2lab(rgb))
        assert error.max() < BOUND


def test_encoded_rgb_is_the_picture_and_a_gray_of_its_lightness(any_colours):
    condition, target = color.encode(any_colours, 'rgb')
    np.testing.assert_allclose(target, any_colours / 255, atol=1e-7)
    gray = np.repeat(condition.astype(np.float64), 3, axis=-1)
    lightness = skimage.color.rgb2lab(gray)[..., 0]
    np.testing.assert_allclose(lightness, skimage.color.rgb2lab(any_colours)[..., 0], atol=1e-3)
    assert 0 <= condition.min() <= condition.max() <= 1


def test_a_gray_file_keeps_its_values_and_has_no_chroma(grays):
    condition, target = color.encode(grays, 'lab')
    assert np.abs(target * 110).max() < 5e-3  # the rounded white point of the standard
    value = color.lightness_to_gray((condition + 1) * 50)
    np.testing.assert_allclose(value[..., 0], grays[..., 0] / 255, atol=1e-6)
    condition, _ = color.encode(grays, 'rgb')
    np.testing.assert_allclose(condition[..., 0], grays[..., 0] / 255, atol=1e-6)


@pytest.mark.parametrize('space', color.SPACES)
def test_encode_has_the_shapes_of_the_contract_and_treats_a_batch_as_its_images(photograph, space):
    batch = np.stack([photograph, photograph[::-1], 255 - photograph])
    condition, target = color.encode(batch, space)
    assert condition.shape == (*batch.shape[:3], 1)
    assert target.shape == (*batch.shape[:3], color.TARGET_CHANNELS[space])
    assert condition.dtype == target.dtype == np.float32
    for image, one_condition, one_target in zip(batch, condition, target, strict=True):
        alone = color.encode(image, space)
        # The last pixels of an array may round otherwise: OpenCV's loop ends without FMA.
        np.testing.assert_allclose(alone[0], one_condition, atol=1e-6)
        np.testing.assert_allclose(alone[1], one_target, atol=1e-6)


@pytest.mark.parametrize('space', color.SPACES)
def test_encode_takes_flipped_and_cropped_and_read_only_views(photograph, space):
    image = photograph[5:100, ::-1]
    batch = np.stack([photograph] * 3)[1:, 5:100, ::-1]
    for view in (image, batch):
        expected = color.encode(view.copy(), space)
        view.flags.writeable = False  # as Pillow gives them
        for got, want in zip(color.encode(view, space), expected, strict=True):
            np.testing.assert_array_equal(got, want)


def test_encode_leaves_its_input_alone(photograph):
    before = photograph.copy()
    for space in color.SPACES:
        color.encode(photograph, space)
    np.testing.assert_array_equal(photograph, before)


def test_encode_refuses_a_space_it_does_not_know(photograph):
    with pytest.raises(UserError, match=r"'yuv'.*lab, rgb"):
        color.encode(photograph, 'yuv')


@pytest.mark.parametrize('space', color.SPACES)
def test_every_uint8_colour_survives_encode_and_to_rgb(any_colours, space):
    decoded = color.to_rgb(*color.encode(any_colours, space))
    np.testing.assert_array_equal(np.round(decoded * 255), any_colours)


def test_rgb_to_lab_agrees_with_scikit_image_in_float64():
    rgb = np.random.default_rng(1).random((50, 40, 3))
    np.testing.assert_allclose(color.rgb_to_lab(rgb), skimage.color.rgb2lab(rgb), atol=1e-10)


def test_lab_to_rgb_agrees_with_scikit_image_inside_and_outside_the_gamut():
    rng = np.random.default_rng(2)
    lab = rng.uniform([0, -110, -110], [100, 110, 110], (50, 40, 3))
    with pytest.warns(UserWarning, match='negative Z'):
        expected = skimage.color.lab2rgb(lab)
    assert np.mean((expected == 0) | (expected == 1)) > 0.2  # enough of them lie outside
    got = color.lab_to_rgb(lab)
    np.testing.assert_allclose(got, expected, atol=2e-5)
    assert 0 <= got.min() <= got.max() <= 1


def test_lab_to_rgb_inverts_rgb_to_lab():
    rgb = np.random.default_rng(3).random((50, 40, 3))
    np.testing.assert_allclose(color.lab_to_rgb(color.rgb_to_lab(rgb)), rgb, atol=2e-5)


def test_gray_and_lightness_are_scikit_images_and_invert_each_other():
    gray = np.linspace(0, 1, 1001)
    lightness = color.gray_to_lightness(gray)
    expected = skimage.color.rgb2lab(np.repeat(gray[:, None], 3, axis=1))[:, 0]
    np.testing.assert_allclose(lightness, expected, atol=1e-10)
    np.testing.assert_allclose(color.lightness_to_gray(lightness), gray, atol=2e-5)


@pytest.mark.parametrize(
    ('function', 'low', 'high', 'tolerance'),
    [
        (color.rgb_to_lab, [0, 0, 0], [1, 1, 1], 3e-4),
        (color.lab_to_rgb, [0, -110, -110], [100, 110, 110], 1e-5),
        (color.lightness_to_gray, [0] * 3, [100] * 3, 1e-6),
        (color.gray_to_lightness, [0] * 3, [1] * 3, 1e-4),
    ],
)
def test_numpy_and_jax_agree_and_keep_their_kind_and_type(function, low, high, tolerance):
    x = np.random.default_rng(4).uniform(low, high, (64, 64, 3)).astype(np.float32)
    from_numpy, from_jax = function(x), jax.jit(function)(jnp.asarray(x))
    assert isinstance(from_numpy, np.ndarray)
    assert isinstance(from_jax, jax.Array)
    assert from_numpy.dtype == from_jax.dtype == np.float32
    np.testing.assert_allclose(from_jax, from_numpy, atol=tolerance)


@pytest.mark.parametrize('value', [-0.2, 0.0, 0.04045, 1.0])
def test_gradients_are_finite_below_black_at_black_at_the_knee_and_at_white(value):
    rgb = np.full(3, value, np.float32)
    for function, x in [
        (color.rgb_to_lab, rgb),
        (color.lab_to_rgb, color.rgb_to_lab(rgb)),
        (color.lab_to_rgb, np.array([5, 100, 110], np.float32)),  # Z is negative and cut to 0
        (color.gray_to_lightness, rgb),
        (color.lightness_to_gray, color.gray_to_lightness(rgb)),
    ]:
        assert np.isfinite(jax.jit(jax.jacobian(function))(x)).all()


def test_the_gradient_of_rgb_to_lab_is_that_of_finite_differences():
    rgb = np.random.default_rng(5).uniform(0.1, 0.9, (3,))
    step = 1e-6 * np.eye(3)
    expected = (color.rgb_to_lab(rgb + step) - color.rgb_to_lab(rgb - step)).T / 2e-6
    got = jax.jit(jax.jacobian(color.rgb_to_lab))(jnp.asarray(rgb, jnp.float32))
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize('space', color.SPACES)
def test_to_lab_and_to_rgb_decode_under_jit_what_was_encoded(photograph, space):
    condition, target = map(jnp.asarray, color.encode(photograph, space))
    lab = jax.jit(color.to_lab)(condition, target)
    np.testing.assert_allclose(lab, skimage.color.rgb2lab(photograph), atol=1e-3)
    rgb = jax.jit(color.to_rgb)(condition, target)
    np.testing.assert_allclose(rgb, photograph / 255, atol=1e-4)


def test_targets_out_of_range_give_clipped_float32_pictures():
    condition = jnp.zeros((1, 1, 2, 1), jnp.bfloat16)
    target = jnp.array([[[[-0.5, 0.25, 1.5], [0.0, 1.0, 2.0]]]], jnp.bfloat16)
    rgb = color.to_rgb(condition, target)
    np.testing.assert_array_equal(rgb, [[[[0, 0.25, 1], [0, 1, 1]]]])
    expected = skimage.color.rgb2lab(np.asarray(rgb))
    np.testing.assert_allclose(color.to_lab(condition, target), expected, atol=1e-3)
    strong = color.to_rgb(condition, 2 * jnp.ones((1, 1, 2, 2), jnp.bfloat16))
    assert 0 <= strong.min() <= strong.max() <= 1
    assert rgb.dtype == strong.dtype == jnp.float32


def test_a_target_of_another_number_of_channels_is_refused():
    for function in (color.to_rgb, color.to_lab):
        with pytest.raises(ValueError, match='not 4'):
            function(np.zeros((2, 2, 1)), np.zeros((2, 2, 4)))


@pytest.mark.parametrize('space', color.SPACES)
def test_the_gray_target_makes_a_gray_picture_of_the_same_lightness(photograph, space):
    condition, target = color.encode(photograph, space)
    gray = color.gray_target(condition, color.TARGET_CHANNELS[space])
    assert gray.shape == target.shape
    rgb = color.to_rgb(condition, gray)
    np.testing.assert_allclose(rgb, rgb[..., :1].repeat(3, axis=-1), atol=1e-4)
    lightness = skimage.color.rgb2lab(rgb)[..., 0]
    np.testing.assert_allclose(lightness, skimage.color.rgb2lab(photograph)[..., 0], atol=2e-3)


def test_pictures_of_a_few_pixels_are_encoded_as_large_ones():
    """OpenCV takes arrays of 1 x 1 or 1 x 4 for numbers where it can."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
    for space in color.SPACES:
        whole = color.encode(pixels, space)
        for height, width in itertools.product(range(1, 7), repeat=2):
            part = color.encode(pixels[:height, :width], space)
            for got, expected in zip(part, whole, strict=True):
                np.testing.assert_allclose(got, expected[:height, :width], atol=1e-6)
