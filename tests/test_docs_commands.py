"""The commands in the documents are taken by the commands' own parsers; code in them compiles."""

import argparse
import configparser
import copy
import importlib
import json
import re
import shlex
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from absl import flags

import chromagan_jax.app.__main__
import chromagan_jax.prepare.__main__
from chromagan_jax import export, main
from chromagan_jax.config import command_line
from chromagan_jax.errors import UserError
from chromagan_jax.inference import options
from chromagan_jax.utils import cli
from tools import try_prepare

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / 'docs/quickstart.ipynb'
PAGES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ('*.md', 'docs/*.md', 'docs/*.ipynb', 'tools/README.md', 'benchmarks/README.md')
    for path in ROOT.glob(pattern)
)
ENDS = re.compile(r'^(&&|\|\||;|\||>|>>|2>.*|<)$')
MAKE_FLAGS = {
    'chromagan_jax.app': chromagan_jax.app.__main__.make_flags,
    'chromagan_jax.colorize': options.make_flags,
    'chromagan_jax.export': export.make_flags,
    'chromagan_jax.prepare': chromagan_jax.prepare.__main__.make_flags,
    'tools.try_prepare': try_prepare.make_flags,
}
UNIMPORTABLE = {  # without PyTorch, and where their flags are
    'tools.encoder': 'tools/encoder.py',
    'tools.torch_twin.pack': 'tools/torch_twin/pack.py',
    'tools.torch_twin.train': 'tools/torch_twin/options.py',
}
EXTRAS = configparser.ConfigParser()
EXTRAS.read(ROOT / 'setup.cfg')


def read(page: str) -> str:
    text = (ROOT / page).read_text()
    if not page.endswith('.ipynb'):
        return text
    cells = json.loads(text)['cells']
    sources = [(cell['cell_type'], ''.join(cell['source'])) for cell in cells]
    return '\n\n'.join(
        text if kind == 'markdown' else f'```python\n{text}\n```' for kind, text in sources
    )


def lines(text: str) -> Iterator[str]:
    """The lines of shell in blocks, and the spans of code that are commands."""
    for block in re.findall(r'^ *```(?:bash|console|sh)\n(.*?)^ *```$', text, re.M | re.S):
        yield from re.sub(r' *\\\n *', ' ', block).splitlines()
    rest = re.sub(r'^ *```.*?^ *```$', '', text, flags=re.M | re.S)
    for span in re.findall(r'`([^`]+)`', rest):
        yield re.sub(r'\s+', ' ', span)


def commands(text: str) -> Iterator[list[str]]:
    """The words of each simple command: `python -m MODULE ...`, `pip install ...`."""
    for line in lines(text):
        if not re.match(r'(\S+=\S+ )*(python -m [a-z]|pip install|launch/local\.sh)', line):
            continue
        words: list[str] = []
        for word in [*shlex.split(line, comments=True), ';']:
            if ENDS.match(word) or re.match(r'>\S', word):
                if words:
                    yield words
                words = []
                if word not in ('&&', ';', '||', '|'):
                    break  # a redirection
            else:
                words.append(word)


def parse(words: Sequence[str]) -> None:
    """Parses a command as the program does that it starts.

    Raises:
        UserError: for an unknown flag, field, value or config.
        SystemExit: the same of an argparse parser.
    """
    words = [word for word in words if not re.match(r'[A-Z_]+=', word)]
    if words[0].endswith('launch/local.sh'):
        words = ['python', '-m', 'chromagan_jax.main', '--config=configs/base.py', *words[1:]]
    name, arguments = words[2], [word for word in words[3:] if word != '...']
    if (
        name in ('pytest', 'venv', 'http.server')
        or name.startswith('tests.')
        or not arguments
        or arguments == ['--help']
    ):
        return
    if name == 'chromagan_jax.main':
        line = command_line.split(arguments)
        command_line.make_config(line)
        cli.parse(_own_flags(main), [name, *line.rest])
    elif name in UNIMPORTABLE or (name.startswith('benchmarks.') and name != 'benchmarks.compare'):
        _check_names(name, arguments)
    elif make_flags := MAKE_FLAGS.get(name):
        cli.parse(make_flags(), [name, *arguments])
    else:
        _parse_argparse(importlib.import_module(name).parse, arguments)


