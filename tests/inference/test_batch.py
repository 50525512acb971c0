"""Which file becomes which, and a list of them that ends early."""

import numpy as np
import pytest
from PIL import Image
from skimage import data

from chromagan_jax.errors import UserError
from chromagan_jax.inference import batch, files
from tests.data import fuzz

SIZE = 16


def save(path, height=20):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(data.astronaut()[:height, :30]).save(path)
    return path


def gray(small, samples):
    """A network that knows no colours."""
    assert len(samples) == len(small)
    return np.zeros((len(small), SIZE, SIZE, 2), np.float32)


def plan(paths, output, suffix, **options):
    """The jobs of arguments of the command."""
    return batch.plan(files.find(paths, output).photographs, output, suffix, **options)


def test_plan_refuses_to_write_over_a_photograph_or_a_result(tmp_path):
    one, two = (save(tmp_path / folder / 'a.png') for folder in ('one', 'two'))
    with pytest.raises(
        UserError, match=r'one/a\.png and .*two/a\.png would both become .*x/a\.png'
    ):
        plan([str(one), str(two)], tmp_path / 'x', '.png')
    with pytest.raises(UserError, match=r'one/a\.png is a photograph to be read: choose another'):
        plan([str(one)], tmp_path / 'one', '.png')
    with pytest.raises(UserError, match='is both read and written: choose another --output'):
        plan([str(tmp_path / 'one')], tmp_path / 'one', '.jpg')


def test_samples_are_numbered_from_1(tmp_path):
    path = save(tmp_path / 'a.png')
    planned = plan([str(path)], tmp_path / 'x', '.png', samples=2)
    assert [(job.target.name, job.sample) for job in planned] == [('a.1.png', 1), ('a.2.png', 2)]
    (single,) = plan([str(path)], tmp_path / 'x', '.png')
    assert (single.target.name, single.sample) == ('a.png', None)


@pytest.mark.parametrize(('batch_size', 'threads'), [(1, 1), (1, 3), (3, 2)])
def test_once_stopping_no_photograph_is_begun_and_what_the_network_saw_is_written(
    batch_size, threads, tmp_path, capsys
):
    for number in range(12):
        save(tmp_path / f'photos/{number:02}.png', 20 + number)
    planned = plan([str(tmp_path / 'photos')], tmp_path / 'out', '.png')
    seen = []

    def predict(small, samples, hints):
        seen.extend(samples)
        return gray(small, samples)

    asked = iter(range(12))  # once before each photograph is taken up
    counts = batch.colorize_files(
        planned, predict, SIZE, batch_size, threads, stopping=lambda: next(asked) >= 4
    )
    expected = 4 // batch_size * batch_size  # what waits for the rest of its batch is left
    assert counts == (expected, 0)
    assert len(seen) == expected
    written = sorted(path.name for path in (tmp_path / 'out').iterdir())
    assert written == [job.target.name for job in planned[:expected]]
    assert capsys.readouterr().err == ''


def test_stopping_before_the_first_leaves_nothing_behind(tmp_path):
    planned = plan([str(save(tmp_path / 'a.png'))], tmp_path / 'out', '.png')
    assert batch.colorize_files(planned, gray, SIZE, stopping=lambda: True) == (0, 0)
    assert not (tmp_path / 'out').exists()


def test_damaged_files_of_all_kinds_are_named_and_the_run_goes_on(tmp_path, capsys):
    good = [save(tmp_path / f'photos/good{number}.png') for number in range(3)]
    for number, (_, damaged) in enumerate(fuzz.damaged(fuzz.originals(60), 60, 2)):
        (tmp_path / f'photos/{number:02}.jpg').write_bytes(damaged)
    planned = plan([str(tmp_path / 'photos')], tmp_path / 'out', '.png')
    colorized, failed = batch.colorize_files(planned, gray, SIZE, threads=2, max_pixels=10**6)
    assert colorized + failed == 63
    lines = capsys.readouterr().err.splitlines()
    assert sum(' failed: ' in line for line in lines) == failed > 10
    for path in good:
        assert (tmp_path / 'out' / path.name).exists()
