import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_each_of_the_three_grows_alone_and_the_table_holds_all(tmp_path):
    flags = ['--batch_sizes=8,16', '--sizes=16', '--widths=4,8', '--steps=2']
    config = [
        '--config=configs/base.py:tiny',
        '--config.generator.depth=2',
        '--config.discriminator.layers=1',
        '--config.data.size=16',
    ]
    done = subprocess.run(
        [sys.executable, '-m', 'benchmarks.growth', *config, *flags, f'--output={tmp_path}'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    rows = json.loads((tmp_path / 'growth.json').read_text())
    measured = [(row['batch_size'], row['size'], row['width']) for row in rows]
    assert measured == [(8, 16, 4), (16, 16, 4), (8, 16, 8)]
    assert rows[1]['flop'] > 1.5 * rows[0]['flop']
    assert rows[2]['state_bytes'] > 3 * rows[0]['state_bytes']
    assert (tmp_path / 'growth.md').read_text().count('\n') == 5
    pytest.importorskip('matplotlib', reason='needs matplotlib: pip install -e ".[plot]"')
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'growth.png').stat().st_size > 1000
