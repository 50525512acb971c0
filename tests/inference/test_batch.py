"""Which file becomes which, and a list of them that ends early."""

import os

import numpy as np
import pytest
from PIL import Image
from skimage import data

from chromagan_jax.config.postprocess import PostProcess
from chromagan_jax.data import decode
from chromagan_jax.inference import batch, encode, files, naming, output, report
from chromagan_jax.inference.conditions import Conditions
from chromagan_jax.inference.encode import Encoding
from chromagan_jax.inference.hints import Hint
from chromagan_jax.inference.memory import InFlight
from tests.data import fuzz

SIZE = 16


def save(path, height=20):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(data.astronaut()[:height, :30]).save(path)
    return path


def gray(small, samples, hints):
    """A network that knows no colours."""
    assert len(samples) == len(small)
    return np.zeros((len(small), SIZE, SIZE, 2), np.float32)


def plan(paths, output, suffix, **options):
    """The jobs of arguments of the command."""
    return naming.plan(files.find(paths, output).photographs, output, suffix, **options)


def test_samples_are_numbered_from_1(tmp_path):
    path = save(tmp_path / 'a.png')
    planned = plan([str(path)], tmp_path / 'x', 'png', samples=2)
    assert [(job.target.name, job.sample) for job in planned] == [('a.1.png', 1), ('a.2.png', 2)]
    (single,) = plan([str(path)], tmp_path / 'x', 'png')
    assert (single.target.name, single.sample) == ('a.png', None)


@pytest.mark.parametrize(('batch_size', 'threads'), [(1, 1), (1, 3), (3, 2)])
def test_once_stopping_no_photograph_is_begun_and_what_the_network_saw_is_written(
    batch_size, threads, tmp_path, capsys
):
    for number in range(12):
        save(tmp_path / f'photos/{number:02}.png', 20 + number)
    planned = plan([str(tmp_path / 'photos')], tmp_path / 'out', 'png')
    seen = []

    def predict(small, samples, hints):
        seen.extend(samples)
        return gray(small, samples, hints)

    asked = iter(range(12))  # once before each photograph is taken up
    counts = batch.colorize_files(
        planned,
        predict,
        SIZE,
        batch_size,
        threads,
        conditions=Conditions(stopping=lambda: next(asked) >= 4),
    )
    expected = 4 // batch_size * batch_size  # what waits for the rest of its batch is left
    assert counts == (expected, 0, 0, 0)
    assert len(seen) == expected
    written = sorted(path.name for path in (tmp_path / 'out').iterdir())
    assert written == [job.target.name for job in planned[:expected]]
    assert capsys.readouterr().err == ''


def test_stopping_before_the_first_leaves_nothing_behind(tmp_path):
    planned = plan([str(save(tmp_path / 'a.png'))], tmp_path / 'out', 'png')
    assert batch.colorize_files(
        planned, gray, SIZE, conditions=Conditions(stopping=lambda: True)
    ) == (0, 0, 0, 0)
    assert not (tmp_path / 'out').exists()


def test_photographs_in_flight_never_exceed_the_bound(tmp_path, monkeypatch):
    for number in range(12):
        save(tmp_path / f'photos/{number:02}.png', 20 + number % 3)  # 600 to 660 pixels
    planned = plan([str(tmp_path / 'photos')], tmp_path / 'out', 'png')
    most, enter = [], InFlight.enter

    def entering(self, pixels):
        enter(self, pixels)
        most.append(self._pixels)

    monkeypatch.setattr(InFlight, 'enter', entering)
    counts = batch.colorize_files(planned, gray, SIZE, 4, 4, conditions=Conditions(1300))
    assert counts == (12, 0, 0, 0)
    assert max(most) <= 1300
    assert max(most) > 1200  # two at once


def test_one_of_exactly_the_bound_is_read_and_a_larger_one_fails(tmp_path, capsys):
    for height in (20, 21):
        save(tmp_path / f'photos/{height}.png', height)
    planned = plan([str(tmp_path / 'photos')], tmp_path / 'out', 'png')
    assert batch.colorize_files(planned, gray, SIZE, conditions=Conditions(600)) == (1, 1, 0, 0)
    assert '21.png failed: 30 x 21 px are more than' in capsys.readouterr().err


def test_a_hint_outside_its_photograph_fails_that_one_alone(tmp_path, capsys):
    for name in 'ab':
        save(tmp_path / f'photos/{name}.png')
    planned = plan([str(tmp_path / 'photos')], tmp_path / 'out', 'png')
    planned[0] = planned[0]._replace(hints=(Hint(30, 5, (0, 0, 0)),))
    assert batch.colorize_files(planned, gray, SIZE) == (1, 1, 0, 0)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(
        'a.png failed: The hint at x=30, y=5 lies outside the photograph of 30 x 20 px: correct it.'
    )
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['b.png']


