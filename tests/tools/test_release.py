"""A finished run becomes a release: through the command, from real runs, and taken apart."""

import json
import re
import runpy
import shutil
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from skimage import data

from chromagan_jax import config as config_lib
from chromagan_jax import sharding
from chromagan_jax.config import command_line
from chromagan_jax.errors import UserError
from chromagan_jax.gan import checkpoints, released
from chromagan_jax.gan import state as state_lib
from chromagan_jax.gan.state import generator_variables
from chromagan_jax.models.dense import DenseDiscriminator
from chromagan_jax.models.lite_unet import LiteUNet
from chromagan_jax.training import loop
from configs import base
from tools import card, previous, record, release, table
from tools.compare import ROOT

SIZES = [16, 24]


def tiny_config(folder):
    config = base.get_config('tiny')
    config.generator = config.generator.clone(depth=2)
    config.discriminator = config.discriminator.clone(layers=1)
    config.data.size = 16
    config.data.source = str(folder / 'photographs')
    config.eval.source = str(folder / 'held_out')
    config.eval.batch_size = 8
    return config


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """A folder with two runs, the second started from the weights of the first."""
    folder = tmp_path_factory.mktemp('release')
    squares = [data.astronaut()[:96, :128], data.coffee()[:200, :160], data.chelsea()[80:, 90:]]
    for number, pixels in enumerate(squares):
        for source in ('photographs', 'held_out'):
            (folder / source).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(folder / source / f'{source}{number}.png')
    config = tiny_config(folder)
    config.eval_every = config.sample_every = 0
    loop.train_and_evaluate(config, folder / 'first')
    config.eval_every = 2
    config.init_from = str(folder / 'first')
    config.steps, config.loss.weights['l1'] = 3, 50.0
    loop.train_and_evaluate(config, folder / 'second')
    (folder / 'note.md').write_text('Three squares, of which nothing is stated.\n')
    return folder


@pytest.fixture
def call(runs, tmp_path, capsys):
    """The command in this process: (exit code, what it said)."""

    def run(*more, workdir='second', output='out'):
        named = {'workdir': runs / workdir, 'val': runs / 'held_out', 'output': tmp_path / output}
        named |= {'data_note': runs / 'note.md', 'sizes': ','.join(map(str, SIZES))}
        argv = [f'--{name}={value}' for name, value in named.items()]
        return release.main([*argv, *more]), capsys.readouterr().err

    return run


@pytest.fixture(scope='module')
def made(runs, tmp_path_factory):
    """The release of the second run."""
    out = tmp_path_factory.mktemp('made')
    argv = [f'--workdir={runs / "second"}', f'--val={runs / "held_out"}', f'--output={out}']
    assert release.main([*argv, f'--data_note={runs / "note.md"}', '--sizes=16,24']) == 0
    return out


def read(path):
    return json.loads(path.read_text())


# The whole


@pytest.mark.slow
def test_the_release_is_the_newest_generator_rounded_to_float16(runs, made):
    loaded = released.load(folder=made)
    run = checkpoints.load(runs / 'second')
    assert run.state.ema is not None
    assert loaded.step == int(run.state.step) == 3
    exact = released.named(generator_variables(run.state))
    found = released.named(loaded.variables)
    assert list(found) == list(exact)
    for name, leaf in exact.items():
        rounded = np.asarray(leaf).astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(found[name], rounded)
    expected = record.portable(config_lib.to_dict(run.config))
    found, expected = map(json.dumps, (config_lib.to_dict(loaded.config), expected))
    assert json.loads(found) == json.loads(expected)


