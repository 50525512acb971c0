"""Colour hints added to a release."""

import json
import shutil

import jax
import numpy as np
import pytest

from chromagan_jax.errors import UserError
from chromagan_jax.gan import released
from chromagan_jax.gan.model import abstract_variables
from chromagan_jax.gan.released import Trained
from tools import add_hints, held_out
from tools.record import Stage


@pytest.fixture(scope='module')
def release():
    """The released generator without hints."""
    whole = released.load()
    params = {name: value for name, value in whole.variables['params'].items() if name != 'hints'}
    generator = whole.generator.clone(hints=False)
    return whole._replace(generator=generator, variables={**whole.variables, 'params': params})


@pytest.fixture
def run(release):
    """The release with new parameters for hints."""
    generator = release.generator.clone(hints=True)
    shapes = abstract_variables(generator, 64)['params']['hints']
    new = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.25, np.float32), shapes)
    variables = {**release.variables, 'params': {**release.variables['params'], 'hints': new}}
    config = json.loads((released.WEIGHTS / released.DESCRIPTION).read_text())['config']
    config = released.from_dict(released.Config, config)
    config.generator = generator
    return Trained('runs/hints', config, generator, variables, 5)


def test_a_run_with_another_variable_or_without_hints_is_refused(release, run):
    with pytest.raises(UserError, match=r'takes no hints: name a run of configs/hints\.py'):
        add_hints.check_unchanged(release, release)
    params = {
        **run.variables['params'],
        'out': jax.tree.map(lambda x: x + 1, run.variables['params']['out']),
    }
    other = run._replace(variables={**run.variables, 'params': params})
    with pytest.raises(UserError, match=r'params/out/bias is not as in the release'):
        add_hints.check_unchanged(release, other)
    add_hints.check_unchanged(release, run)


def test_the_release_keeps_its_weights_and_gets_hints_a_section_and_a_log(
    release, run, tmp_path, monkeypatch
):
    folder = tmp_path / 'weights'
    shutil.copytree(released.WEIGHTS, folder)
    versions = {'device': 'cpu', 'device_count': '1'}
    config = {**add_hints.to_dict(run.config), 'init_from': 'released'}
    lines = [{'step': 5, 'generator/l1': 0.1, 'images_per_second': 10.0}]
    stage = Stage(
        'hints', config, {'records': 7, 'fingerprint': 'x'}, versions, lines, 5, '2030-12-31'
    )
    rows = [{'hints': n, 'psnr': 20.0 + n, 'ab_mae': 9.0, 'images': 3} for n in (0, 5)]
    monkeypatch.setattr(add_hints, 'load', lambda workdir: run)
    monkeypatch.setattr(add_hints.record, 'stages', lambda workdir: [stage])
    monkeypatch.setattr(add_hints.hints, 'score', lambda *args: rows)
    for _ in range(2):  # the second time replaces the section
        assert add_hints.main(['--workdir=run', '--val=sample', f'--release={folder}']) == 0
    new = released.load(folder=folder)
    assert new.generator.hints
    add_hints.check_unchanged(release, new)
    np.testing.assert_array_equal(new.variables['params']['hints']['none']['bias'], 0.25)
    card = (folder / 'MODEL_CARD.md').read_text()
    assert card.count('\n## Hints\n') == 1
    assert '| 5 | 25.00 | 9.00 |' in card
    # The photographs of the twin's training were not recorded.
    assert f'\n3 {held_out.UNKNOWN}, at 256 px' in card
    places = [
        card.index(f'\n## {name}\n') for name in ('How it was trained', 'Hints', 'Evaluation')
    ]
    assert places == sorted(places)
    log = [json.loads(line) for line in (folder / 'log.jsonl').read_text().splitlines()]
    assert [line['step'] for line in log if line.get('part') == 'hints'] == [5]
