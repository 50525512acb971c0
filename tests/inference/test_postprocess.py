"""Colour correction, contrast and denoising against closed forms and by property."""

import dataclasses

import cv2
import numpy as np
import pytest
from skimage import data
from skimage.color import lab2rgb, rgb2lab
from skimage.util import view_as_blocks

from chromagan_jax import config as config_lib
from chromagan_jax.config import Config
from chromagan_jax.config.postprocess import OFF, PostProcess
from chromagan_jax.errors import UserError
from chromagan_jax.inference import layout, photos, postprocess
from chromagan_jax.inference.postprocess import treat_chroma
from configs import base

SIZE = 32
# Of L*, where every channel is off by half a level: below black's knee 0.14, more above it.
ROUNDING = 0.35


def small_lab(scale=0.4):
    """(L*, ab) of a photograph at the network's size, with so little chroma that none is lost."""
    lab = rgb2lab(photos.shrink(data.astronaut(), SIZE)).astype(np.float32)
    return 30 + 0.4 * lab[..., 0], scale * lab[..., 1:]


def recolor(pixels, ab, **post):
    return photos.recolor(pixels, photos.shrink(pixels, SIZE), ab, PostProcess(**post))


def ab_of_sample(pixels):
    return rgb2lab(photos.shrink(pixels, SIZE))[..., 1:].astype(np.float32)


# Fields


def test_the_group_of_the_config_is_off():
    assert base.get_config().colorize == PostProcess() == OFF


def test_fields_that_a_saved_config_lacks_are_off():
    saved = config_lib.to_dict(base.get_config())
    saved['colorize'] = {'contrast': 1}
    assert config_lib.from_dict(Config, saved).colorize == dataclasses.replace(OFF, contrast=1)
    del saved['colorize']
    assert config_lib.from_dict(Config, saved).colorize == OFF


@pytest.mark.parametrize(
    ('fields', 'sentence'),
    [
        (
            {'white_balance': 'gry'},
            "colorize.white_balance is 'gry'; choose one of none, gray_world, percentile.",
        ),
        ({'denoise_method': 3}, 'colorize.denoise_method is 3; choose one of nlm, bilateral.'),
        ({'saturation': -0.1}, 'colorize.saturation must be 0 <= x <= 10, not -0.1.'),
        ({'saturation': float('nan')}, 'colorize.saturation must be 0 <= x <= 10, not nan.'),
        ({'contrast': 1.01}, 'colorize.contrast must be 0 <= x <= 1, not 1.01.'),
        ({'contrast': 'much'}, "colorize.contrast must be a number, not 'much'."),
        ({'contrast': True}, 'colorize.contrast must be a number, not True.'),
        ({'clahe_tiles': 8.5}, 'colorize.clahe_tiles must be a whole number, not 8.5.'),
        ({'clahe_tiles': 65}, 'colorize.clahe_tiles must be 1 <= x <= 64, not 65.'),
        ({'clahe_clip': 0}, 'colorize.clahe_clip must be 1 <= x <= 256, not 0.'),
        ({'denoise_before': -1}, 'colorize.denoise_before must be 0 <= x <= 100, not -1.'),
        ({'denoise_after': 101}, 'colorize.denoise_after must be 0 <= x <= 100, not 101.'),
        ({'sample_noise': 1}, 'colorize.sample_noise must be true or false, not 1.'),
        ({'white_balance_strength': 2}, 'colorize.white_balance_strength must be 0 <= x <= 1'),
    ],
)
def test_a_mistake_is_one_sentence(fields, sentence):
    config = base.get_config()
    config.colorize = PostProcess(**fields)
    with pytest.raises(UserError) as caught:
        config_lib.validate(config)
    assert str(caught.value).startswith(sentence)


def test_a_field_that_does_not_exist_is_named():
    with pytest.raises(UserError, match=r"^There is no field 'colorize\.gain' in the config"):
        config_lib.set_field(base.get_config(), 'colorize.gain', 1.2)


# Off


def test_without_a_step_nothing_is_touched():
    lightness, ab = small_lab()
    assert treat_chroma(OFF, lightness, ab) is ab
    pixels = data.astronaut()
    same, _, _, (small,), _ = layout.prepare(pixels, SIZE, OFF)
    assert same is pixels
    np.testing.assert_array_equal(small, photos.shrink(pixels, SIZE))
    unused = PostProcess(clahe_clip=9.0, clahe_tiles=2, denoise_method='bilateral')
    plain = recolor(pixels, ab)
    np.testing.assert_array_equal(photos.recolor(pixels, small, ab, unused), plain)


