import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.color
import skimage.data
import skimage.metrics

from chromagan_jax import color
from chromagan_jax.errors import UserError
from chromagan_jax.evaluation import measures, metrics, reductions


@pytest.fixture(scope='module')
def originals() -> np.ndarray:
    """Three photographs, (3, 80, 96, 3) uint8."""
    whole = skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.coffee()
    return np.stack([image[60:220:2, 100:292:2] for image in whole])


@pytest.fixture(scope='module')
def spoiled(originals) -> np.ndarray:
    """The same photographs with noise, faded and shifted by a pixel."""
    noisy = originals[0] + np.random.default_rng(0).normal(0, 12, originals[0].shape)
    faded = 0.6 * originals[1] + 40
    shifted = np.roll(originals[2], 1, axis=1)
    return np.clip(np.stack([noisy, faded, shifted]), 0, 255).round().astype(np.uint8)


def unit(images: np.ndarray) -> jax.Array:
    return jnp.asarray(images, jnp.float32) / 255


def plain_colorfulness(image: np.ndarray) -> float:
    r, g, b = image.reshape(-1, 3).astype(float).T
    rg, yb = r - g, (r + g) / 2 - b
    return float(np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean()))


def plain_blotchiness(original: np.ndarray, colorized: np.ndarray) -> float:
    """The ratio for two (H, W, 3) uint8 pictures, by scikit-image, OpenCV and NumPy."""

    def gradient(lab: np.ndarray) -> np.ndarray:
        steps = np.stack(np.gradient(lab, axis=(0, 1)))[:, 1:-1, 1:-1]
        return np.sqrt(np.square(steps).sum(axis=(0, -1)))

    scale = min(1, 64 / min(original.shape[:2]))
    side = [round(n * scale) for n in original.shape[1::-1]]
    lab, made = (
        cv2.resize(skimage.color.rgb2lab(rgb), side, interpolation=cv2.INTER_AREA)
        for rgb in (original, colorized)
    )
    steep = gradient(lab[..., :1])
    smooth = steep <= np.median(steep)
    return float(gradient(made[..., 1:])[smooth].mean() / gradient(lab[..., 1:])[smooth].mean())


def test_quantize_gives_the_nearest_uint8_values(originals):
    noise = np.random.default_rng(1).uniform(-0.49, 0.49, originals.shape)
    got = measures.quantize(unit(np.clip(originals + noise, 0, 255)))
    np.testing.assert_allclose(got * 255, originals, atol=1e-4)


def test_psnr_equals_scikit_images_at_uint8(originals, spoiled):
    expected = [
        skimage.metrics.peak_signal_noise_ratio(a, b, data_range=255)
        for a, b in zip(originals, spoiled, strict=True)
    ]
    got = measures.psnr(unit(originals), unit(spoiled))
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    np.testing.assert_allclose(measures.psnr(unit(originals), unit(spoiled) + 1e-3), got, rtol=1e-6)


def test_ssim_equals_scikit_images_on_photographs(originals, spoiled):
    expected = [
        skimage.metrics.structural_similarity(
            a / 255,
            b / 255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            channel_axis=-1,
            data_range=1,
        )
        for a, b in zip(originals, spoiled, strict=True)
    ]
    assert np.ptp(expected) > 0.05
    got = measures.ssim(unit(originals), unit(spoiled))
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_ssim_needs_an_image_as_large_as_its_window():
    for shape in [(1, 10, 30, 3), (1, 30, 10, 3)]:
        x = jnp.zeros(shape)
        with pytest.raises(UserError, match=f'11 px.*{shape[1]} x {shape[2]}'):
            measures.ssim(x, x)
    x = jnp.ones((1, 11, 11, 3))
    assert measures.ssim(x, x)[0] == pytest.approx(1, abs=1e-5)


def test_colorfulness_equals_plain_numpy_on_photographs(originals):
    expected = [plain_colorfulness(image) for image in originals]
    np.testing.assert_allclose(measures.colorfulness(unit(originals)), expected, rtol=1e-4)


def test_colorfulness_keeps_the_signs_of_the_opponent_channels():
    # Half red, half green: rg = +-255 has mean 0, and the variant with abs() would give 76.5.
    image = np.zeros((1, 2, 2, 3), np.uint8)
    image[0, 0, :, 0] = image[0, 1, :, 1] = 255
    assert measures.colorfulness(unit(image))[0] == pytest.approx(255 + 0.3 * 127.5, rel=1e-5)