@pytest.mark.slow
def test_the_figures_are_those_of_the_evaluation(runs, made):
    figures = {
        (row['size'], row['weights']): row for row in read(made / 'config.json')['evaluation']
    }
    names = [(size, name) for size in SIZES for name in ('gray', 'float32', 'float16')]
    assert list(figures) == names
    lines = (runs / 'second/metrics.jsonl').read_text().splitlines()
    of_run = [line for line in map(json.loads, lines) if 'eval/psnr' in line][-1]
    exact, gray = figures[16, 'float32'], figures[16, 'gray']
    blotches = ('blotchiness', 'blotchy_share')
    for name in ('psnr', 'ssim', 'ab_mae', 'colorfulness', 'ab_histogram', *blotches):
        assert exact[name] == pytest.approx(of_run[f'eval/{name}'], rel=1e-5)
    for name in ('psnr', 'ssim', 'ab_mae'):
        assert gray[name] == pytest.approx(of_run[f'eval/{name}_gray'], rel=1e-5)
    assert [gray[name] for name in blotches] == [0, 0]
    rounded = figures[16, 'float16']
    assert rounded['ab_mae'] == pytest.approx(exact['ab_mae'], abs=0.01)
    assert rounded['ab_mae'] != exact['ab_mae']


@pytest.mark.slow
def test_the_card_tells_of_both_runs_and_of_the_data(runs, made):
    text = (made / 'MODEL_CARD.md').read_text()
    assert '\n3, then 3 photographs, run by run.\n\nThree squares, of which nothing' in text
    assert 'On 3 photographs that it was not trained on' in text
    rows = [line for line in text.splitlines() if re.match(r'\| (first|second) ', line)]
    assert [row.split(' | ')[:4] for row in rows] == [
        ['| first', '0', '4', '8'],
        ['| second', '0', '3', '8'],
    ]
    assert '--config.loss.weights.l1=50.0' in text.split('`second`:')[1]
    assert '--config.loss.weights.l1' not in text.split('`second`:')[0]
    count = sum(
        leaf.size for leaf in jax.tree.leaves(released.load(folder=made).variables['params'])
    )
    assert f'{count:,} parameters' in text
    assert len([line for line in text.splitlines() if re.match(r'\| (16|24) ', line)]) == 6
    described = read(made / 'config.json')
    assert described['commit'] in text
    assert [stage['run'] for stage in described['started_from']] == ['first']
    assert (made / 'LICENSE').read_text() == card.NOTICE  # no context, no notice of it


@pytest.mark.slow
def test_the_log_holds_both_runs(runs, made):
    lines = [json.loads(line) for line in (made / 'log.jsonl').read_text().splitlines()]
    for stage, name in enumerate(('first', 'second'), start=1):
        expected = (runs / name / 'metrics.jsonl').read_text().splitlines()
        found = [line for line in lines if line['stage'] == stage]
        assert len(found) == len(expected)
        for short, line in zip(found, map(json.loads, expected), strict=True):
            assert short == pytest.approx({'stage': stage, **line}, rel=1e-5, abs=1e-9)


@pytest.mark.slow
def test_nothing_that_is_written_holds_a_path(runs, made):
    for path in made.iterdir():
        assert str(runs).encode() not in path.read_bytes()
        assert str(Path.home()).encode() + b'/' not in path.read_bytes()
    config = read(made / 'config.json')['config']
    assert (config['data']['source'], config['eval']['source']) == ('photographs', 'held_out')
    assert config['init_from'] == 'first'


@pytest.mark.slow
def test_a_run_whose_origin_is_gone_says_so_and_one_that_moved_is_found(runs, call, tmp_path):
    for name in ('first', 'second'):
        shutil.copytree(runs / name, tmp_path / 'moved' / name)
    described = read(tmp_path / 'moved/second/config.json')
    described['config']['init_from'] = '/elsewhere/first'
    (tmp_path / 'moved/second/config.json').write_text(json.dumps(described))
    names = [stage.name for stage in record.stages(tmp_path / 'moved/second')]
    assert names == ['first', 'second']
    shutil.rmtree(tmp_path / 'moved/first')
    code, said = call(workdir=tmp_path / 'moved/second')
    assert code == 0, said
    text = (tmp_path / 'out/MODEL_CARD.md').read_text()
    assert '`second` was started from weights in `first`, now deleted.' in text
    assert '\n3 photographs.\n' in text


