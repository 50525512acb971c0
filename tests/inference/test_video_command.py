"""The colorize command on films, in processes of its own."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import chromagan_jax.colorize as colorize
from tests.inference.test_colorize import make_run, photograph, save

pytest.importorskip('av')

from chromagan_jax.inference.video import read
from tests.inference.films import decoded, make_film, streams, times_of, two_scenes

ROOT = Path(__file__).parents[2]
# The command, whose network ends the process at its n-th batch in the way that is asked for.
PROGRAM = """
import os, signal, sys
import chromagan_jax.colorize as colorize
from chromagan_jax.inference.video import run

run.MAX_SEGMENT = 6
at, how = int(sys.argv[1]), getattr(signal, sys.argv[2])
color, calls = run.frames_lib.color, []

def counted(*arguments):
    calls.append(1)
    if len(calls) == at:
        os.kill(os.getpid(), how)
    return color(*arguments)

run.frames_lib.color = counted
sys.exit(colorize.main(['', *sys.argv[3:]]))
"""


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp('run')
    make_run(folder)
    return folder


@pytest.fixture(scope='module')
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp('films') / 'film.mp4'
    return make_film(path, two_scenes(), subtitles='mov_text', color_primaries=1, colorspace=1)


def run(workdir, output, *arguments, at=0, how='SIGKILL'):
    command = [sys.executable, '-c', PROGRAM, str(at), how]
    flags = [f'--workdir={workdir}', f'--output={output}', '--batch_size=4']
    return subprocess.run(
        [*command, *flags, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_a_film_that_is_killed_and_continued_keeps_all_and_has_the_same_frames(
    workdir, film, tmp_path
):
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    done = run(workdir, whole, film)
    assert (done.returncode, '1 colorized' in done.stderr) == (0, True), done.stderr
    result = whole / 'film.mp4'
    old, new = streams(film), streams(result)
    assert new['audio'] == old['audio']
    assert new['subtitle'] == old['subtitle']
    assert [time for time, _ in times_of(result)] == [time for time, _ in times_of(film)]
    before, after = read.probe(film), read.probe(result)
    for field in ('width', 'height', 'frames', 'seconds', 'aspect', 'range', 'matrix', 'primaries'):
        assert getattr(after, field) == getattr(before, field)

    assert run(workdir, parts, film, at=4).returncode == -signal.SIGKILL
    assert not (parts / 'film.mp4').exists()
    stopped = run(workdir, parts, film, at=2, how='SIGTERM')
    assert (stopped.returncode, '1 left' in stopped.stderr) == (75, True), stopped.stderr
    assert run(workdir, parts, film).returncode == 0
    assert streams(parts / 'film.mp4') == new
    assert [path.name for path in parts.iterdir()] == ['film.mp4']


@pytest.mark.slow
def test_films_and_photographs_on_one_command_line(workdir, film, tmp_path, capsys):
    text = tmp_path / 'text.mp4'
    text.write_text('Not a film.')
    rotated = make_film(
        tmp_path / 'rotated.mov',
        two_scenes(4),
        [0, 1, 2, 3],
        rotation=90,
        pixels='yuv420p10le',
        audio='pcm_s16le',
    )
    empty = tmp_path / 'empty.mp4'
    empty.touch()
    photo = save(photograph(), tmp_path / 'photo.png')
    output, page = tmp_path / 'out', tmp_path / 'page.html'
    flags = [f'--workdir={workdir}', f'--output={output}', '--json', f'--report={page}']
    code = colorize.main(['', *flags, *map(str, (film, text, empty, photo, rotated))])
    printed = capsys.readouterr()
    assert code == 1
    assert 'text.mp4 failed: it is not a film that FFmpeg can read' in printed.err
    assert 'empty.mp4 failed: the file is empty' in printed.err
    lines = [json.loads(line) for line in printed.out.splitlines()]
    assert {Path(one['source']).name: one['status'] for one in lines} == {
        'film.mp4': 'colorized',
        'text.mp4': 'failed',
        'empty.mp4': 'failed',
        'photo.png': 'colorized',
        'rotated.mov': 'colorized',
    }
    assert sorted(path.name for path in output.iterdir()) == [
        'film.mp4',
        'photo.png',
        'rotated.mov',
    ]
    assert page.read_text().count('<figure>') == 3
    result = read.probe(output / 'rotated.mov')
    assert (result.rotation, result.deep) == (90, True)
    assert result.display == read.probe(rotated).display
    assert len(decoded(output / 'rotated.mov')) == 4

    colorize.main(['', *flags[:2], '--skip_color', str(output / 'film.mp4')])
    assert 'is a film to be read' in capsys.readouterr().err


@pytest.mark.parametrize('flag', ['hints=hints.json', 'samples=2', 'sample_noise'])
def test_flags_for_photographs_are_refused_for_films(tmp_path, capsys, flag):
    (tmp_path / 'film.mp4').touch()
    (tmp_path / 'hints.json').write_text('{}')
    named = flag.replace('hints.json', str(tmp_path / 'hints.json'))
    code = colorize.main(['', f'--output={tmp_path / "out"}', f'--{named}', f'{tmp_path}/film.mp4'])
    assert code == 1
    assert 'is for photographs' in capsys.readouterr().err
