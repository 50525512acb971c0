import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from skimage import color as skimage_color

from chromagan_jax.errors import UserError
from chromagan_jax.inference import hints as hints_lib
from chromagan_jax.inference.hints import Hint
from chromagan_jax.inference.predictor import colorize


class Echo(nn.Module):
    """Everywhere the mean of the hinted colours; gray without hints."""

    hints: bool = True

    @nn.compact
    def __call__(self, condition, train):
        total = condition[..., 1:].sum(axis=(1, 2), keepdims=True)
        if not total.shape[-1]:
            return jnp.zeros((*condition.shape[:3], 2))
        mean = total[..., :2] / jnp.maximum(total[..., 2:], 1)
        return jnp.broadcast_to(mean, (*condition.shape[:3], 2))


def ab_of(rgb):
    return skimage_color.rgb2lab(np.array(rgb)[None, None] / 255)[0, 0, 1:]


def test_a_hint_is_a_square_of_its_colour_at_its_place():
    planes = hints_lib.rasterize([Hint(60, 20, (200, 40, 60))], (100, 120), 50)
    rows, columns = np.nonzero(planes[..., 2])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 12, 23, 27)
    np.testing.assert_allclose(planes[10, 25, :2] * 110, ab_of((200, 40, 60)), atol=1e-3)
    assert (planes[planes[..., 2] == 0] == 0).all()


def test_a_later_hint_covers_an_earlier_one_and_corners_are_cut():
    hints = [Hint(0, 0, (255, 0, 0)), Hint(1, 0, (0, 0, 255))]
    planes = hints_lib.rasterize(hints, (64, 64), 64)
    np.testing.assert_allclose(planes[0, 0, :2] * 110, ab_of((0, 0, 255)), atol=1e-3)
    assert planes[..., 2].sum() == 3 * 4


@pytest.mark.parametrize(('x', 'y'), [(-1, 5), (5, 40), (30, 5)])
def test_a_hint_outside_the_photograph_is_named(x, y):
    with pytest.raises(UserError, match=f'x={x}, y={y} lies outside the photograph of 30 x 40 px'):
        hints_lib.rasterize([Hint(x, y, (0, 0, 0))], (40, 30), 16)


@pytest.mark.parametrize('given', ['#7a2e2e', 'rgb(122, 46, 46)', [122, 46, 46], [122.0, 46, 46]])
def test_colours_are_read_as_hex_css_and_numbers(tmp_path, given):
    file = tmp_path / 'hints.json'
    file.write_text(json.dumps([{'x': 3, 'y': 4, 'color': given}]))
    assert hints_lib.read(file) == {'': (Hint(3, 4, (122, 46, 46)),)}
    file.write_text(json.dumps({'a.png': [{'x': 3, 'y': 4, 'color': given}], 'b.png': []}))
    assert hints_lib.read(file) == {'a.png': (Hint(3, 4, (122, 46, 46)),), 'b.png': ()}


@pytest.mark.parametrize(
    'content',
    [
        *('{', '3', '"red"', '[3]', '[{"x": 1, "y": 2}]', '{"a.png": 5}'),
        '[{"x": 1, "y": 2, "color": "no colour"}]',
        *('[{"x": 1, "y": 2, "color": [1, 2]}]', '[{"x": 1, "y": 2, "color": [1, 2, 300]}]'),
        '[{"x": "left", "y": 2, "color": [1, 2, 3]}]',
        '[{"x": 1, "y": 2, "color": [1e999, 0, 0]}]',
        '[{"x": 1, "y": 2, "color": [NaN, 0, 0]}]',
        '[{"x": 1, "y": 2, "color": [0.9, 0.2, 0.2]}]',
        f'[{{"x": 1{"0" * 400}, "y": 2, "color": [1, 2, 3]}}]',
    ],
)
def test_a_file_that_holds_something_else_is_named(tmp_path, content):
    file = tmp_path / 'hints.json'
    file.write_text(content)
    with pytest.raises(UserError, match=str(file)):
        hints_lib.read(file)


def test_photographs_get_their_own_hints_at_every_size():
    gray = np.full((40, 60), 128, np.uint8)
    hints = [[Hint(10, 10, (200, 40, 60))], [], [(30, 20, '#2040c0')]]
    for size in (32, (32, 48)):
        results = colorize([gray] * 3, Echo(), {}, size, batch_size=2, hints=hints)
        for result, one in zip(results, hints, strict=True):
            lab = skimage_color.rgb2lab(result)[..., 1:].mean((0, 1))
            wanted = ab_of(hints_lib.parse(one)[0].color) if one else np.zeros(2)
            np.testing.assert_allclose(lab, wanted, atol=0.3)  # 8 bits


def test_a_network_without_hints_refuses_them():
    gray = np.full((40, 60), 128, np.uint8)
    with pytest.raises(UserError, match=r'takes no hints: leave them out'):
        colorize([gray], Echo(hints=False), {}, 32, hints=[[Hint(1, 1, (0, 0, 0))]])


def test_a_file_of_a_windows_editor_is_read_and_one_nested_too_deep_is_refused(tmp_path):
    file = tmp_path / 'h.json'
    file.write_bytes('[{"x": 1, "y": 2, "color": "#010203"}]'.encode('utf-8-sig'))
    assert hints_lib.read(file) == {'': (Hint(1.0, 2.0, (1, 2, 3)),)}
    file.write_text('[' * 100_000)
    with pytest.raises(UserError, match=r'is not JSON .* correct the file'):
        hints_lib.read(file)