@pytest.mark.slow
def test_photographs_that_were_trained_on_are_called_so(runs, call, tmp_path):
    assert call(f'--val={runs / "photographs"}', '--sizes=16', workdir='first')[0] == 0
    text = (tmp_path / 'out/MODEL_CARD.md').read_text()
    assert 'On 3 photographs of its training, so the scores say nothing about others' in text


@pytest.mark.slow
def test_frechet_distances_are_measured_with_features(features, call, tmp_path):
    assert call(f'--features={features}', '--sizes=32', workdir='first')[0] == 0
    rows = read(tmp_path / 'out/config.json')['evaluation']
    assert [row['weights'] for row in rows if row['frechet_of_gray'] > 0] == [
        'gray',
        'float32',
        'float16',
    ]
    assert 'Frechet / gray' in (tmp_path / 'out/MODEL_CARD.md').read_text()


@pytest.mark.slow
def test_commands_that_were_used_take_the_place_of_those_made(call, tmp_path):
    code, said = call('--command=one', workdir='second')
    assert (code, said) == (
        1,
        'release: --command is given 1 times for 2 stages (first, second): give it once '
        'for each.\n',
    )
    assert call('--command=launch/local.sh one', '--command=two')[0] == 0
    text = (tmp_path / 'out/MODEL_CARD.md').read_text()
    assert '`first`:\n\n```bash\nlaunch/local.sh one\n```\n\n`second`:\n\n```bash\ntwo\n```' in text


@pytest.mark.slow
def test_a_run_from_the_released_weights_keeps_the_texts_of_that_release(
    runs, made, call, tmp_path
):
    shutil.copytree(runs / 'first', tmp_path / 'first')
    described = read(tmp_path / 'first/config.json')
    described['config']['init_from'] = 'released'
    (tmp_path / 'first/config.json').write_text(json.dumps(described))
    code, said = call(f'--previous={made}', '--sizes=16', workdir=tmp_path / 'first')
    assert code == 0, said
    text, before = ((path / 'MODEL_CARD.md').read_text() for path in (tmp_path / 'out', made))
    kept = text.split('\n## The release before\n')[1].split('\n## Evaluation\n')[0]
    data = before.split('\n## Training data\n')[1].split('\n## ')[0]
    assert f'\n### Training data\n{data}' in kept
    assert '\n### How it was trained\n' in kept
    assert 'now deleted' not in text.split('\n## The release before\n')[0]
    old, new = (read(path / 'config.json') for path in (made, tmp_path / 'out'))
    assert new['started_from'][0]['evaluation'] == old['evaluation']
    log = [json.loads(line) for line in (tmp_path / 'out/log.jsonl').read_text().splitlines()]
    marked = [line for line in log if line.get('part') == 'the release before']
    assert len(marked) == len((made / 'log.jsonl').read_text().splitlines())
    assert log[: len(marked)] == marked


@pytest.mark.slow
def test_a_share_releases_the_mean_of_the_run_and_the_release_before(runs, made, call, tmp_path):
    start = tmp_path / 'first'
    shutil.copytree(runs / 'first', start)
    described = read(start / 'config.json')
    described['config']['init_from'] = 'released'
    (start / 'config.json').write_text(json.dumps(described))
    code, said = call(f'--previous={made}', '--share=0.25', '--sizes=16', workdir=start)
    assert code == 0, said
    old, new = (
        released.named(tree)
        for tree in (
            released.load(folder=made).variables,
            generator_variables(checkpoints.load(start).state),
        )
    )
    for name, leaf in released.named(released.load(folder=tmp_path / 'out').variables).items():
        expected = 0.75 * np.asarray(old[name]) + 0.25 * np.asarray(new[name])
        np.testing.assert_allclose(leaf, expected, rtol=1e-3, atol=1e-6)  # float16
    text = (tmp_path / 'out/MODEL_CARD.md').read_text()
    assert 'the mean of the release before (0.75) and the moving average (0.25), after step' in text
    assert read(tmp_path / 'out/config.json')['share'] == 0.25