@pytest.mark.parametrize(
    'post',
    [
        {'saturation': 1.5},
        {'white_balance': 'gray_world'},
        {'white_balance': 'percentile'},
        {'denoise_after': 6.0},
        {'denoise_after': 6.0, 'denoise_method': 'bilateral'},
    ],
)
def test_steps_of_colour_change_colours_and_not_lightness(post):
    pixels = data.coffee()
    ab = ab_of_sample(pixels)
    result = rgb2lab(recolor(pixels, ab, **post))
    assert np.abs(result - rgb2lab(pixels))[..., 0].max() < ROUNDING
    assert np.abs(result - rgb2lab(recolor(pixels, ab)))[..., 1:].mean() > 0.3


# Colour


@pytest.mark.parametrize('gain', [0.0, 0.5, 1.7])
def test_saturation_multiplies_chroma_by_its_gain(gain):
    lightness, ab = small_lab()
    treated = treat_chroma(PostProcess(saturation=gain), lightness, ab)
    np.testing.assert_allclose(treated, gain * ab, rtol=1e-6)
    ramp = np.tile(np.linspace(80, 180, 64).astype(np.uint8), (64, 1))
    found = rgb2lab(recolor(ramp, np.full((SIZE, SIZE, 2), [10, -12], np.float32), saturation=gain))
    np.testing.assert_allclose(np.hypot(*found[..., 1:].T), gain * np.hypot(10, 12), atol=0.8)


@pytest.mark.parametrize(('strength', 'left'), [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)])
def test_gray_world_leaves_that_share_of_the_mean_and_all_differences(strength, left):
    lightness, ab = small_lab()
    assert np.abs(ab.mean(axis=(0, 1))).min() > 1
    balanced = postprocess.gray_world(lightness, ab, strength)
    np.testing.assert_allclose(balanced.mean(axis=(0, 1)), left * ab.mean(axis=(0, 1)), atol=1e-4)
    np.testing.assert_allclose(balanced - balanced[:1, :1], ab - ab[:1, :1], atol=1e-4)


@pytest.mark.parametrize('method', [postprocess.gray_world, postprocess.balance_percentiles])
def test_black_and_white_have_no_say_in_the_balance(method):
    lightness, ab = small_lab()
    ab = ab + np.float32([6, 9])
    framed = np.pad(lightness, 8, constant_values=100)
    framed[:8] = 0
    wild = np.pad(ab, ((8, 8), (8, 8), (0, 0)), constant_values=-70)
    inside = method(framed, wild, 1.0)[8:-8, 8:-8]
    np.testing.assert_allclose(inside, method(lightness, ab, 1.0), atol=1e-4)
    blank = np.full_like(lightness, 100)
    np.testing.assert_array_equal(method(blank, ab, 1.0), ab)


def cast_lab():
    """(L*, ab) of a gray ramp under a light whose channels have gains of their own."""
    ramp = np.linspace(0.2, 0.8, SIZE * SIZE).reshape(SIZE, SIZE, 1)
    lab = rgb2lab(ramp * [1.1, 1.0, 0.8]).astype(np.float32)
    return lab[..., 0], lab[..., 1:]


def test_percentile_balance_makes_a_gray_picture_under_coloured_light_neutral():
    lightness, ab = cast_lab()
    assert np.hypot(*ab.T).min() > 5
    balanced = postprocess.balance_percentiles(lightness, ab, 1.0)
    middle = (lightness > np.quantile(lightness, 0.02)) & (lightness < np.quantile(lightness, 0.98))
    assert np.abs(balanced[middle]).max() < 0.05
    ends = np.percentile(lab2rgb(np.dstack([lightness, balanced])), (1, 99), axis=(0, 1))
    assert np.ptp(ends, axis=1).max() < 0.002
    half = postprocess.balance_percentiles(lightness, ab, 0.5)
    np.testing.assert_allclose(half[middle], ab[middle] / 2, atol=0.05)


