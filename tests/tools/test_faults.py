"""Measures of typical faults."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from chromagan_jax import color
from chromagan_jax.config import Config
from chromagan_jax.gan.released import Trained
from tools import faults


def lab(lightness, a, b):
    """A (1, 32, 32, 3) image of one colour."""
    return jnp.broadcast_to(jnp.array([lightness, a, b], jnp.float32), (1, 32, 32, 3))


def figures(original, made):
    """Text of each fault -> its figure; NaN if no pixel counts."""
    found = {}
    for fault in faults.FAULTS:
        where = np.asarray(fault.where(original))
        values = np.asarray(fault.value(made))[where]
        found[fault.text] = values.mean() if where.any() else np.nan
    return found


@pytest.mark.parametrize(
    ('start', 'original', 'made', 'expected'),
    [
        ('chroma of neutral lights', (90, 0, 0), (90, 3, 4), 5),
        ('chroma of neutral middle tones', (50, 0, 0), (50, 3, 4), 5),
        ('blue of neutral darks', (20, 0, 0), (20, 0, -9), 9),
        ('blue of neutral darks', (20, 0, 0), (20, 0, 9), 0),
        ('% of the neutral pixels that are purple', (50, 0, 0), (50, 10, -10), 100),
        ('% of the neutral pixels that are purple', (50, 0, 0), (50, 10, 10), 0),
        ('% of the pixels with a* below 12 that are red', (50, 0, 0), (50, 30, 0), 100),
        ('% of the pixels with a* below 12 that are red', (50, 30, 0), (50, 30, 0), np.nan),
        ('specks', (50, 0, 0), (50, 30, 0), 0),
    ],
)
def test_a_measure_has_its_value_for_images_of_one_colour(start, original, made, expected):
    found = figures(lab(*original), lab(*made))
    (value,) = (value for text, value in found.items() if text.startswith(start))
    np.testing.assert_allclose(value, expected, atol=1e-4)


def test_specks_are_the_distance_from_the_gaussian_mean_of_scikit_image():
    from skimage.filters import gaussian

    ab = np.random.default_rng(0).normal(0, 20, (32, 32, 2)).astype(np.float32)
    image = jnp.dstack([jnp.full((32, 32), 50.0), ab])[None]
    blurred = gaussian(ab, sigma=2, truncate=3, mode='nearest', channel_axis=-1)
    expected = np.linalg.norm(ab - blurred, axis=-1)
    np.testing.assert_allclose(faults.specks(image)[0], expected, rtol=0.01, atol=0.05)


def test_edges_are_where_the_colour_changes_and_their_gradient_is_the_change():
    image = lab(50, 0, 0).at[:, :, 16:, 1].set(40)
    (edge,) = (fault for fault in faults.FAULTS if fault.text.startswith('gradient'))
    steep = np.asarray(edge.value(image))
    assert (steep[0, :, 15] == 40).all()
    assert steep.sum() == 40 * 32


def test_a_gray_result_has_no_fault_and_the_originals_have_their_own_values(monkeypatch, capsys):
    """The generator is a stand-in that predicts gray."""
    monkeypatch.setattr(
        faults.options, 'load', lambda _: Trained('stand-in', Config(), None, {}, 0)
    )
    gray = SimpleNamespace(apply=lambda _, condition, train: color.gray_target(condition, 2))
    monkeypatch.setattr(faults, 'make_model', lambda config, mesh: SimpleNamespace(generator=gray))
    monkeypatch.setattr(faults, 'SIZE', 32)
    assert faults.main(['--val=sample', '--sizes=32']) == 0
    rows = [line.strip('| ').split(' | ') for line in capsys.readouterr().out.splitlines()[2:]]
    # Rounding to 8 bits moves a channel of some grays by 1.
    assert all(float(row[1]) <= 0.02 for row in rows)
    assert any(float(row[2]) > 0 for row in rows)


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        ([], '--val is missing: add --val=DIR.'),
        (['--val=sample', '--sizes=x'], '--sizes must be comma-separated integers'),
    ],
)
def test_wrong_flags_end_in_one_sentence(arguments, sentence, capsys):
    assert faults.main(arguments) == 1
    assert sentence in capsys.readouterr().err


def test_colours_are_those_that_a_file_can_hold():
    given = np.array([[[50, 20, -30], [50, 120, 100], [90, 0, -80]]], np.float32)[None]
    found = faults.in_a_file(given)
    np.testing.assert_allclose(found[0, 0, 0], given[0, 0, 0], atol=0.5)  # 8 bits
    np.testing.assert_allclose(found[..., 0], given[..., 0], atol=0.5)
    before, after = (np.asarray(faults.chroma(image))[0, 0] for image in (given, found))
    assert (after[1:] < before[1:] - 20).all()
    rgb = 255 * color.lab_to_rgb(found)
    np.testing.assert_allclose(rgb, rgb.round(), atol=0.01)


def test_impossible_colours_count_as_the_ones_of_the_file(monkeypatch):
    """The generator is a stand-in that predicts a* and b* of 330."""
    monkeypatch.setattr(
        faults.options, 'load', lambda _: Trained('stand-in', Config(), None, {}, 0)
    )
    wild = lambda _, condition, train: jnp.full((*condition.shape[:3], 2), 3.0)
    model = SimpleNamespace(generator=SimpleNamespace(apply=wild))
    monkeypatch.setattr(faults, 'make_model', lambda config, mesh: model)
    monkeypatch.setattr(faults, 'SIZE', 32)
    rows = faults.measure(faults.parse(['--val=sample', '--sizes=32']))
    chromas = [row['made'] for row in rows if row['fault'].startswith('chroma')]
    assert chromas
    assert max(chromas) < 134  # the most in sRGB