@pytest.mark.slow
def test_a_release_in_place_cannot_be_mixed_with_the_run_twice(runs, made, call, tmp_path):
    start, place = tmp_path / 'first', tmp_path / 'place'
    shutil.copytree(runs / 'first', start)
    shutil.copytree(made, place)
    described = read(start / 'config.json')
    described['config']['init_from'] = 'released'
    (start / 'config.json').write_text(json.dumps(described))
    flags = [f'--previous={place}', '--share=0.25', '--sizes=16']
    code, said = call(*flags, workdir=start, output='place')
    assert code == 0, said
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    code, said = call(*flags, workdir=start, output='place')
    assert code == 1
    assert said == (
        f'release: The release in {place} was made from first itself: name the one that the '
        'training started from with --previous.\n'
    )
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before


@pytest.mark.slow
def test_the_checksum_and_the_date_of_a_run_are_those_of_its_checkpoint(runs, made, tmp_path):
    (*_, stage) = record.stages(runs / 'second')
    variables = generator_variables(checkpoints.load(runs / 'second').state)
    assert read(made / 'config.json')['run_checksum'] == stage.checksum
    assert stage.checksum == int(state_lib.checksum(variables))
    shutil.copytree(runs / 'second', tmp_path / 'second')
    heartbeat = {'step': 3, 'time': time.time() + 1e6, 'phase': 'end'}  # it was started again
    (tmp_path / 'second/heartbeat.json').write_text(json.dumps(heartbeat))
    assert record.stages(tmp_path / 'second')[-1].finished == stage.finished


@pytest.mark.slow
def test_a_run_from_scratch_has_no_mean_with_a_release(call):
    code, said = call('--share=0.5', workdir='first')
    assert (code, said.count('\n')) == (1, 1)
    assert said.startswith('release: --share is for runs that started from a release:')


def test_the_mean_of_equal_weights_changes_no_bit():
    before = previous.Previous(released.WEIGHTS, {}, '', [])
    one = released.load()
    for share in (0.1, 0.3, 0.7):
        found = previous.mean(before, one.variables, share, sharding.make_mesh())
        jax.tree.map(np.testing.assert_array_equal, found, one.variables)


def test_the_text_on_the_release_before_contains_the_ones_before_it():
    texts = '## Training data\n\nSome.\n\n## Use\n\nLeft out.\n\n'
    described = {'commit': 'c', 'step': 3}
    first = previous.section(previous.Previous(Path(), described, texts, []))
    second = previous.section(previous.Previous(Path(), described, f'{texts}{first}## End\n', []))
    assert '### Training data\n\nSome.\n\n### The release before\n' in second
    assert '#### Training data\n\nSome.' in second
    assert 'Left out' not in second


def test_networks_that_differ_have_no_mean():
    before = previous.Previous(released.WEIGHTS, {}, '', [])
    with pytest.raises(UserError, match='have no mean: name the release'):
        previous.mean(before, {'params': {'a': np.zeros(3)}}, 0.5, sharding.make_mesh())


@pytest.mark.slow
def test_the_scores_by_kind_are_in_the_card(runs, call, tmp_path):
    for number in range(2):
        (tmp_path / f'kinds/kind{number}').mkdir(parents=True)
        name = f'held_out{number}.png'
        shutil.copy(runs / 'held_out' / name, tmp_path / f'kinds/kind{number}/{name}')
    assert call(f'--kinds={tmp_path / "kinds"}', '--sizes=16', workdir='first')[0] == 0
    rows = read(tmp_path / 'out/config.json')['evaluation_by_kind']
    assert [row['kind'] for row in rows] == ['kind0', 'kind1', 'all']
    text = (tmp_path / 'out/MODEL_CARD.md').read_text()
    assert f'| kind1 | 1 | {rows[1]["psnr"]:.2f} |' in text


# Mistakes


@pytest.mark.slow
def test_a_note_with_a_path_is_refused_and_nothing_is_written(call, tmp_path):
    (tmp_path / 'note.md').write_text('They lie in /srv/photographs, mostly.')
    code, said = call(f'--data_note={tmp_path / "note.md"}', '--sizes=16')
    assert code == 1
    assert said.splitlines()[-1] == (
        "release: MODEL_CARD.md would contain '/srv/photographs,', a path of this machine: remove "
        'it from the texts and flags.'
    )
    assert not list((tmp_path / 'out').iterdir())


