"""The wheel and the source distribution: what they hold, and the commands from the wheel alone."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import chromagan_jax
from chromagan_jax.config import files
from chromagan_jax.gan import released

ROOT = Path(__file__).parents[1]
WEIGHTS = {f'chromagan_jax/weights/{path.name}' for path in released.WEIGHTS.iterdir()}
FLAGS = '--xla_backend_optimization_level=0'  # and one device


def test_the_version_is_that_of_the_changelog_and_of_the_citation():
    newest, released = re.search(
        r'^## \[([\d.]+)\] - (\S+)$', (ROOT / 'CHANGELOG.md').read_text(), re.M
    ).groups()
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert chromagan_jax.__version__ == newest == citation['version']
    assert citation['date-released'] == released


def test_a_release_is_built_and_tried_before_it_is_published():
    jobs = yaml.safe_load((ROOT / '.github/workflows/release.yml').read_text())['jobs']
    for job, command in (('build', '.ci/wheel'), ('test', 'python -m pytest')):
        assert any(step.get('run') == command for step in jobs[job]['steps'])
    assert jobs['publish']['needs'] == ['build', 'test']
    assert jobs['publish']['permissions'] == {'id-token': 'write'}
    script = (ROOT / '.ci/wheel').read_text()
    for part in ('twine" check --strict', 'chromagan_jax.colorize', '--config=configs/base.py'):
        assert part in script


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    """The paths of the wheel and of the source distribution."""
    folder = tmp_path_factory.mktemp('built')
    tree = folder / 'tree'
    ignored = shutil.ignore_patterns('__pycache__')
    for name in ('chromagan_jax', 'configs'):
        shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    for name in ('setup.py', 'setup.cfg', 'pyproject.toml', 'README.md', 'LICENSE', 'MANIFEST.in'):
        shutil.copy(ROOT / name, tree)
    build = 'from setuptools import build_meta as b; b.build_sdist(".."); b.build_wheel("..")'
    subprocess.run([sys.executable, '-c', build], cwd=tree, check=True, capture_output=True)
    (wheel,), (source,) = folder.glob('*.whl'), folder.glob('*.tar.gz')
    return wheel, source


@pytest.fixture(scope='module')
def installed(built, tmp_path_factory):
    """Runs a module from the wheel's files alone, in an empty folder."""
    site = tmp_path_factory.mktemp('site')
    zipfile.ZipFile(built[0]).extractall(site)

    def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=folder,
            env=os.environ | {'PYTHONPATH': str(site), 'XLA_FLAGS': FLAGS},
            capture_output=True,
            text=True,
        )

    found = run(site, '-c', 'import chromagan_jax; print(chromagan_jax.__file__)')
    assert found.stdout.startswith(str(site))
    return run


@pytest.mark.slow
def test_both_hold_the_weights_and_the_configs(built):
    wheel, source = built
    names = set(zipfile.ZipFile(wheel).namelist())
    [metadata] = [name for name in names if name.endswith('.dist-info/METADATA')]
    lines = zipfile.ZipFile(wheel).read(metadata).decode().splitlines()
    for name in ('LICENSE', 'chromagan_jax/weights/LICENSE'):
        assert f'License-File: {name}' in lines
    assert names >= WEIGHTS | {f'chromagan_jax/configs/{name}.py' for name in files.names()}
    assert not any(name.startswith(('configs/', 'tests/', 'tools/')) for name in names)
    assert wheel.stat().st_size < 40e6
    with tarfile.open(source) as archive:
        names = {name.partition('/')[2] for name in archive.getnames()}
    assert names >= WEIGHTS | {f'configs/{name}.py' for name in files.names()}
    assert not any(name.startswith('tests') for name in names)


@pytest.mark.slow
def test_the_configs_are_found_by_name_outside_the_repository(installed, tmp_path):
    program = (
        'from chromagan_jax import config\n'
        'for name in config.files.names():\n'
        "    for spec in (name, f'configs/{name}.py'):\n"
        '        config.load(spec)\n'
        '    print(name)\n'
    )
    done = installed(tmp_path, '-c', program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == files.names()


@pytest.mark.slow
def test_a_run_trains_from_the_wheel_alone(installed, tmp_path):
    arguments = ('--config=configs/base.py:tiny', '--config.steps=1', '--config.data.size=16')
    small = ('--config.generator.depth=2', '--config.discriminator.layers=1')
    done = installed(tmp_path, '-m', 'chromagan_jax.main', *arguments, *small)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'runs/base/metrics.jsonl').exists()


@pytest.mark.slow
def test_a_photograph_is_colorized_from_the_wheel_alone(installed, tmp_path):
    shutil.copy(ROOT / 'docs/base.jpg', tmp_path / 'photo.jpg')
    done = installed(
        tmp_path, '-m', 'chromagan_jax.colorize', '--size=64', '--output=out', 'photo.jpg'
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'out/photo.png').stat().st_size > 10_000
