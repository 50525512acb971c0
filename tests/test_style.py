"""The structure of the project: sizes of files, imports of Orbax, commands of the README."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent


def test_files_stay_short_enough_to_read():
    lines = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for folder in ('benchmarks', 'chromagan_jax', 'configs', 'tools')
        for path in (ROOT / folder).rglob('*.py')
    }
    assert {path: count for path, count in lines.items() if count > 350} == {}


def test_the_first_shell_blocks_of_the_readme_run_the_main_job_and_the_tests():
    first, second = re.findall(r'```bash\n(.*?)```', (ROOT / 'README.md').read_text(), re.S)[:2]
    assert 'python -m chromagan_jax.main --config=configs/base.py' in first
    assert 'python -m pytest' in second


def test_the_readme_is_short_enough_to_read():
    assert len((ROOT / 'README.md').read_text().splitlines()) <= 200


def test_only_the_files_of_checkpoints_import_orbax():
    importing = {
        path.name
        for path in (ROOT / 'chromagan_jax').rglob('*.py')
        if re.search(r'^\s*(import|from) orbax', path.read_text(), re.M)
    }
    assert importing == {'checkpoints.py', 'orbax_manager.py', 'orbax_s3.py'}
