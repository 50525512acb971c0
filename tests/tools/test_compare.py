"""The comparison of systems: run once through its command, stopped on the way, and taken apart."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from PIL import Image
from skimage import data
from skimage.color import lab2rgb, rgb2lab
from skimage.metrics import peak_signal_noise_ratio

from chromagan_jax.errors import UserError
from chromagan_jax.gan import checkpoints
from tools import compare, table

ROOT = Path(__file__).parents[2]
SIZE, BATCH = 16, 2
STEPS = 100
TINY = (
    '--config.generator.width=4',
    '--config.generator.depth=3',
    '--config.discriminator.width=4',
    '--config.discriminator.layers=1',
    '--config.log_every=1',
)


def arguments(folder, *more):
    named = (f'--train={folder / "train"}', f'--val={folder / "val"}', f'--output={folder / "out"}')
    return [*named, f'--size={SIZE}', f'--batch_size={BATCH}', '--minutes=0.08', *more, '--', *TINY]


def start(folder, *more):
    """The command, on one device."""
    return subprocess.Popen(
        [sys.executable, '-m', 'tools.compare', *arguments(folder, *more)],
        cwd=ROOT,
        env=os.environ | {'XLA_FLAGS': '--xla_backend_optimization_level=0'},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process, path, text):
    while not (path.exists() and text in path.read_text()):
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(process.communicate()[1])


@pytest.fixture(scope='module')
def stopped(tmp_path_factory):
    """Photographs, and a comparison that was stopped while `base` was trained.

    The rate depends on what else the machine does, and so does how many steps are left at the stop:
    a first start measures it, and is given other steps.
    """
    folder = tmp_path_factory.mktemp('compare')
    squares = [data.astronaut()[:96, :128], data.coffee()[:200, :160], data.chelsea()[80:, 90:]]
    for name, pixels in zip(('a.png', 'b.png', 'more/a.png'), squares, strict=True):
        for source in ('train', 'val'):
            path = folder / source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    base = folder / 'out/base'
    stop_at(folder, base / 'rate.json', '"steps"')
    measured = read(base / 'rate.json')
    (base / 'rate.json').write_text(json.dumps(measured | {'steps': STEPS}))
    shutil.rmtree(base / 'run', ignore_errors=True)
    said = stop_at(folder, base / 'log.txt', f'\nstep 2/{STEPS}')
    return Stopped(folder, said, checkpoints.kept_steps(base / 'run'), measured)


class Stopped(NamedTuple):
    folder: Path
    said: str
    kept: list[int]
    measured: dict[str, Any]


def stop_at(folder, path, text):
    """Starts the command and stops it once a file holds a text; returns what it said."""
    process = start(folder, '--systems=base')
    wait_for(process, path, text)
    process.terminate()
    said = process.communicate()[1]
    assert process.returncode == 75, said
    return said


@pytest.fixture(scope='module')
def finished(stopped):
    """The same, started again with a system more that does not exist: (folder, said)."""
    process = start(stopped.folder, '--systems=nonsense,base')
    said = process.communicate()[1]
    assert process.returncode == 1, said
    return stopped[0], said


@pytest.fixture
def call(monkeypatch, capsys):
    """The command in this process, which may start no other: (exit code, what it said)."""

    def forbidden(*arguments):
        raise AssertionError(f'started {arguments}')

    monkeypatch.setattr(compare, 'run', forbidden)
    monkeypatch.setattr(compare.signal, 'signal', lambda *arguments: None)

    def run(argv):
        return compare.main(argv), capsys.readouterr().err

    return run


def read(path):
    return json.loads(path.read_text())


def rows_of(out):
    return {row['system']: row for row in read(out / 'table.json')['rows']}


def scores_of(out):
    return json.loads((out / 'base/run/metrics_eval.jsonl').read_text().splitlines()[-1])


# The whole


@pytest.mark.slow
def test_a_stopped_comparison_goes_on_with_the_same_steps_and_measures_nothing_again(
    stopped, finished
):
    assert stopped.said.splitlines()[-1] == 'compare: stopped: the same command resumes'
    out = stopped.folder / 'out'
    assert read(out / 'base/rate.json') == stopped.measured | {'steps': STEPS}
    assert 2 <= stopped.kept[-1] < STEPS
    log = (out / 'base/log.txt').read_text()
    assert f'resumed from step {stopped.kept[-1]}\n' in log
    assert log.count('-m benchmarks.benchmark') == 1
    assert checkpoints.kept_steps(out / 'base/run')[-1] == STEPS


@pytest.mark.slow
def test_the_rate_is_that_of_the_train_step(stopped):
    rate = stopped.measured
    assert rate['name'] == 'train_step'
    assert rate['steps'] == max(2, round(0.08 * 60 * rate['images_per_second'] / BATCH))
    assert rate['processor']


@pytest.mark.parametrize(('speed', 'steps'), [(25.0, 60), (0.1, 2)])
def test_the_steps_are_those_that_the_measured_rate_has_in_the_minutes(
    speed, steps, tmp_path, monkeypatch
):
    line = {'name': 'train_step', 'images_per_second': speed, 'batch_size': 2, 'device': 'TPU'}
    monkeypatch.setattr(compare, 'run', lambda *arguments: json.dumps(line))
    rate = compare.measure(tmp_path, [], 0.08)
    assert rate == read(tmp_path / 'rate.json') == line | {'processor': 'TPU', 'steps': steps}


@pytest.mark.slow
def test_a_system_that_fails_is_named_and_the_others_go_on(finished):
    lines = finished[1].splitlines()
    assert lines[0].startswith('compare: nonsense failed: There is no system nonsense: choose from')
    assert any(line.startswith('compare: base: step ') for line in lines)
    assert lines[-1] == 'compare: failed: nonsense'
    assert list(rows_of(finished[0] / 'out')) == ['gray', 'base']


@pytest.mark.slow
def test_the_figures_are_those_of_the_evaluation(finished):
    out = finished[0] / 'out'
    scores, rows = scores_of(out), rows_of(out)
    names = ('psnr', 'ssim', 'ab_mae', 'ab_histogram')
    blotches = ('blotchiness', 'blotchy_share')
    for name in (*names, *blotches, 'colorfulness', 'colorfulness_gap'):
        assert rows['base'][name] == scores[f'eval/{name}']
    for name in names:
        assert rows['gray'][name] == scores[f'eval/{name}_gray']
    for name in ('colorfulness', *blotches):
        assert rows['gray'][name] == 0
    assert rows['gray']['colorfulness_gap'] == scores['eval/colorfulness_original']
    heading, rule, gray, base = (
        [cell.strip() for cell in line.strip('|').split('|')]
        for line in (out / 'table.md').read_text().splitlines()[:4]
    )
    assert len(heading) == len(rule) == len(gray) == len(base) == 16
    assert gray[heading.index('PSNR, dB')] == f'{scores["eval/psnr_gray"]:.2f}'
    assert base[heading.index('SSIM')] == f'{scores["eval/ssim"]:.3f}'
    assert gray[heading.index('updates')] == ''


@pytest.mark.slow
def test_a_row_says_what_was_trained_and_for_how_long(finished):
    out = finished[0] / 'out'
    run = checkpoints.load(out / 'base/run')
    row = rows_of(out)['base']
    for kind, network in (
        ('generator', run.state.generator),
        ('discriminator', run.state.discriminator),
    ):
        sizes = [np.prod(leaf.shape) for leaf in jax.tree.leaves(network.params)]
        assert row[f'{kind}_parameters'] == sum(sizes)
    assert row['weights'] == 'EMA'  # base keeps a moving average
    assert row['updates'] == int(run.state.step)
    assert row['images_seen'] == BATCH * row['updates']
    assert row['photographs'] == 3
    assert row['images_per_second'] == read(out / 'base/rate.json')['images_per_second']
    note = (out / 'table.md').read_text().splitlines()[-1]
    assert 'of 0.08 planned, at 16 px, batch 2, on 3 photographs' in note
    assert row['processor'] in note
    assert note.endswith(f'jax {jax.__version__}.')


@pytest.mark.slow
def test_the_minutes_leave_out_what_is_no_training(finished, tmp_path):
    out = shutil.copytree(finished[0] / 'out', tmp_path / 'out')
    lines = [
        {'step': 20, 'images_per_second': 8.0},
        {'step': 30, 'eval/psnr': 20.0},
        {'step': 45, 'images_per_second': 5.0},  # after a stop at 30: the log's next line
        {'step': 46, 'images_per_second': 4.0},
    ]
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    (out / 'base/run/metrics.jsonl').write_text(text)
    table.write_table(out)
    assert rows_of(out)['base']['minutes'] * 60 == pytest.approx(BATCH * (20 / 8 + 25 / 5 + 1 / 4))


@pytest.mark.slow
def test_raw_weights_are_called_so(finished, tmp_path):
    out = shutil.copytree(finished[0] / 'out', tmp_path / 'out')
    described = read(out / 'base/run/config.json')
    described['config']['ema_decay'] = 0.0
    (out / 'base/run/config.json').write_text(json.dumps(described))
    table.write_table(out)
    assert rows_of(out)['base']['weights'] == 'raw'


@pytest.mark.slow
def test_the_photographs_are_cut_as_the_evaluation_cuts_them(finished):
    out = finished[0] / 'out'
    paths = sorted((out / 'photographs').glob('*.png'))
    assert [path.name for path in paths] == ['000_a.png', '001_b.png', '002_a.png']
    values = []
    for path in paths:
        rgb = np.asarray(Image.open(path)) / 255
        gray = lab2rgb(rgb2lab(rgb) * [1, 0, 0])
        values.append(peak_signal_noise_ratio(rgb, np.round(gray * 255) / 255, data_range=1))
    assert np.mean(values) == pytest.approx(scores_of(out)['eval/psnr_gray'], abs=0.01)


# Started again, in this process


@pytest.mark.slow
def test_what_is_done_is_not_done_again(finished, call):
    folder = finished[0]
    (folder / 'out/table.md').unlink()
    before = {p: p.stat().st_mtime_ns for p in (folder / 'out/base').rglob('*')}
    code, said = call(arguments(folder, '--systems=base'))
    assert code == 0, said
    assert {p: p.stat().st_mtime_ns for p in (folder / 'out/base').rglob('*')} == before
    assert (folder / 'out/table.md').exists()


@pytest.mark.slow
def test_table_compares_what_there_is(finished, call, tmp_path):
    out = shutil.copytree(finished[0] / 'out', tmp_path / 'out')
    tables = {path.name: path.read_bytes() for path in out.glob('table.*')}
    assert set(tables) == {'table.md', 'table.json', 'table.jpg'}
    for name in tables:
        (out / name).unlink()
    code, said = call(['--table', f'--output={out}'])
    assert code == 0, said
    assert {path.name: path.read_bytes() for path in out.glob('table.*')} == tables


@pytest.mark.slow
def test_a_system_that_is_not_scored_to_the_end_is_left_out(finished, call, tmp_path):
    out = shutil.copytree(finished[0] / 'out', tmp_path / 'out')
    shutil.copytree(out / 'base', out / 'pix2pix')
    rate = read(out / 'pix2pix/rate.json')
    (out / 'pix2pix/rate.json').write_text(json.dumps(rate | {'steps': rate['steps'] + 1}))
    _, said = call(['--table', f'--output={out}'])
    assert 'not in the table: pix2pix\n' in said
    assert list(rows_of(out)) == ['gray', 'base']


@pytest.mark.slow
def test_systems_stand_in_the_order_of_the_references(finished, tmp_path):
    out = shutil.copytree(finished[0] / 'out', tmp_path / 'out')
    for name in ('another', 'pix2pix', 'chromatic_dreams'):
        shutil.copytree(out / 'base', out / name)
    table.write_table(out)
    assert list(rows_of(out)) == ['gray', 'base', 'chromatic_dreams', 'pix2pix', 'another']


@pytest.mark.slow
def test_other_settings_are_refused_and_change_nothing(finished, call):
    folder = finished[0]
    argv = arguments(folder, '--systems=base')
    argv[argv.index('--minutes=0.08')] = '--minutes=5'
    before = {p: p.stat().st_mtime_ns for p in (folder / 'out').rglob('*')}
    code, said = call(argv)
    assert code == 1
    assert 'was started with 0.08 for --minutes, not 5.0: set it back' in said
    code, said = call([*arguments(folder), '--config.ema_decay=0'])
    assert code == 1
    assert 'for the arguments after --' in said
    assert {p: p.stat().st_mtime_ns for p in (folder / 'out').rglob('*')} == before


@pytest.mark.parametrize(
    ('argv', 'sentence'),
    [
        (['--val=v', '--output=o'], '--train is missing: add --train=DIR.'),
        (['--table'], '--output is missing: add --output=DIR.'),
        (
            ['--train=t', '--val=v', '--output=o', '--minutes=-1'],
            '--minutes must be 0 or more, not -1.0.',
        ),
        (
            ['--train=t', '--val=v', '--output=o', '--minutes=nan'],
            '--minutes must be 0 or more, not nan.',
        ),
        (['--train=t', '--val=v', '--output=o', '--size=0'], '--size must be 1 or more, not 0.'),
        (['--trian=t'], 'unrecognized arguments: --trian=t: --help lists the flags.'),
        (
            ['--table', '--output=o'],
            'o holds no trained and scored system: run without --table.',
        ),
        (
            ['--train=t', '--val=v', '--output=o'],
            'v is no folder: name a folder of photographs with --val.',
        ),
    ],
)
def test_a_mistake_is_told_in_one_sentence(argv, sentence, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call(argv) == (1, f'compare: {sentence}\n')


# Parts


def test_photographs_are_picked_evenly_or_named_and_others_removed(tmp_path):
    for number in range(10):
        path = tmp_path / 'val' / f'{number}.png'
        path.parent.mkdir(exist_ok=True)
        Image.new('RGB', (20, 30), (20 * number, 0, 0)).save(path)
    chosen = tmp_path / 'photographs'

    def names(*asked):
        compare.choose_photographs(chosen, tmp_path / 'val', asked, SIZE)
        return sorted(path.name for path in chosen.glob('*.png'))

    assert names('4') == ['000_0.png', '001_2.png', '002_5.png', '003_7.png']
    assert len(names('99')) == 10
    two = [str(tmp_path / 'val' / name) for name in ('9.png', '3.png')]
    assert names(*two) == ['000_9.png', '001_3.png']
    assert Image.open(chosen / '000_9.png').getpixel((0, 0)) == (180, 0, 0)
    (tmp_path / 'val/5.png').write_text('no image')
    with pytest.raises(UserError, match=r'5\.png cannot be read'):
        names('10')
    assert len(list(chosen.glob('*.png'))) == 2


def test_files_of_somebody_else_beside_the_photographs_are_refused_and_stay(tmp_path, call):
    for name in ('train/a.png', 'val/a.png', 'photographs/mine.png', 'photographs/000_a.png'):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new('RGB', (20, 30), (len(name), 0, 0)).save(path)
    folder = tmp_path / 'photographs'
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    argv = [f'--{name}={tmp_path / name}' for name in ('train', 'val')]
    argv += [f'--output={tmp_path}', '--systems=']
    for name in list(before):
        code, said = call(argv)
        assert code == 1
        assert 'was not written by this command: move it, or choose another --output.' in said
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        (folder / name).unlink()
        del before[name]
    assert 'holds no trained' in call(argv)[1]
    assert list(folder.glob('*.png')) == [folder / '000_a.png']
    (folder / '.compare.json').unlink()  # as an older version left it
    assert 'holds no trained' in call(argv)[1]
    assert (folder / '.compare.json').exists()


def test_the_photographs_of_an_older_command_give_way_to_those_of_a_newer_one(tmp_path):
    for name in 'ab':
        path = tmp_path / 'val' / f'{name}.png'
        path.parent.mkdir(exist_ok=True)
        Image.new('RGB', (20, 30), (ord(name), 0, 0)).save(path)
        compare.choose_photographs(tmp_path / 'out', tmp_path, [str(path)], SIZE)
        assert [path.name for path in (tmp_path / 'out').glob('*.png')] == [f'000_{name}.png']


ROUNDS = 30
WRITER = """
import sys
from pathlib import Path
from tools import compare
print('ready', flush=True)
sys.stdin.readline()
for number in range(%d):
    out = Path(sys.argv[1]) / str(number)
    compare.claim(out / 'compare.json', {'size': 16})
    compare.choose_photographs(out / 'photographs', Path(sys.argv[1]), [sys.argv[2]], 16)
