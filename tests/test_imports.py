"""What imports what: one way between the packages, and little for the command that colorizes."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = 'chromagan_jax'
ROOT = Path(__file__).parents[1]
LEAVES = {'color', 'errors', 'sharding'}  # any part may import these
# Which other parts each may import: a folder, or a file at the top of the package.
MAY_IMPORT = {
    'utils': set(),
    'config': {'models', 'utils'},
    'models': {'utils'},
    'data': {'config', 'utils'},
    'gan': {'config', 'data', 'models', 'utils'},
    'evaluation': {'gan', 'config', 'data', 'models', 'utils'},
    'training': {'evaluation', 'gan', 'config', 'data', 'models', 'utils'},
    'inference': {'gan', 'config', 'data', 'models', 'utils'},
    'app': {'inference', 'config', 'data', 'utils'},
    'prepare': {'data', 'utils'},
    'api': {'inference', 'gan', 'config', 'data'},
    'colorize': {'api', 'inference', 'config', 'data', 'utils'},
    'export': {'inference', 'utils'},
    'main': {'training', 'evaluation', 'config', 'utils'},
    '__init__': {'api'},
}
HEAVY = (
    *('orbax', 'grain', 'tensorflow_datasets', 'apache_beam', 'tensorboardX', 'kubernetes'),
    *('fsspec', 'gcsfs', 's3fs'),
)


def files() -> dict[str, Path]:
    """Dotted names below the package, and their files."""
    found = {}
    for path in (ROOT / PACKAGE).rglob('*.py'):
        parts = path.relative_to(ROOT).with_suffix('').parts
        found['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = path
    return found


FILES = files()


def imported(path: Path) -> Iterator[tuple[str, bool]]:
    """Modules of the package that a file imports, and whether at its top, that is, when loaded."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f'{node.module}.{alias.name}' for alias in node.names]
            names = [name if name in FILES else node.module for name in inner]
        else:
            continue
        for name in names:
            if name.split('.')[0] == PACKAGE:
                yield name, node in tree.body


def part(name: str) -> str:
    return name.split('.')[1] if '.' in name else '__init__'


@pytest.mark.parametrize('name', sorted(FILES))
def test_a_module_imports_only_from_its_own_part_and_from_those_below_it(name):
    own = part(name)
    allowed = LEAVES if own in LEAVES else {own, *MAY_IMPORT[own], *LEAVES}
    assert {part(other) for other, _ in imported(FILES[name])} <= allowed | {'__init__'}


def test_no_modules_import_one_another_in_a_circle():
    graph = {name: {other for other, at_top in imported(FILES[name]) if at_top} for name in FILES}
    while ends := [name for name, others in graph.items() if not others & graph.keys() - {name}]:
        for name in ends:
            del graph[name]
    assert sorted(graph) == []


def loaded(program: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after `program`."""
    done = subprocess.run(
        [sys.executable, '-c', f'import sys\n{program}\nprint(*sys.modules)'],
        cwd=ROOT,
        env=os.environ | {'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_the_package_itself_loads_nothing():
    assert not {'jax', 'numpy'} & loaded('import chromagan_jax')


def test_colorize_loads_nothing_that_only_training_and_preparing_need():
    modules = loaded('import chromagan_jax.colorize')
    assert [name for name in HEAVY if name in modules] == []
    parts = {part(name) for name in modules if name.split('.')[0] == PACKAGE}
    assert not {'main', 'training', 'evaluation', 'prepare'} & parts


def test_prepare_loads_neither_beam_nor_the_other_commands():
    modules = loaded('import chromagan_jax.prepare.__main__')
    assert [name for name in HEAVY if name in modules] == []
    parts = {part(name) for name in modules if name.split('.')[0] == PACKAGE}
    assert not {'main', 'colorize', 'inference', 'training', 'evaluation', 'gan', 'models'} & parts