def test_percentile_balance_leaves_colours_between_a_neutral_black_and_white():
    lightness, ab = small_lab()
    ab[:2] = 0
    lightness[0], lightness[1] = 3, 97
    balanced = postprocess.balance_percentiles(lightness, ab, 1.0)
    assert np.abs(balanced - ab).max() < 0.5


def test_percentile_balance_of_one_colour_is_neutral():
    lightness, ab = np.full((SIZE, SIZE), 50, np.float32), np.full((SIZE, SIZE, 2), 20, np.float32)
    assert np.abs(postprocess.balance_percentiles(lightness, ab, 1.0)).max() < 0.01


# Denoising


def deviation(values):
    return values.std(axis=(0, 1))


@pytest.mark.parametrize(('method', 'share'), [('nlm', 0.12), ('bilateral', 0.5)])
def test_denoising_takes_noise_from_chroma_and_leaves_a_strong_edge(method, share):
    clean = np.zeros((64, 64, 2), np.float32)
    clean[:, 32:] = [60, -50]
    noisy = clean + np.random.default_rng(0).normal(0, 3, clean.shape).astype(np.float32)
    post = PostProcess(denoise_after=6.0 if method == 'nlm' else 10.0, denoise_method=method)
    denoised = treat_chroma(post, np.full((64, 64), 50, np.float32), noisy)
    assert denoised.dtype == np.float32
    for half in (np.s_[:, :32], np.s_[:, 32:]):
        assert (deviation(denoised[half]) < share * deviation(noisy[half])).all()
    np.testing.assert_allclose(denoised.mean(axis=0), clean.mean(axis=0), atol=1.5)


def test_chroma_is_not_rounded_to_8_bits():
    ab = np.full((SIZE, SIZE, 2), 0.25, np.float32)
    np.testing.assert_allclose(postprocess.denoise_chroma(ab, 3.0), ab, atol=1 / 256)
    beyond = postprocess.denoise_chroma(np.full_like(ab, 300), 3.0)
    assert beyond.min() > 127  # farther than any colour of sRGB, and it does not wrap around


def noisy_edge(dtype=np.uint8):
    """A dark and a light half of a gray photograph with a grain of deviation 5."""
    clean = np.full((96, 96), 70.0)
    clean[:, 48:] = 180
    noisy = clean + np.random.default_rng(0).normal(0, 5, clean.shape)
    full = np.iinfo(dtype).max
    return np.rint(noisy * full / 255).astype(dtype)


@pytest.mark.parametrize('kind', ['gray', 'gray16', 'rgb', 'rgba'])
def test_denoising_before_takes_the_grain_and_leaves_a_strong_edge(kind):
    gray = noisy_edge(np.uint16 if kind == 'gray16' else np.uint8)
    pixels = np.dstack([gray] * len(kind)) if 'rgb' in kind else gray
    post = PostProcess(denoise_before=8.0)
    denoised, _, _, (small,), _ = layout.prepare(pixels, SIZE, post)
    found = photos.lightness(denoised)
    noisy = photos.lightness(pixels)
    for half in (np.s_[:, :48], np.s_[:, 48:]):
        assert deviation(found[half]) < 0.15 * deviation(noisy[half])
    np.testing.assert_allclose(found.mean(axis=0), noisy.mean(axis=0), atol=1)
    np.testing.assert_array_equal(small, photos.shrink(denoised, SIZE))  # the network's too
    ab = np.zeros((SIZE, SIZE, 2), np.float32)
    result = photos.recolor(denoised, small, ab)  # what is kept is the lightness without grain
    assert np.abs(rgb2lab(result[..., :3])[..., 0] - found).max() < ROUNDING


def test_what_alpha_hides_changes_nothing_that_is_seen():
    rgba = np.dstack([noisy_edge()] * 3 + [np.full((96, 96), 255, np.uint8)])
    rgba[:, :30, 3] = 0
    hidden = rgba.copy()
    hidden[:, :30, :3] = 11
    post = PostProcess(denoise_before=4.0, contrast=1.0, white_balance='percentile')
    results = []
    for pixels in (rgba, hidden):
        kept, small = photos.denoise(pixels, post), photos.shrink(pixels, SIZE)
        np.testing.assert_array_equal(kept[..., 3], rgba[..., 3])
        ab = np.full((SIZE, SIZE, 2), 10, np.float32)
        results.append(photos.recolor(kept, small, ab, post))
    np.testing.assert_array_equal(results[0][:, 30:], results[1][:, 30:])


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_the_16_bit_gray_of_a_photograph_has_its_lightness(dtype):
    gray = np.linspace(0, np.iinfo(dtype).max, 64 * 64).astype(dtype).reshape(64, 64)
    rgb = data.astronaut()[::8, ::8]
    for pixels in (gray, rgb, np.dstack([rgb, np.full((64, 64), 9, np.uint8)])):
        found = photos.to_gray(pixels)
        assert found.dtype == np.uint16
        expected = photos.lightness(pixels)
        np.testing.assert_allclose(photos.lightness(found), expected, atol=3e-3)