def _own_flags(module: types.ModuleType) -> flags.FlagValues:
    """A copy of the flags that a module defines in absl's global ones."""
    values = flags.FlagValues()
    for flag in flags.FLAGS.get_flags_for_module(module.__name__):
        values[flag.name] = copy.deepcopy(flag)
    return values


def _check_names(name: str, arguments: Sequence[str]) -> None:
    """Compares flags with the source, where a module cannot be imported.

    Two benchmarks define the same flag, so only one can be imported; some modules need PyTorch.

    Raises:
        UserError: for an unknown flag, or an invalid config.
    """
    source = (ROOT / UNIMPORTABLE.get(name, f'{name.replace(".", "/")}.py')).read_text()
    imported = re.findall(r'from (benchmarks(?:\.\w+)?) import (.+)', source)
    for path in [
        ROOT / f'{parent.replace(".", "/")}{suffix}'
        for parent, names in imported
        for suffix in ('.py', *(f'/{name}.py' for name in names.split(', ')))
    ]:
        source += path.read_text() if path.exists() else ''
    known = set(re.findall(r"(?:DEFINE_\w+\(\s*'|'--)(\w+)'", source))
    line = command_line.split(arguments)
    if line.spec:
        command_line.make_config(line)
    for word in line.rest:
        flag = re.match(r'--?(\w+)', word)
        if flag and flag[1] not in known and flag[1].removeprefix('no') not in known:
            raise UserError(f'There is no flag {word}.')


class _ParsedError(Exception):
    """Raised where a command has parsed its arguments."""


def _parse_argparse(entry: Callable[..., Any], arguments: Sequence[str]) -> None:
    original = argparse.ArgumentParser.parse_args

    def parse_args(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        raise _ParsedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, 'parse_args', parse_args)
        arguments = arguments[: arguments.index('--')] if '--' in arguments else arguments
        with pytest.raises(_ParsedError):
            entry(list(arguments))


def test_a_misspelled_flag_field_or_module_is_noticed():
    for wrong in (
        'python -m chromagan_jax.main --config=base --config.stepz=3',
        'python -m chromagan_jax.main --config=base --workdirr=x',
        'python -m chromagan_jax.colorize --outputt=x photo.jpg',
        'python -m tools.sheet --outputt=x sample',
        'python -m benchmarks.inference --sizes=3',
    ):
        (words,) = commands(f'`{wrong}`')
        with pytest.raises((UserError, SystemExit)):
            parse(words)


@pytest.mark.parametrize('page', PAGES)
def test_the_command_of_every_page_parses(page):
    errors = []
    for words in commands(read(page)):
        if 'pip' in words[:3]:
            continue
        try:
            parse(words)
        except (UserError, SystemExit, AssertionError) as error:
            errors.append(f'{shlex.join(words)}: {error}')
    assert errors == []


@pytest.mark.parametrize('page', PAGES)
def test_the_extras_that_a_page_names_exist(page):
    known = set(EXTRAS['options.extras_require'])
    text = read(page)
    named = re.findall(r'(?:\.|chromagan_jax)\[([\w,-]+)\]', text)
    named += re.findall(r'^\| .*?`\[([\w-]+)\]`', text, re.M) if 'extra' in text else []
    assert {name for group in named for name in group.split(',')} <= known


@pytest.mark.parametrize('page', PAGES)
def test_the_python_blocks_of_a_page_compile(page):
    errors = []
    for block in re.findall(r'^```python\n(.*?)^```$', read(page), re.M | re.S):
        try:
            compile(block, page, 'exec')
        except SyntaxError as error:
            errors.append(f'{error}: {block}')
    assert errors == []


def sections(text: str) -> Iterator[str]:
    """The parts of a page below its headings of the second level."""
    yield from re.split(r'^## ', text, flags=re.M)


@pytest.mark.parametrize('page', [page for page in PAGES if page != 'CHANGELOG.md'])
def test_every_table_of_figures_has_a_command_or_a_program_in_its_section(page):
    source = re.compile(r'python\s+-m |\.ci/\w+|launch/\w|\.(py|sh)\b|no program of\s+this')
    lacking = []
    for section in sections(read(page)):
        rows = [row for row in section.splitlines() if row.startswith('|')]
        figures = sum(len(re.findall(r'\|\s*\d[\d,.]*\s*(?=\|)', row)) for row in rows)
        if '---:' in section and figures >= 4 and not source.search(section):
            lacking.append(section.splitlines()[0])
    assert lacking == []
