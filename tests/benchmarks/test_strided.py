import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_both_forms_of_every_level_are_measured_and_are_the_same_function():
    flags = ['--size=4', '--width=4', '--batch=2', '--dtype=float32', '--rounds=1']
    done = subprocess.run(
        [sys.executable, '-m', 'benchmarks.strided', *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr  # it compares them
    rows = [line.split(' | ') for line in done.stdout.splitlines()[2:]]
    assert [row[0] for row in rows][:3] == [
        '| down, 4, 1 -> 4',
        '| up, 2, 8 -> 2',
        '| down, 2, 4 -> 8',
    ]
    assert len(rows) == 4
    assert all(float(cell.strip(' |')) > 0 for row in rows for cell in row[1:])