# Contrast


def steps_of(pixels):
    return np.rint(rgb2lab(pixels)[..., 0] * 2.55).astype(np.uint8)


def test_contrast_of_strength_1_is_opencv_s_clahe_of_lightness():
    pixels = data.astronaut()
    ab = np.zeros((SIZE, SIZE, 2), np.float32)
    steps = steps_of(pixels)
    expected = cv2.createCLAHE(3.0, (4, 4)).apply(steps).astype(int)
    found = steps_of(recolor(pixels, ab, contrast=1.0, clahe_clip=3.0, clahe_tiles=4)).astype(int)
    difference = np.abs(found - expected)
    assert difference.max() <= 5  # where a step is rounded the other way, times CLAHE's slope
    assert difference.mean() < 0.5
    assert np.abs(expected - steps).mean() > 10


def test_contrast_of_strength_a_half_is_the_mean_of_both():
    pixels = data.astronaut()
    ab = np.zeros((SIZE, SIZE, 2), np.float32)
    none, half, full = (
        rgb2lab(recolor(pixels, ab, contrast=share))[..., 0] for share in (0.0, 0.5, 1.0)
    )
    np.testing.assert_allclose(half, (none + full) / 2, atol=2 * ROUNDING)


def test_local_contrast_grows_with_strength_and_clip():
    pixels = data.chelsea()[:296, :448] // 2 + 60
    ab = ab_of_sample(pixels)

    def local_contrast(**post):
        lightness = rgb2lab(recolor(pixels, ab, **post))[..., 0]
        return view_as_blocks(lightness, (8, 8)).std(axis=(2, 3)).mean()

    found = [
        local_contrast(),
        local_contrast(contrast=0.3),
        local_contrast(contrast=1.0),
        local_contrast(contrast=1.0, clahe_clip=6.0),
    ]
    assert (np.diff(found) > 0.2).all()


@pytest.mark.parametrize('value', [0, 60, 200, 255])
def test_a_constant_photograph_stays_constant(value):
    constant = np.full((200, 150), value, np.uint8)
    result = recolor(constant, np.zeros((SIZE, SIZE, 2), np.float32), contrast=1.0)
    assert np.ptp(result) == 0
    assert abs(int(result[0, 0, 0]) - value) <= 7


@pytest.mark.parametrize('shape', [(1, 1), (1, 300), (47, 400), (48, 48), (400, 50)])
def test_a_small_photograph_is_not_torn_to_black_and_white(shape):
    flat = np.random.default_rng(0).integers(100, 104, shape).astype(np.uint8)
    change = postprocess.contrast_change(flat, 1.0, 2.0, 64)
    assert change.dtype == np.float32
    assert change.shape == shape
    assert np.abs(change).max() < 10
    assert (np.abs(change).max() > 0) == (min(shape) >= 48)
    post = PostProcess(contrast=1.0, denoise_before=3.0)
    kept, small = photos.denoise(flat, post), photos.shrink(flat, SIZE)
    assert photos.recolor(kept, small, np.zeros((SIZE, SIZE, 2)), post).shape == (*shape, 3)


def test_16_bits_of_lightness_survive_the_contrast():
    deep = np.tile(np.linspace(20_000, 24_000, 600).astype(np.uint16), (64, 1))
    ab = np.zeros((SIZE, SIZE, 2), np.float32)
    change = photos._contrast_change(deep, PostProcess(contrast=1.0))
    lightness = photos.lightness(deep) + change
    coarse = photos.lightness(np.rint(deep / 257).astype(np.uint8))
    assert len(np.unique(lightness[0])) > 10 * len(np.unique(coarse[0]))
    assert recolor(deep, ab, contrast=1.0).dtype == np.uint8
