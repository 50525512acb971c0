"""What the documents name exists: links, files, commands and functions."""

import ast
import functools
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ABOUT_CODE = (
    *('CONTRIBUTING.md', 'docs/architecture.md', 'docs/extending.md', 'docs/files.md'),
    *('tools/README.md', 'benchmarks/README.md'),
)
# Pages for users also name files that their commands write.
FOR_USERS = sorted(
    {'README.md', *(f'docs/{path.name}' for path in (ROOT / 'docs').glob('*.md'))} - {*ABOUT_CODE}
)
FOLDERS = ('benchmarks', 'chromagan_jax', 'configs', 'docs', 'launch', 'tests', 'tools', r'\.ci')
SUFFIXES = ('cff', 'cfg', 'jpg', 'json', 'md', 'png', 'py', 'sh', 'toml', 'yaml')

# A path of the repository: a span of code that is one, or a word in code below a known folder.
SPAN = re.compile(rf'[\w.*-]+(/[\w.*-]+)*/|[\w.*-]+(/[\w.*-]+)+|[\w.-]+\.({"|".join(SUFFIXES)})')
WORD = re.compile(rf'(?<![\w./-])(?:{"|".join(FOLDERS)})/[\w./*-]*')
PLACEHOLDER = re.compile(r'[A-Z_]{3,}(/|$)')  # WORKDIR/best/ is a place on the reader's disk
FUNCTION = re.compile(r'`(\w+)\(\)`')


def test_the_patterns_tell_paths_from_other_code():
    for path in ('setup.cfg', '.ci/run', 'tests/', 'a/b.py', 'launch/slurm*.sbatch'):
        assert SPAN.fullmatch(path), path
    for other in ('data.source', 'fold_in(key, step)', '--config.steps=2', '[parity]', 'a b.py'):
        assert not SPAN.fullmatch(other), other
    command = 'PHOTOS=DIR benchmarks/run.sh --config=configs/base.py runs/tools/x'
    assert WORD.findall(command) == ['benchmarks/run.sh', 'configs/base.py']
    assert PLACEHOLDER.match('WORKDIR/best/')
    assert not PLACEHOLDER.match('CHANGELOG.md')


def code(text: str) -> list[str]:
    """Spans of code, and the lines of blocks of code."""
    blocks = re.findall(r'^```\w*\n(.*?)^```$', text, re.M | re.S)
    rest = re.sub(r'^```.*?^```$', '', text, flags=re.M | re.S)
    return [line for block in blocks for line in block.splitlines()] + re.findall('`(.+?)`', rest)


def paths(text: str) -> set[str]:
    """The repository's paths that a document names in code."""
    found = {span for span in code(text) if SPAN.fullmatch(span) and not PLACEHOLDER.match(span)}
    return found | {word for span in code(text) for word in WORD.findall(span)}


@pytest.fixture(params=[*ABOUT_CODE, *FOR_USERS])
def document(request):
    return ROOT / request.param


@pytest.fixture(params=ABOUT_CODE)
def code_document(request):
    return ROOT / request.param


def test_every_relative_link_leads_to_a_file(document):
    links = re.findall(r'\]\(([^)#]+)(?:#[^)]*)?\)', document.read_text())
    local = [link for link in links if not re.match(r'\w+:', link)]
    assert [link for link in local if not (document.parent / link).exists()] == []


def test_every_path_in_code_exists(code_document):
    named = paths(code_document.read_text())
    assert named
    folders = (ROOT, code_document.parent)
    assert [p for p in sorted(named) if not any([*f.glob(p)] for f in folders)] == []


def test_every_module_to_run_can_be_found(document):
    modules = set(re.findall(r'python -m ([\w.]*\w)', document.read_text()))
    real = sorted(module for module in modules if not module.endswith('.NAME'))
    assert [module for module in real if not importlib.util.find_spec(module)] == []


@functools.cache
def defined(path: Path) -> set[str]:
    """The functions and classes of a file."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)}


def test_every_function_is_in_a_file_named_beside_it_or_else_somewhere(code_document):
    everywhere = [
        p for folder in ('chromagan_jax', 'configs') for p in (ROOT / folder).rglob('*.py')
    ]
    missing = []
    for unit in re.split(
        r'\n(?=\||- |\d+\. |\n)', code_document.read_text()
    ):  # rows, items, paragraphs
        files = [file for path in paths(unit) if (file := ROOT / path).suffix == '.py']
        for name in FUNCTION.findall(unit):
            if not any(name in defined(file) for file in files or everywhere):
                missing.append(name)
    assert missing == []
