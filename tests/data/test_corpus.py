"""Files of all kinds by several writers have the tones that were written."""

import numpy as np
import pytest

from chromagan_jax.data.decode import decode, read
from tests.data.corpus import GRAY, corpus, dng


@pytest.mark.parametrize('name', corpus())
def test_a_file_has_the_tones_that_were_written(name):
    made = corpus()[name]
    pixels = read(made.data, deep=True).pixels
    values = pixels / np.iinfo(pixels.dtype).max
    expected = made.expected
    if values.ndim > expected.ndim:  # a kind that has no gray
        assert np.ptp(pixels.astype(int), axis=-1).max() <= 1
        values = values[..., 0]
    assert values.shape == expected.shape
    assert np.abs(values - expected).mean() <= made.tolerance


@pytest.mark.parametrize('name', corpus())
def test_training_sees_the_same_on_white(name):
    made = corpus()[name]
    expected = made.expected if made.expected.ndim == 3 else np.dstack([made.expected] * 3)
    if expected.shape[2] == 4:
        expected = expected[..., :3] * expected[..., 3:] + 1 - expected[..., 3:]
    pixels = decode(made.data)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels / 255 - expected).mean() <= max(made.tolerance, 0.004)


def test_a_raw_file_of_a_camera_has_the_picture_of_its_sensor_in_16_bits():
    pytest.importorskip('rawpy')
    sensor = np.kron(GRAY, np.ones((4, 4)))
    pixels = read(dng(), deep=True).pixels
    assert pixels.dtype == np.uint16
    assert pixels.shape == (*sensor.shape, 3)
    for channel in np.moveaxis(pixels, 2, 0):
        assert np.corrcoef(channel.ravel(), sensor.ravel())[0, 1] > 0.9
    assert len(np.unique(pixels)) > 256  # more than 8 bits hold