"""


def test_processes_that_start_at_once_share_a_folder(tmp_path):
    photograph = tmp_path / 'a.png'
    Image.fromarray(data.astronaut()[:16, :16]).save(photograph)
    command = [sys.executable, '-c', WRITER % ROUNDS, str(tmp_path), str(photograph)]
    pipes = dict.fromkeys(('stdin', 'stdout', 'stderr'), subprocess.PIPE)
    started = [subprocess.Popen(command, cwd=ROOT, text=True, **pipes) for _ in range(3)]
    assert [process.stdout.readline() for process in started] == ['ready\n'] * 3
    for process in started:
        process.stdin.write('go\n')
        process.stdin.flush()
    assert [(process.communicate()[1], process.returncode) for process in started] == [('', 0)] * 3
    for number in range(ROUNDS):
        assert json.loads((tmp_path / str(number) / 'compare.json').read_text()) == {'size': 16}
        assert Image.open(tmp_path / str(number) / 'photographs/000_a.png').size == (16, 16)


def test_a_measure_that_no_row_has_takes_no_column():
    settings = {'batch_size': 4, 'minutes': 1.0, 'size': 128}
    row = {'system': 'base', 'processor': 'a CPU', 'jax': '1', 'images': 5.0, 'photographs': 6}
    heading = lambda *rows: table.markdown(rows, settings).splitlines()[0]
    assert heading({'system': 'gray'}, row) == '| system |'
    measured = row | {'ab_histogram': 0.5, 'frechet_of_gray': 0.25, 'blotchy_share': 0.03}
    text = table.markdown([{'system': 'gray', 'frechet_of_gray': 1.0}, measured], settings)
    assert text.splitlines()[0] == '| system | ab histogram | Frechet / gray | blotchy |'
    assert text.splitlines()[2:4] == ['| gray |  | 1.00 |  |', '| base | 0.500 | 0.25 | 3.0% |']


def save(folder, pictures):
    folder.mkdir(parents=True)
    for number, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(folder / f'{number}.png')


def solid(*colors):
    return [np.full((200, 200, 3), color, np.uint8) for color in colors]


def test_the_picture_has_a_row_a_photograph_and_a_column_a_system(tmp_path):
    originals, results = [(200, 60, 60), (60, 90, 200)], [(120, 110, 100), (100, 120, 140)]
    save(tmp_path / 'photographs', solid(*originals))
    save(tmp_path / 'base/colorized', solid(*results))
    save(tmp_path / 'pix2pix/colorized', solid(*results[:1]))  # not all of them
    (tmp_path / 'table.jpg').write_bytes(table.draw(tmp_path, ['base', 'pix2pix']))
    picture = Image.open(tmp_path / 'table.jpg')
    step = table.CELL + 8
    assert 3 * step < picture.width < 4 * step
    grays = [lab2rgb(rgb2lab(np.array(rgb) / 255) * [1, 0, 0]) * 255 for rgb in originals]
    for row in range(2):
        for column, colors in enumerate((grays, results, originals)):
            x = 8 + column * step + table.CELL // 2
            y = picture.height - 8 - (2 - row) * step + table.CELL // 2
            np.testing.assert_allclose(picture.getpixel((x, y)), colors[row], atol=4)


def test_a_large_picture_is_compressed(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (8, 200, 200, 3), np.uint8)
    save(tmp_path / 'photographs', noise)
    systems = ['base', 'pix2pix', 'restore']
    for name in systems:
        save(tmp_path / name / 'colorized', noise)
    assert len(table.draw(tmp_path, systems)) <= table.PICTURE_BYTES


def test_rates_that_fall_on_a_plateau_get_ten_evaluations():
    assert compare.plateau('image_colorizer', 95) == ['--config.eval_every=9']
    assert compare.plateau('image_colorizer', 4) == ['--config.eval_every=1']
    assert compare.plateau('base', 95) == []


def test_every_system_has_a_config():
    assert [name for name in compare.SYSTEMS if not (ROOT / f'configs/{name}.py').exists()] == []


@pytest.mark.parametrize(('name', 'starts'), [('best:seed', True), ('pix2pix', False)])
def test_a_system_with_a_pretrained_encoder_starts_from_its_weights(name, starts):
    args = compare.parse([*('--train=a', '--val=b', '--output=c'), '--encoder=lite0.safetensors'])
    flags = compare.overrides(name, args, ['--config.seed=3'])
    module, colon, changes = name.partition(':')
    assert flags[0].endswith(f'configs/{module}.py{colon}{changes}')
    assert ('--config.pretrained.efficientnet_lite=lite0.safetensors' in flags) == starts
    assert flags[-1] == '--config.seed=3'