@pytest.mark.parametrize('space', color.SPACES)
def test_ab_mae_equals_scikit_images_lab(originals, spoiled, space):
    condition, target = color.encode(originals, space)
    _, prediction = color.encode(spoiled, space)
    difference = skimage.color.rgb2lab(originals) - skimage.color.rgb2lab(spoiled)
    expected = np.abs(difference[..., 1:]).mean(axis=(1, 2, 3))
    got = measures.ab_mae(*(color.to_lab(condition, x) for x in (target, prediction)))
    np.testing.assert_allclose(got, expected, rtol=1e-4)


@pytest.mark.parametrize('space', color.SPACES)
def test_image_metrics_measures_the_decoded_pictures_one_by_one(originals, spoiled, space):
    condition, target = map(jnp.asarray, color.encode(originals, space))
    prediction = jnp.asarray(color.encode(spoiled, space)[1])
    measure = jax.jit(metrics.image_metrics)
    together = measure(condition, target, prediction)
    assert set(together) == {
        *('psnr', 'ssim', 'ab_mae', 'colorfulness', 'colorfulness_original'),
        *('psnr_gray', 'ssim_gray', 'ab_mae_gray'),
        *('ab_histogram', 'ab_histogram_original', 'blotchiness'),
    }
    for name, values in together.items():
        assert values.shape == ((3, 23, 23) if 'histogram' in name else (3,))
        alone = [
            measure(condition[i : i + 1], target[i : i + 1], prediction[i : i + 1])[name][0]
            for i in range(3)
        ]
        np.testing.assert_allclose(values, alone, rtol=1e-4, err_msg=name)

    colorized = np.asarray(measures.quantize(color.to_rgb(condition, prediction)) * 255)
    lightness = skimage.color.rgb2lab(originals)[..., :1]
    gray = skimage.color.lab2rgb(lightness * [1, 0, 0])
    gray = np.round(gray * 255).astype(np.uint8)
    ab = skimage.color.rgb2lab(originals)[..., 1:]
    np.testing.assert_array_equal(together['ab_histogram'], measures.ab_histogram(colorized / 255))
    for i, original in enumerate(originals):
        expected = {
            'colorfulness': plain_colorfulness(colorized[i]),
            'colorfulness_original': plain_colorfulness(original),
            'blotchiness': plain_blotchiness(original, colorized[i].round().astype(np.uint8)),
            'psnr': skimage.metrics.peak_signal_noise_ratio(
                original, colorized[i].round().astype(np.uint8), data_range=255
            ),
            'psnr_gray': skimage.metrics.peak_signal_noise_ratio(original, gray[i], data_range=255),
            'ab_mae_gray': np.abs(ab[i]).mean(),
        }
        for name, value in expected.items():
            assert together[name][i] == pytest.approx(value, rel=1e-3), name
    np.testing.assert_allclose(
        together['ssim_gray'], measures.ssim(unit(originals), unit(gray)), atol=1e-3
    )


@pytest.mark.parametrize('space', color.SPACES)
def test_a_perfect_prediction_and_a_gray_original_reach_the_cap(originals, space):
    gray = originals[..., :1].repeat(3, axis=-1)
    for photographs, at_cap in [(originals, False), (gray, True)]:
        condition, target = map(jnp.asarray, color.encode(photographs, space))
        result = metrics.image_metrics(condition, target, target)
        np.testing.assert_array_equal(result['psnr'], measures.PSNR_CAP)
        np.testing.assert_allclose(result['ssim'], 1, atol=1e-5)
        np.testing.assert_array_equal(result['ab_mae'], 0)
        assert (result['psnr_gray'] >= measures.PSNR_CAP).all() == at_cap
        assert (result['psnr_gray'] >= measures.PSNR_CAP).any() == at_cap
    np.testing.assert_array_equal(result['colorfulness'], 0)


def test_ab_histogram_counts_pixels_by_the_nearest_tens_of_their_ab(originals, spoiled):
    for images in (originals, spoiled):
        got = jax.jit(measures.ab_histogram)(unit(images))
        assert (got.shape, got.dtype) == ((3, 23, 23), jnp.int32)
        ab = skimage.color.rgb2lab(images)[..., 1:].reshape(3, -1, 2)
        edges = np.arange(-115, 116, 10)
        for counts, values in zip(got, ab, strict=True):
            expected, _, _ = np.histogram2d(*values.T, bins=[edges, edges])
            assert counts.sum() == expected.sum() == len(values)
            assert np.abs(counts - expected).sum() <= 4  # a pixel on an edge falls on either side


def test_ab_histogram_holds_the_extremes_of_srgb_and_all_grays_in_the_middle():
    corners = np.stack(np.meshgrid([0, 255], [0, 255], [0, 255]), -1).reshape(1, 2, 4, 3)
    assert measures.ab_histogram(unit(corners)).sum() == 8
    grays = np.arange(256).reshape(1, 16, 16, 1).repeat(3, axis=-1)
    np.testing.assert_array_equal(
        measures.ab_histogram(unit(grays))[0], 256 * reductions.AB_OF_GRAY
    )


