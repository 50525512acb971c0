import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(ours, theirs, rounds):
    command = [sys.executable, '-m', 'benchmarks.ratio', f'--rounds={rounds}']
    command += [f'--ours={ours}', f'--theirs={theirs}']
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def says(*lines):
    return shlex.join([sys.executable, '-c', f'print({chr(10).join(lines)!r})'])


def test_the_median_ratio_of_rates_in_turn_is_printed(tmp_path):
    # A side that is half as fast from its third run on: the first two rounds outweigh the third.
    slowing = tmp_path / 'slowing.py'
    slowing.write_text(
        'import json, pathlib\n'
        f'seen = pathlib.Path({str(tmp_path / "runs")!r})\n'
        'runs = len(seen.read_text()) if seen.exists() else 0\n'
        "seen.write_text('x' * (runs + 1))\n"
        "print(json.dumps({'images_per_second': 30 if runs < 2 else 15}))\n"
    )
    theirs = says('starting', '{"images_per_second": 1}', '{"images_per_second": 20}', '{}')
    done = run(f'{sys.executable} {slowing}', theirs, 3)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {'name': 'ratio', 'median': 1.5, 'spread': '0.750 to 1.500'}


def test_a_side_that_fails_or_prints_no_rate_ends_it_with_a_sentence():
    good = says('{"images_per_second": 1}')
    for bad in (f'{sys.executable} -c "raise SystemExit(4)"', says('{"images": 3}')):
        for sides in ((good, bad), (bad, good)):
            done = run(*sides, 1)
            assert done.returncode == 1
            assert bad.split()[0] in done.stderr
            assert 'Traceback' not in done.stderr


@pytest.mark.parametrize(
    ('command', 'reason'),
    [('/nowhere/program --flag', 'No such file'), ('echo "open', 'No closing'), ('', 'run')],
)
def test_a_command_that_cannot_be_started_is_one_sentence(command, reason):
    done = run(command, says('{"images_per_second": 1}'), 1)
    assert (done.returncode, done.stderr.count('\n')) == (1, 1), done.stderr
    assert reason in done.stderr


def test_a_line_of_a_log_that_looks_like_json_does_not_count():
    ours = says('{"images_per_second": 2}', '{starting}', '{"images_per_second": null}', '{1: 2}')
    done = run(ours, says('{"images_per_second": 1}'), 1)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])['median'] == 2


def test_the_script_passes_a_path_with_spaces_to_ratio_as_one_argument():
    env = {**os.environ, 'PHOTOS': '/some where/photos', 'STEP_PEER': 'python peer.py'}
    done = subprocess.run(
        ['benchmarks/run.sh', '--dry-run'],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    commands = [shlex.split(line) for line in done.stdout.splitlines()]
    ours = [
        shlex.split(flag.removeprefix('--ours='))
        for command in commands
        for flag in command
        if flag.startswith('--ours=')
    ]
    assert len(ours) == 2
    for command in ours:
        assert '--config.data.source=/some where/photos' in command
        assert command[-1] == '--steps=8'
