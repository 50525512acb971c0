"""The weights inside the package: what they do, how they are read, and that they are shipped."""

import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image
from skimage import data
from skimage.color import lab2rgb, rgb2lab
from skimage.metrics import peak_signal_noise_ratio

import chromagan_jax.colorize as colorize
from chromagan_jax import config as config_lib
from chromagan_jax import sharding
from chromagan_jax.config.postprocess import PostProcess
from chromagan_jax.data.sources import make_source
from chromagan_jax.errors import UserError
from chromagan_jax.gan import checkpoints, released
from chromagan_jax.gan import state as state_lib
from chromagan_jax.gan.model import make_model
from chromagan_jax.inference import predictor

ROOT = Path(__file__).parents[2]
FILES = {'generator.safetensors', 'config.json', 'log.jsonl', 'MODEL_CARD.md', 'LICENSE'}
# Floors of the released weights on photographs of the built-in sample, means over them at their
# full resolution; to be set anew with new weights.
# Measured: PSNR 22.10 dB, gray 17.11; colorfulness 49.9 of 62.5.
SHOWN = ('astronaut.png', 'chelsea.png', 'coffee.png')  # day and indoors; a night sky is guessed
LEAST_PSNR = 22.0
LEAST_GAIN = 4.9  # dB over the gray picture
LEAST_COLORFULNESS = 49.5


@pytest.fixture(scope='module')
def network():
    """As the command loads it, on one device."""
    return released.load(sharding.make_mesh(devices=jax.devices()[:1]))


@pytest.fixture
def folder(tmp_path):
    """A copy of the release."""
    return Path(shutil.copytree(released.WEIGHTS, tmp_path / 'weights'))


def described(folder):
    return json.loads((folder / 'config.json').read_text())


# What they do


def colorfulness(rgb):
    """Of Hasler and Suesstrunk, here in NumPy alone."""
    red, green, blue = np.moveaxis(rgb.astype(float), -1, 0)
    rg, yb = red - green, (red + green) / 2 - blue
    return np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean())


def test_another_release_is_loaded_by_its_folder_and_has_no_checkpoints(folder):
    trained = predictor.load(str(folder))
    assert (trained.title, trained.step) == (str(folder), described(folder)['step'])
    jax.tree.map(np.testing.assert_array_equal, trained.variables, predictor.load().variables)
    with pytest.raises(UserError, match='is a release and has no checkpoints: leave out'):
        predictor.load(str(folder), 'best')


@pytest.mark.slow
def test_the_command_colours_photographs_with_the_released_weights_and_better_than_gray(
    tmp_path, monkeypatch, capsys
):
    def refuse(*arguments):
        raise AssertionError('a checkpoint was opened')

    for name in ('load', 'load_generator'):
        monkeypatch.setattr(checkpoints, name, refuse)
    source = make_source('sample')
    shown = [i for i in range(len(source)) if source.name(i) in SHOWN]
    assert len(shown) == len(SHOWN)
    for i in shown:
        (tmp_path / source.name(i)).write_bytes(source[i]['image'])
    paths = [str(tmp_path / name) for name in SHOWN]
    assert colorize.main(['', f'--output={tmp_path / "out"}', *paths]) == 0
    note = described(released.WEIGHTS)
    assert capsys.readouterr().err.startswith(
        f'the released weights, step {note["step"]}, at {note["config"]["eval"]["size"]} px into '
        f'{tmp_path / "out"}: 3 to do\n'
    )
    scores = []
    for path in paths:
        rgb = np.asarray(Image.open(path).convert('RGB'))
        result = np.asarray(Image.open(tmp_path / 'out' / Path(path).name))
        gray = (lab2rgb(rgb2lab(rgb) * [1, 0, 0]) * 255).round().astype(np.uint8)
        psnr = [peak_signal_noise_ratio(rgb, other) for other in (result, gray)]
        scores.append((*psnr, colorfulness(result), colorfulness(rgb)))
    psnr, of_gray, colors, of_originals = np.mean(scores, axis=0)
    found = (
        f'PSNR {psnr:.2f} dB, gray {of_gray:.2f}; colorfulness {colors:.1f} of {of_originals:.1f}'
    )
    assert psnr > LEAST_PSNR, found
    assert psnr > of_gray + LEAST_GAIN, found
    assert colors > LEAST_COLORFULNESS, found