def test_what_another_run_made_of_a_photograph_of_the_name_is_a_failure(tmp_path, capsys):
    mine, other = save(tmp_path / 'mine/a.png', 20), save(tmp_path / 'other/a.png', 30)
    planned = plan([str(other)], tmp_path / 'out', 'png')
    (tmp_path / 'out').mkdir()
    target = planned[0].target
    for source, counts in ((mine, (0, 1, 0, 0)), (other, (0, 0, 0, 1))):
        target.write_bytes(encode.encode(data.astronaut(), target, source))  # meanwhile
        conditions = Conditions(overwrite=False)
        assert batch.colorize_files(planned, gray, SIZE, conditions=conditions) == counts
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f'{other} failed: {target} was made of another file with this name')


@pytest.mark.parametrize(('dtype', 'channels'), [(np.uint8, 1), (np.uint16, 1), (np.uint8, 3)])
def test_noise_reduction_does_not_change_the_bits(dtype, channels, tmp_path):
    pixels = (data.astronaut()[:20, :30, :channels].squeeze().astype(dtype)) * (
        257 if dtype == np.uint16 else 1
    )
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    planned = plan([str(tmp_path / 'a.png')], tmp_path / 'out', 'png')
    post, encoding = PostProcess(denoise_before=3.0), Encoding(depth=16)
    assert batch.colorize_files(planned, gray, SIZE, post=post, encoding=encoding).colorized == 1
    result = decode.read(planned[0].target, deep=True).pixels
    assert result.dtype == dtype


def test_a_result_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def sync(descriptor):
        fsync(descriptor)
        synced.append((os.fstat(descriptor).st_size, (tmp_path / 'a.png').exists()))

    monkeypatch.setattr(os, 'fsync', sync)
    output.write(tmp_path / 'a.png', [b'x', b'y'])
    assert synced == [(2, False)]


def test_leftovers_of_killed_runs_are_removed_and_files_in_use_are_not(tmp_path):
    (tmp_path / 'deep').mkdir()
    left = tmp_path / f'deep/.0123{output.TEMPORARY}'
    left.write_bytes(b'half')
    with output._temporary(tmp_path) as (used, _):
        output.remove_leftovers(tmp_path)
        assert used.exists()
    assert not used.exists()
    assert not left.exists()
    output.write(tmp_path / 'a/b.png', [b'x', b'y'], times=(0, 10**9))
    assert (tmp_path / 'a/b.png').read_bytes() == b'xy'
    assert (tmp_path / 'a/b.png').stat().st_mtime == 1
    assert [p.name for p in (tmp_path / 'a').iterdir()] == ['b.png']


def test_a_report_is_one_page_that_needs_no_other_file(tmp_path):
    page = report.Report(tmp_path / 'deep/report.html')
    pixels = data.astronaut()
    name = tmp_path / 'a <b> \udcff.png'
    page.add(
        name, tmp_path / 'out/a.png', report.make_preview(pixels[..., 0], pixels), ['a <note>']
    )
    page.fail('c.png: it is damaged')
    page.leave_out('d.png: it is in colour already')
    page.write()
    text = (tmp_path / 'deep/report.html').read_text()
    for words in (
        'a &lt;b&gt; \\xff.png',
        'a &lt;note&gt;',
        '../out/a.png',
        'c.png: it is damaged',
    ):
        assert words in text
    assert text.count('src="data:image/jpeg;base64,') == text.count('src=') == 2
    assert 'http' not in text
    assert '1 colorized, 1 failed, 1 left out' in text
    assert len(text) < 300_000


def test_damaged_files_of_all_kinds_are_named_and_the_run_goes_on(tmp_path, capsys):
    good = [save(tmp_path / f'photos/good{number}.png') for number in range(3)]
    for number, (_, damaged) in enumerate(fuzz.damaged(fuzz.originals(60), 60, 2)):
        (tmp_path / f'photos/{number:02}.jpg').write_bytes(damaged)
    planned = plan([str(tmp_path / 'photos')], tmp_path / 'out', 'png')
    colorized, failed, *_ = batch.colorize_files(
        planned, gray, SIZE, threads=2, conditions=Conditions(10**6)
    )
    assert colorized + failed == 63
    lines = capsys.readouterr().err.splitlines()
    assert sum(' failed: ' in line for line in lines) == failed > 10
    for path in good:
        assert (tmp_path / 'out' / path.name).exists()
