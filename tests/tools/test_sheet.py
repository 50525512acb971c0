"""The sheet of photographs for eyes, with the released weights and with those of a run."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import skimage.data
from PIL import Image

from chromagan_jax.inference.predictor import colorize, load
from chromagan_jax.utils import writers
from tools import sheet

CELL = 32


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Five photographs: squares of one that get brighter from name to name."""
    folder = tmp_path_factory.mktemp('photographs')
    for i in range(5):
        pixels = skimage.data.astronaut()[40 * i : 40 * i + 150, 100:250]
        Image.fromarray(pixels).save(folder / f'{i}.png')
    return folder


@pytest.mark.slow
def test_a_sheet_shows_gray_what_colorize_makes_and_the_original(folder, tmp_path):
    assert (
        sheet.main([f'--output={tmp_path / "s.jpg"}', f'--cell={CELL}', str(folder / '0.png')]) == 0
    )
    trained, pixels = load(), np.asarray(Image.open(folder / '0.png'))
    (made,) = colorize([pixels], trained.generator, trained.variables, trained.size)
    row = [sheet.middle(picture, CELL) for picture in (sheet.gray(pixels), made, pixels)]
    below = ((0, sheet.GAP), (0, 0), (0, 0))
    row = [np.pad(picture, below, constant_values=255) for picture in row]
    expected = writers.sample_grid([row], ['gray', 'colorized', 'original']).astype(float)
    shown = np.asarray(Image.open(tmp_path / 's.jpg'), float)
    assert shown.shape == expected.shape
    assert np.abs(shown - expected).mean() < 3  # what a JPEG of quality 88 changes
    assert np.abs(row[1].astype(int) - row[0]).mean() > 3  # it is in colour


def test_the_gray_column_is_gray_and_as_light_as_the_photograph():
    pixels = skimage.data.astronaut()[:64, :64]
    gray = sheet.gray(pixels)
    assert np.ptp(gray.astype(int), axis=2).max() <= 1
    lightness = skimage.color.rgb2lab(pixels)[..., 0]
    assert np.abs(skimage.color.rgb2lab(gray)[..., 0] - lightness).max() < 0.6


def test_of_a_folder_photographs_are_picked_evenly_and_files_are_kept(folder):
    whole = sheet.read(str(folder), each=9)
    assert len(whole) == 5
    for got, wanted in zip(sheet.read(str(folder), each=2), (whole[0], whole[2]), strict=True):
        np.testing.assert_array_equal(got, wanted)
    (last,) = sheet.read(str(folder / '4.png'), each=2)
    np.testing.assert_array_equal(last, whole[4])
    assert len(sheet.read('sample', each=3)) == 3


@pytest.mark.parametrize(('count', 'blocks'), [(1, 1), (5, 2), (13, 3)])
def test_many_photographs_stand_in_blocks_side_by_side_each_once(count, blocks, monkeypatch):
    """Each of one colour, darker than the labels, whose channels the network swaps."""
    images = [np.full((CELL, CELL, 3), (40, 4 * i, 0), np.uint8) for i in range(count)]
    swap = lambda images, *_: [image[..., ::-1] for image in images]
    monkeypatch.setattr(sheet, 'colorize', swap)
    monkeypatch.setattr(sheet, 'jpeg', lambda pixels: pixels)
    network = SimpleNamespace(generator=None, variables=None, size=CELL)
    shown = sheet.draw(images, {'swapped': network}, CELL)
    columns = [[sheet.gray(image) for image in images], swap(images), images]
    places = np.array([[place(shown, image[0, 0]) for image in column] for column in columns])
    across, down = places[..., 1], places[..., 0]
    assert (down == down[0]).all()  # a photograph stands in one row
    width = across[1, 0] - across[0, 0]
    assert width >= CELL
    assert (across == across[0] + width * np.arange(3)[:, None]).all()
    starts, tops = np.unique(across[0]), np.unique(down[0])
    assert len(starts) == blocks
    assert (np.diff(starts) >= 3 * width).all()
    assert (np.diff(tops) >= CELL).all()
    for number in range(count):
        block, row = divmod(number, len(tops))
        assert (across[0, number], down[0, number]) == (starts[block], tops[row])


def place(shown, colour):
    """Row and column at which the only cell of a colour begins."""
    rows, columns = np.nonzero((shown == colour).all(axis=2))
    assert len(rows) == CELL**2
    assert np.ptp(rows) == np.ptp(columns) == CELL - 1
    return rows[0], columns[0]


@pytest.mark.slow
def test_a_column_for_each_run(folder):
    trained = load()
    data = sheet.draw(sheet.read(str(folder), 2), {'a': trained, 'b': trained}, CELL)
    picture = Image.open(io.BytesIO(data))
    lone = Image.open(io.BytesIO(sheet.draw(sheet.read(str(folder), 1), {'a': trained}, CELL)))
    assert picture.width > lone.width
    assert picture.height > lone.height


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (['--output=s.jpg'], 'No photograph is named: add a file or a folder.'),
        (['--output=s.gif', 'a.png'], "--output must be a .jpg file, not 's.gif'."),
        (['--output=s.jpg', '--cell=0', 'a.png'], '--cell must be 1 or more, not 0.'),
        (['--output=s.jpg', 'missing.png'], 'missing.png does not exist'),
        (['--output=s.jpg', '--run=runs/a', 'FILE'], "--run must be NAME=WORKDIR, not 'runs/a'."),
        (['--output=s.jpg', '--run=a=none', 'FILE'], 'none'),
    ],
)
def test_a_mistake_ends_in_a_sentence(arguments, sentence, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert sheet.main([a.replace('FILE', str(folder / '0.png')) for a in arguments]) == 1
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count('\n') == 1


@pytest.mark.slow
def test_whole_photographs_stand_gray_above_what_colorize_makes_of_them(tmp_path):
    wide, high = skimage.data.chelsea()[:200, :300], skimage.data.astronaut()[:300, 150:300]
    for name, pixels in (('wide', wide), ('high', high)):
        Image.fromarray(pixels).save(tmp_path / f'{name}.png')
    paths = [str(tmp_path / f'{name}.png') for name in ('wide', 'high')]
    output = tmp_path / 's.jpg'
    assert sheet.main([f'--output={output}', '--whole', '--cell=60', *paths]) == 0
    shown = np.asarray(Image.open(output), int)
    assert shown.shape == (60 + sheet.GAP + 60, 90 + sheet.GAP + 30, 3)
    above, below = shown[:60, :90], shown[-60:, :90]
    assert np.ptp(above, axis=2).mean() < 1 < 10 < np.ptp(below, axis=2).mean()
    lightness = skimage.color.rgb2lab(shown.astype(np.uint8))[..., 0]
    assert np.abs(lightness[:60, :90] - lightness[-60:, :90]).mean() < 3


@pytest.mark.parametrize(
    ('runs', 'name'), [(['a=x', 'a=y'], 'a'), (['gray=x'], 'gray'), (['original=x'], 'original')]
)
def test_a_name_that_a_column_has_already_is_refused_before_a_run_is_read(
    runs, name, folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(sheet, 'load', lambda workdir: pytest.fail('a run was read'))
    arguments = [f'--output={tmp_path / "s.jpg"}', *(f'--run={run}' for run in runs)]
    assert sheet.main([*arguments, str(folder / '0.png')]) == 1
    said = capsys.readouterr().err
    assert f"There is a column '{name}' already: choose another NAME for --run." in said
    assert said.count('\n') == 1