@pytest.mark.slow
def test_the_command_without_a_workdir_writes_what_the_function_computes(network, tmp_path):
    photographs = [data.astronaut()[:90, 150:260], np.asarray(data.camera()[:61, :47])]
    for number, pixels in enumerate(photographs):
        Image.fromarray(pixels).save(tmp_path / f'{number}.png')
    paths = [str(tmp_path / f'{number}.png') for number in range(2)]
    assert colorize.main(['', f'--output={tmp_path / "out"}', *paths]) == 0
    expected = predictor.colorize(photographs, network.generator, network.variables, network.size)
    for number, pixels in enumerate(expected):
        written = np.asarray(Image.open(tmp_path / 'out' / f'{number}.png'))
        np.testing.assert_allclose(written.astype(int), pixels, atol=1)  # another program


@pytest.mark.slow
def test_flags_work_as_they_do_with_a_workdir(network, tmp_path):
    pixels = data.coffee()[:120, :90]
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    flags = ['--saturation=0.5', f'--size={2 * network.size}']
    assert colorize.main(['', f'--output={tmp_path}/out', *flags, f'{tmp_path}/a.png']) == 0
    post = PostProcess(saturation=0.5)
    (expected,) = predictor.colorize(
        [pixels], network.generator, network.variables, 2 * network.size, post=post
    )
    written = np.asarray(Image.open(tmp_path / 'out/a.png'), int)
    np.testing.assert_allclose(written, expected, atol=1)  # another program


# How they are read


def variables_of(small, change=lambda name, value: value):
    """A tiny network's config, and its variables as `change` leaves them."""
    model = make_model(small)
    state = state_lib.create_state(model, small, sharding.make_mesh())
    variables = state_lib.generator_variables(state)
    names = list(released.named(variables))
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(variables)]
    changed = [change(*pair) for pair in zip(names, leaves, strict=True)]
    return variables, jax.tree.unflatten(jax.tree.structure(variables), changed)


def test_what_is_saved_is_read_back_rounded_to_float16(small, tmp_path):
    _, variables = variables_of(small)
    note = {'config': config_lib.to_dict(small), 'step': 7, 'seed': 3}
    released.save(tmp_path, variables, note)
    loaded = released.load(folder=tmp_path)
    assert (loaded.step, loaded.size, loaded.config) == (7, 16, small)
    assert described(tmp_path)['seed'] == 3
    assert jax.tree.structure(loaded.variables) == jax.tree.structure(variables)
    for exact, found in zip(
        jax.tree.leaves(variables), jax.tree.leaves(loaded.variables), strict=True
    ):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, exact.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize('value', [65536.0, -1e9, np.inf, np.nan])
def test_a_value_that_float16_does_not_hold_is_refused_by_name(value, small, tmp_path):
    def spoil(name, leaf):
        return np.full_like(leaf, value) if name == 'params/out/kernel' else leaf

    with pytest.raises(
        UserError, match=r'^params/out/kernel holds the value [^.]* release another'
    ):
        released.save(tmp_path, variables_of(small, spoil)[1], {'config': {}, 'step': 0})
    assert not list(tmp_path.iterdir())


