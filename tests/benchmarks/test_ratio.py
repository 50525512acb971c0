import json
import shlex
import subprocess
import sys
from pathlib import Path

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
