"""What `--mode=eval` opens: training shards in a bucket are not copied for a hint."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from chromagan_jax.data import inputs
from chromagan_jax.data.sources import make_source
from chromagan_jax.errors import UserError
from chromagan_jax.evaluation import job
from chromagan_jax.utils import files, paths


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The locations that are opened."""
    locations: list[str] = []

    def note(location: str, *options: Any) -> Any:
        locations.append(location)
        return make_source(location, *options)

    for module in (job, inputs):
        monkeypatch.setattr(module, 'make_source', note)
    return locations


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    files.write_png(tmp_path / 'photographs/a.png', job.np.zeros((4, 4, 3), job.np.uint8))
    (tmp_path / 'link').symlink_to(tmp_path / 'photographs')
    return tmp_path / 'photographs'


@pytest.mark.parametrize(
    'source', ['/not/mounted', 'gs://bucket/shards', 's3://bucket/shards', 'tfds:none', '']
)
def test_a_training_source_elsewhere_is_not_opened(source, tiny, opened, photographs):
    tiny.data.source, tiny.eval.source = source, str(photographs)
    found, held_out = job._open_source(tiny)
    assert (len(found), held_out) == (1, True)
    assert opened == [str(photographs)]


@pytest.mark.parametrize('spelling', ['', '{}', '{}/', '{}/../photographs', '{}/../link'])
def test_the_training_source_in_another_spelling_is_not_held_out(
    spelling, tiny, opened, photographs
):
    tiny.data.source = str(photographs)
    tiny.eval.source = spelling.format(photographs)
    assert job._open_source(tiny)[1] is False
    assert len(opened) == 2


def test_a_folder_in_a_bucket_may_end_in_a_slash():
    assert inputs._place('gs://b/x/') == inputs._place('gs://b/x')
    assert inputs._place('gs://b/x') != inputs._place('s3://b/x')


def test_without_any_source_the_field_is_named(tiny):
    tiny.data.source = tiny.eval.source = ''
    with pytest.raises(UserError, match=r'data\.source is empty'):
        job._open_source(tiny)


@pytest.mark.slow
def test_a_run_is_scored_where_its_training_source_cannot_be_opened(
    trained, small, tmp_path, monkeypatch, capsys
):
    workdir = Path(shutil.copytree(trained, tmp_path / 'run'))
    config = json.loads((workdir / 'config.json').read_text())
    config['config']['data']['source'] = 'gs://bucket/shards'
    (workdir / 'config.json').write_text(json.dumps(config))

    def refuse(location: str) -> Any:
        raise UserError(f'{location} is read')

    monkeypatch.setattr(paths, 'filesystem', refuse)
    small.eval.source = 'sample'
    job.evaluate_checkpoints(small, workdir)
    (line,) = (workdir / 'metrics_eval.jsonl').read_text().splitlines()
    assert json.loads(line)['step'] == 4
    assert 'not held out' not in capsys.readouterr().err
    small.eval.source = ''
    with pytest.raises(UserError, match='gs://bucket/shards'):
        job.evaluate_checkpoints(small, workdir)