@pytest.mark.slow
def test_a_value_that_float16_cannot_hold_ends_before_anything_is_scored(
    call, tmp_path, monkeypatch
):
    def large(state):
        return jax.tree.map(lambda leaf: leaf + 1e5, generator_variables(state))

    monkeypatch.setattr(release, 'generator_variables', large)
    code, said = call()
    assert code == 1
    assert re.fullmatch(r'release: \S+ holds the value 1\d+, and float16 ends .*\n', said)
    assert not list((tmp_path / 'out').iterdir())


@pytest.mark.slow
def test_weights_that_are_too_large_are_refused(call, tmp_path, monkeypatch):
    monkeypatch.setattr(released, 'MOST_BYTES', 1000)
    code, said = call()
    assert code == 1
    assert said.endswith(' is the most that is released: train a smaller generator.\n')
    assert said.count('\n') == 1
    assert not list((tmp_path / 'out').iterdir())


@pytest.mark.parametrize(
    ('argv', 'sentence'),
    [
        (['--val=v'], '--workdir is missing: add --workdir=DIR.'),
        (['--workdir=w'], '--val is missing: add --val=DIR.'),
        (
            ['--workdir=w', '--val=v', '--share=1.5'],
            '--share must be above 0 and at most 1, not 1.5.',
        ),
        (['--wrokdir=w'], 'unrecognized arguments: --wrokdir=w: --help lists the flags.'),
        (
            ['--workdir=w', '--val=v', '--sizes=128,x'],
            "--sizes must be comma-separated integers of 11 or more, not '128,x'.",
        ),
        (
            ['--workdir=w', '--val=v', '--sizes=8'],
            "--sizes must be comma-separated integers of 11 or more, not '8'.",
        ),
        (
            ['--workdir=w', '--val=v', '--data_note=n'],
            "n cannot be read ([Errno 2] No such file or directory: 'n'): name a text with "
            '--data_note.',
        ),
        (
            ['--workdir=w', '--val=v'],
            "v does not exist: name a folder of images, a data set as 'tfds:NAME', or 'sample'.",
        ),
        (
            ['--workdir=w', '--val=sample', '--output=o'],
            'w is not a workdir of a run: it holds no config.json.',
        ),
    ],
)
def test_a_mistake_is_told_in_one_sentence(argv, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert release.main(argv) == 1
    assert capsys.readouterr().err == f'release: {sentence}\n'


@pytest.mark.slow
def test_a_damaged_log_is_told_in_one_sentence(runs, tmp_path):
    shutil.copytree(runs / 'first', tmp_path / 'run')
    path = tmp_path / 'run/metrics.jsonl'
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r'in \S+/run is damaged \(.*\): restore it from a copy\.$'):
        record.stages(tmp_path / 'run')


# Parts


@pytest.mark.parametrize('name', ['base', 'photos', 'pix2pix', 'rgb_colorizer', 'chromagan'])
def test_the_command_made_from_a_config_names_its_file_and_what_was_changed(name):
    config = runpy.run_path(str(ROOT / f'configs/{name}.py'))['get_config']()
    config.seed, config.data.source, config.generator_optimizer.b1 = 5, 'my photographs', 0.25
    made = record.command(json.loads(json.dumps(config_lib.to_dict(config))))
    program, *flags = made.split(' \\\n    ')
    assert program == f'python -m chromagan_jax.main --config=configs/{name}.py'
    assert sorted(flags) == [
        "'--config.data.source=my photographs'",
        '--config.generator_optimizer.b1=0.25',
        '--config.seed=5',
    ]


