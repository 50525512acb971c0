"""The command that makes a page about runs."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.evaluation.test_report import write_run
from tools import report

ROOT = Path(__file__).parents[2]


def test_one_run_gets_its_page_and_two_runs_a_comparison(tmp_path):
    for name in ('a', 'b'):
        write_run(tmp_path / name)
    single, both = tmp_path / 'one.html', tmp_path / 'both.html'
    assert report.main([f'--output={single}', str(tmp_path / 'a')]) == 0
    assert report.main([f'--output={both}', str(tmp_path / 'a'), f'mine={tmp_path / "b"}/']) == 0
    assert '<h1>a</h1>' in single.read_text()
    assert '<h1>a / mine</h1>' in both.read_text()


def test_a_workdir_may_have_an_equals_sign_in_its_name(tmp_path):
    write_run(tmp_path / 'lr=0.1')
    for argument in (f'{tmp_path}/lr=0.1', f'mine={tmp_path}/lr=0.1'):
        assert report.main([f'--output={tmp_path}/page.html', argument]) == 0
        name = 'mine' if argument.startswith('mine') else 'lr=0.1'
        assert f'<h1>{name}</h1>' in (tmp_path / 'page.html').read_text()


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (['--output=x.html'], 'No run is named'),
        (['runs/a'], '--output must be a .html file'),
        (['--output=x.html', 'runs/a', 'old/a'], 'Two runs are called a: write NAME=old/a.'),
        (['--output=x.html', 'nowhere'], 'nowhere is not a workdir of a run'),
        (['--nonsense'], '--help lists the flags'),
    ],
)
def test_a_wrong_command_ends_with_a_sentence(arguments, sentence, capsys):
    assert report.main(arguments) == 1
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count('\n') == 1


@pytest.mark.slow
@pytest.mark.parametrize('tool', ['report', 'score'])
def test_help_ends_with_success(tool):
    command = [sys.executable, '-m', f'tools.{tool}', '--help']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f'python -m tools.{tool}' in done.stdout
    assert '--output' in done.stdout