def test_a_transposed_array_is_saved_as_it_reads(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    saved = safetensors.numpy.load(released.encode({'params': {'kernel': array}}))
    np.testing.assert_array_equal(saved['params/kernel'], array)


def test_more_than_20_mb_are_refused(tmp_path):
    assert released.MOST_BYTES == 20_000_000
    variables = {'params': {'kernel': np.zeros(10_000_000, np.float32)}}
    with pytest.raises(
        UserError, match=r'take 20\.0 MB, and 20 MB is the most .*: train a smaller'
    ):
        released.save(tmp_path, variables, {})
    assert not list(tmp_path.iterdir())
    assert len(released.encode({'params': {'kernel': np.zeros(9_999_900)}})) < 20_000_000


@pytest.mark.parametrize('name', ['generator.safetensors', 'config.json'])
@pytest.mark.parametrize('damage', ['missing', 'cut', 'empty', 'flipped'])
def test_missing_and_damaged_files_are_one_sentence(name, damage, folder, tmp_path, monkeypatch):
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    middle = len(content) // 2
    if damage != 'missing':
        changed = content[:middle] + bytes([content[middle] ^ 128]) + content[middle + 1 :]
        path.write_bytes({'cut': content[:middle], 'empty': b'', 'flipped': changed}[damage])
    with pytest.raises(UserError) as caught:
        released.load(folder=folder)
    said = str(caught.value)
    assert said.startswith(f'The released weights in {folder} are missing or damaged (')
    assert said.endswith('): install chromagan_jax again, or name a run with --workdir.')


@pytest.mark.parametrize(
    ('old', 'new'), [(b'[', b'{}'), (b'"config"', b'"konfig"'), (b'lite0', b'lite1'), (b'8', b'9')]
)
def test_a_changed_description_is_one_sentence_of_the_command(
    old, new, tmp_path, monkeypatch, capsys
):
    for path in released.WEIGHTS.glob('*.*'):
        shutil.copy(path, tmp_path)
    path = tmp_path / released.DESCRIPTION
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    monkeypatch.setattr(released, 'WEIGHTS', tmp_path)
    Image.fromarray(data.coffee()[:40, :40]).save(tmp_path / 'a.png')
    assert colorize.main(['', f'--output={tmp_path}/out', f'{tmp_path}/a.png']) == 1
    said = capsys.readouterr().err
    assert said.startswith(f'chromagan_jax: The released weights in {tmp_path} are missing or ')
    assert said.count('\n') == 1


def test_the_command_tells_of_missing_weights_in_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(released, 'WEIGHTS', tmp_path / 'nowhere')
    Image.fromarray(data.coffee()[:40, :40]).save(tmp_path / 'a.png')
    assert colorize.main(['', f'--output={tmp_path}/out', f'{tmp_path}/a.png']) == 1
    said = capsys.readouterr().err
    assert said.startswith(f'chromagan_jax: The released weights in {tmp_path / "nowhere"} are ')
    assert said.count('\n') == 1


def test_arrays_of_another_network_are_refused_by_name(small, tmp_path):
    variables, _ = variables_of(small)
    names = list(released.named(variables))
    right = small.generator
    small.generator = right.clone(width=right.width + 1)
    released.save(tmp_path, variables, {'config': config_lib.to_dict(small), 'step': 0})
    with pytest.raises(UserError, match=r'\(\S+ is \([\d, ]+\), in the network \([\d, ]+\)\)'):
        released.load(folder=tmp_path)
    small.generator = right
    for parts, reason in (
        ({'params': variables['params']}, r'only the network has batch_stats/'),
        ({**variables, 'more': np.zeros(3)}, r'only generator\.safetensors has more'),
    ):
        released.save(tmp_path, parts, {'config': config_lib.to_dict(small), 'step': 0})
        with pytest.raises(UserError, match=reason):
            released.load(folder=tmp_path)
    assert any(name.startswith('batch_stats/') for name in names)


# That they are shipped


def test_what_is_released_fits_what_it_says():
    note = described(released.WEIGHTS)
    path = released.WEIGHTS / 'generator.safetensors'
    assert {path.name for path in released.WEIGHTS.iterdir()} == FILES
    assert note['bytes'] == path.stat().st_size <= released.MOST_BYTES
    card = (released.WEIGHTS / 'MODEL_CARD.md').read_text()
    for heading in ('Use and limits', 'Training data', 'How it was trained', 'Evaluation'):
        assert f'\n## {heading}\n' in card
    for row in note['evaluation']:
        assert re.search(rf'^\| {row["size"]} \| {row["weights"]} \| ', card, re.M)
    assert note['commit'] in card
    notice = (released.WEIGHTS / 'LICENSE').read_text()
    on_squeezenet = note['config']['generator'].get('encoder') == 'squeezenet'
    assert on_squeezenet == ('BSD LICENSE' in notice) == ('`squeezenet`' in notice)
    assert ('EfficientNet-Lite' in notice) == bool(
        note['config']['pretrained']['efficientnet_lite']
    )
    assert notice.startswith('SPDX-License-Identifier: CC-BY-NC-4.0\n')


def test_the_shipped_arrays_fit_their_network(tmp_path):
    folder = tmp_path / 'copy'  # any folder but the package's own is checked
    shutil.copytree(released.WEIGHTS, folder)
    shipped, copied = released.load().variables, released.load(folder=folder).variables
    assert jax.tree.structure(shipped) == jax.tree.structure(copied)
    jax.tree.map(np.testing.assert_array_equal, shipped, copied)


def test_both_sizes_are_scored_and_float16_costs_nothing_where_float32_was_scored_too():
    rows = described(released.WEIGHTS)['evaluation']
    figures = {(row['size'], row['weights']): row for row in rows}
    sizes = {size for size, _ in figures}
    assert sizes >= {128, 256}
    assert all((size, 'float16') in figures for size in sizes)
    exact_sizes = [size for size, weights in figures if weights == 'float32']
    assert exact_sizes
    for size in exact_sizes:
        exact, rounded = figures[size, 'float32'], figures[size, 'float16']
        assert abs(exact['psnr'] - rounded['psnr']) < 0.02
        assert rounded['colorfulness'] == pytest.approx(exact['colorfulness'], rel=0.003)


def test_the_release_makes_smaller_errors_and_fewer_blotches_than_the_one_it_started_from():
    note = described(released.WEIGHTS)
    new, old = (
        {row['size']: row for row in rows if row['weights'] == 'float16'}
        for rows in (note['evaluation'], note['started_from'][0]['evaluation'])
    )
    for size in (128, 256):
        assert new[size]['psnr'] > old[size]['psnr']
        assert new[size]['ab_mae'] < old[size]['ab_mae']
        assert new[size]['blotchy_share'] < old[size]['blotchy_share']


def test_no_text_of_the_release_holds_a_path_of_a_machine():
    for path in released.WEIGHTS.iterdir():
        if path.name != 'generator.safetensors':
            text = path.read_text()
            assert not re.search(r'(?<![\w:/.*])/[A-Za-z_.]\w*/', text), path.name
            assert not re.search(r'~/|[A-Z]:\\|file:', text), path.name


# How they are written


@pytest.mark.parametrize('when', ['encoding', 'writing', 'renaming'])
def test_a_write_that_fails_leaves_the_release_before_with_its_card(when, folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    old, note = released.load(folder=folder), described(folder)
    variables = jax.tree.map(lambda leaf: 2 * leaf, old.variables)
    texts = {'MODEL_CARD.md': 'New.', 'LICENSE': 'New.', 'log.jsonl': '{}'}
    number = 0

    def fail(*_):
        nonlocal number
        number += 1
        if number == {'writing': 4, 'renaming': 1}[when]:
            raise OSError(28, 'No space left on device')

    expected = ValueError if when == 'encoding' else UserError
    if when == 'encoding':
        note['evaluation'][0]['psnr'] = np.nan
    elif when == 'writing':
        monkeypatch.setattr(released.os, 'fsync', fail)
    else:
        monkeypatch.setattr(Path, 'replace', fail)
    with pytest.raises(expected):
        released.save(folder, variables, note, texts)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    released.load(folder=folder)


def test_the_arrays_and_their_description_are_renamed_last_and_together(folder, monkeypatch):
    order, replace = [], Path.replace
    renamed = lambda self, to: (order.append(to.name), replace(self, to))
    monkeypatch.setattr(Path, 'replace', renamed)
    trained = released.load(folder=folder)
    texts = {'MODEL_CARD.md': 'New.', 'LICENSE': 'New.'}
    released.save(folder, trained.variables, described(folder), texts)
    assert order == ['MODEL_CARD.md', 'LICENSE', 'generator.safetensors', 'config.json']
    assert (folder / 'MODEL_CARD.md').read_text() == 'New.'
    assert {path.name for path in folder.iterdir()} == FILES
    released.load(folder=folder)