def test_the_command_sets_loss_weights_that_only_one_side_has():
    config = base.get_config()
    config.loss.weights = {'adversarial': 1.0, 'huber': 1000.0}
    made = record.command(config_lib.to_dict(config))
    (spec, *flags) = made.removeprefix('python -m chromagan_jax.main ').split(' \\\n    ')
    line = command_line.split([spec.replace('configs/', f'{ROOT}/configs/'), *flags])
    weights = command_line.make_config(line).loss.weights
    assert {name: w for name, w in weights.items() if w} == config.loss.weights


def test_a_network_that_no_config_has_gets_no_command():
    config = base.get_config()
    config.generator, config.discriminator = LiteUNet(), DenseDiscriminator()
    assert record.command(config_lib.to_dict(config)) == ''


def test_paths_are_reduced_to_names_and_nothing_else_is_changed():
    config = {'data': {'source': '/a/b/c', 'split': 'train[:90%]'}, 'steps': 3, 'sizes': [1, 2]}
    config |= {'tfds': 'tfds:coco/2017:1.1.0', 'init_from': 'runs/first', 'vgg16': ''}
    assert record.portable(config) == {
        'data': {'source': 'c', 'split': 'train[:90%]'},
        'steps': 3,
        'sizes': [1, 2],
        'tfds': 'tfds:coco/2017:1.1.0',
        'init_from': 'first',
        'vgg16': '',
    }


def test_a_long_log_is_thinned_evenly_and_keeps_its_ends():
    for count in (1, 2, record.LINES, record.LINES + 1, 7 * record.LINES):
        kept = [line['step'] for line in record.thinned([{'step': i} for i in range(count)])]
        assert len(kept) == len(set(kept)) == min(count, record.LINES)
        assert (kept[0], kept[-1]) == (0, count - 1)
        gaps = np.diff(kept)
        assert count == 1 or gaps.max() - gaps.min() <= 1
    assert record.thinned([]) == []


@pytest.mark.parametrize(
    ('text', 'path'),
    [
        ('images/s, km / h, a/b and https://example.org/a (n/a)', None),
        ('in /home/someone/runs there', '/home/someone/runs'),
        ('{"source": "/data/x"}', '/data/x"}'),
        ('--val=/data/x', '/data/x'),
        ('~/runs', '~/runs'),
        ('(C:\\runs)', 'C:\\runs)'),
    ],
)
def test_paths_of_a_machine_are_found(text, path):
    found = release.PATH.search(text)
    assert (found and found[0]) == path


def stage(**fields):
    fields = {'fingerprint': 'a', 'step': 3, 'finished': '2030-12-31', 'checksum': None} | fields
    data = {'records': 7, 'fingerprint': fields.pop('fingerprint')}
    return record.Stage('mine', {'init_from': 'released'}, data, {}, [], **fields)


def release_of(folder, **described):
    """A folder with the texts of a release."""
    (folder / released.DESCRIPTION).write_text(json.dumps(described))
    for name in ('log.jsonl', 'MODEL_CARD.md'):
        (folder / name).write_text('')
    return folder


@pytest.mark.parametrize(
    ('run', 'recorded', 'same'),
    [
        ({'checksum': 5}, 5, True),
        ({'checksum': 6}, 5, False),
        ({}, None, True),
        ({'fingerprint': 'b'}, None, False),
        ({'step': 4}, None, False),
        ({'finished': '2031-01-01'}, None, False),
    ],
)
def test_a_release_of_the_run_itself_is_not_the_one_before_it(run, recorded, same, tmp_path):
    described = {'data': {'fingerprint': 'a'}, 'step': 3, 'finished': '2030-12-31'}
    folder = release_of(tmp_path, **described, run_checksum=recorded)
    if same:
        with pytest.raises(UserError, match=r'was made from mine itself: name .* --previous\.$'):
            previous.find([stage(**run)], folder)
    else:
        assert previous.find([stage(**run)], folder).folder == folder


def workdir_of(folder, init_from=''):
    """A workdir with a config and metrics."""
    folder.mkdir()
    run = {'schema_version': config_lib.SCHEMA_VERSION, 'config': {'init_from': init_from}}
    run |= {'data': {'records': 7, 'fingerprint': 'a'}, 'versions': {}}
    (folder / 'config.json').write_text(json.dumps(run))
    (folder / 'metrics.jsonl').write_text('{"step": 3}\n')
    return folder