@pytest.mark.parametrize(
    'window',
    [
        np.s_[:256, :256],
        np.s_[:192, :256],
        np.s_[:290:2, :300:3],  # 145 x 100: areas of 1.6 px a side
        np.s_[:240:5, :300:5],  # 48 x 60: measured as it is
    ],
)
def test_blotchiness_equals_plain_numpy_on_photographs(window):
    whole = skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.coffee()
    originals = np.stack([image[window] for image in whole])
    tinted = np.clip(originals * [1.1, 0.9, 1.0], 0, 255)
    patches = np.sign(np.sin(np.arange(originals.shape[2]) / 7))[:, None] * [12, 0, -12]
    strengths = np.reshape([0.3, 1, 2], (3, 1, 1, 1))
    colorized = np.clip(tinted + strengths * patches, 0, 255).astype(np.uint8)
    expected = [plain_blotchiness(a, b) for a, b in zip(originals, colorized, strict=True)]
    assert np.ptp(expected) > 0.3
    got = jax.jit(measures.blotchiness)(unit(originals), unit(colorized))
    np.testing.assert_allclose(got, expected, rtol=2e-3)


def half_smooth(place: str | None = None) -> np.ndarray:
    """A picture, (1, 128, 128, 3) uint8: its left 90 columns smooth, the others checkered.

    Its colours run slowly from left to right. `place` says which part gets patches of colour.
    """
    y, x = np.mgrid[:128, :128]
    lightness = 60 + np.where(x < 90, 0.02 * y, 15 * (-1.0) ** (x // 4 + y // 4))
    patches = 15 * (-1.0) ** (x // 16 + y // 16)
    shown = {None: np.zeros((128, 128)), 'smooth': x < 86, 'checkered': x >= 94}[place]
    lab = np.stack([lightness, 0.15 * x + patches * shown, 20 - 0.15 * x], axis=-1)
    return np.rint(skimage.color.lab2rgb(lab) * 255).astype(np.uint8)[None]


def test_blotchiness_sees_patches_of_colour_only_where_lightness_is_smooth():
    original = unit(half_smooth())
    measure = jax.jit(measures.blotchiness)
    ratio = lambda colorized: float(measure(original, colorized)[0])
    assert ratio(original) == 1
    assert ratio(unit(half_smooth('checkered'))) == pytest.approx(1, abs=0.02)
    assert ratio(unit(half_smooth('smooth'))) > 3
    assert ratio(original[..., :1].repeat(3, axis=-1)) == pytest.approx(0, abs=1e-3)


def test_an_original_without_colour_on_its_smooth_half_has_no_blotchiness(originals, spoiled):
    mixed = originals.copy()
    mixed[0] = mixed[0, ..., :1]  # gray
    mixed[1, :60] = 255
    got = jax.jit(measures.blotchiness)(unit(mixed), unit(spoiled))
    assert np.isnan(got).tolist() == [True, True, False]


def test_the_columns_of_the_tables_are_those_of_the_entries():
    assert list(metrics.columns('table').values()) == [
        ('PSNR, dB', '{:.2f}'),
        ('SSIM', '{:.3f}'),
        ('ab error', '{:.2f}'),
        ('colorfulness', '{:.1f}'),
        ('its gap', '{:.1f}'),
        ('ab histogram', '{:.3f}'),
        ('Frechet / gray', '{:.2f}'),
        ('blotchiness', '{:.2f}'),
        ('blotchy', '{:.1%}'),
    ]
    assert list(metrics.columns('card')) == [
        name for name in metrics.columns('table') if name != 'blotchiness'
    ]


def test_the_gray_picture_has_a_figure_wherever_the_colorized_one_has():
    scores = dict.fromkeys(('psnr', 'ab_histogram', 'colorfulness', 'colorfulness_gap'), 9.0)
    scores |= dict.fromkeys(('frechet_of_gray', 'blotchiness', 'blotchy_share', 'ssim'), 9.0)
    scores |= {'psnr_gray': 1.0, 'ab_histogram_gray': 2.0, 'colorfulness_original': 3.0}
    of_gray = {'psnr': 1, 'ab_histogram': 2, 'colorfulness': 0, 'colorfulness_gap': 3}
    of_gray |= {'frechet_of_gray': 1, 'blotchiness': 0, 'blotchy_share': 0}
    assert metrics.gray_figures(scores) == of_gray  # ssim's is not among the scores
    assert metrics.gray_figures({'psnr': 9.0}) == {}