def test_the_released_weights_are_no_folder_of_that_name(tmp_path):
    workdir_of(tmp_path / 'released')
    mine = workdir_of(tmp_path / 'mine', init_from='released')
    assert [stage.name for stage in record.stages(mine)] == ['mine']
    other = workdir_of(tmp_path / 'other', init_from=str(mine))
    assert [stage.name for stage in record.stages(other)] == ['mine', 'other']


def test_a_finished_run_that_is_started_again_keeps_its_date(tmp_path, monkeypatch):
    workdir = workdir_of(tmp_path / 'run')
    (workdir / 'heartbeat.json').write_text('{"time": 1924905600}')  # 2030-12-31
    assert record.stages(workdir)[0].finished == '2030-12-31'
    saved = workdir / 'checkpoints/3/_CHECKPOINT_METADATA'
    saved.parent.mkdir(parents=True)
    moment = {'commit_timestamp_nsecs': 1_924_300_800_000_000_000}  # a week before
    saved.write_text(json.dumps(moment | {'custom_metadata': {'generator_checksum': 5}}))
    monkeypatch.setattr(record.checkpoints, 'kept_steps', lambda workdir: [3])
    (found,) = record.stages(workdir)
    assert (found.finished, found.checksum) == ('2030-12-24', 5)


def test_values_that_are_null_are_left_out_of_the_log():
    line = {'step': 3, 'generator/l1': None, 'eval/psnr': 20.0}
    assert record.log([stage()._replace(lines=[line])]) == [
        {'stage': 1, 'step': 3, 'eval/psnr': 20.0}
    ]


def test_the_workdir_of_a_run_is_not_replaced_by_a_release(tmp_path, capsys):
    workdir = workdir_of(tmp_path / 'run')
    before = (workdir / 'config.json').read_bytes()
    assert release.main(['--workdir=w', '--val=sample', f'--output={workdir}']) == 1
    said = capsys.readouterr().err
    assert said == f'release: {workdir} is the workdir of a run: choose another --output.\n'
    assert (workdir / 'config.json').read_bytes() == before
    record.check_is_no_run(released.WEIGHTS)
    record.check_is_no_run(tmp_path)
    first = release_of(tmp_path, schema_version=1, sha256='x', config={})  # as the first release
    record.check_is_no_run(first)


@pytest.mark.parametrize(
    ('value', 'text'),
    [(0, '0'), (0.006491, '0.007'), (0.10846, '0.2'), (0.006, '0.006'), (0.95, '1'), (3.01, '4')],
)
def test_at_most_is_rounded_up(value, text):
    assert card.rounded_up(value) == text


def test_the_card_of_the_package_says_at_most_what_rounding_changes():
    rows = read(released.WEIGHTS / released.DESCRIPTION)['evaluation']
    assert card._loss(rows) in (released.WEIGHTS / 'MODEL_CARD.md').read_text()
    assert 'is unknown' in card._loss([row | {'psnr': None} for row in rows])


def test_a_row_has_null_for_what_json_does_not_have():
    row = {'weights': 'gray', 'images': 3, 'psnr': np.nan, 'frechet': np.inf, 'ssim': 0.5}
    expected = {'weights': 'gray', 'images': 3, 'psnr': None, 'frechet': None, 'ssim': 0.5}
    assert table.finite(row) == expected
    columns = {'weights': ('weights', '{}'), 'psnr': ('PSNR', '{:.2f}'), 'ssim': ('SSIM', '{:.1f}')}
    assert table.grid([table.finite(row)], columns).endswith('| gray | 0.5 |')


def test_a_release_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    folder = Path(shutil.copytree(released.WEIGHTS, tmp_path / 'weights'))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    described = {**read(folder / released.DESCRIPTION), 'share': np.nan}
    variables = released.load(folder=folder).variables
    with pytest.raises(ValueError, match='JSON'):
        release.write(folder, {'MODEL_CARD.md': 'New.'}, variables, described)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
