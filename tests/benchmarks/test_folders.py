import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import skimage

ROOT = Path(__file__).parents[2]
PHOTOS = Path(skimage.__file__).parent / 'data'


@pytest.mark.slow
def test_a_folder_has_a_rate_and_the_memory_of_its_command(tmp_path):
    for name in ('chelsea.png', 'coffee.png'):
        (tmp_path / name).write_bytes((PHOTOS / name).read_bytes())
    command = [sys.executable, '-m', 'benchmarks.folders', f'--photos={tmp_path}']
    counts = ['--small=3', '--medium=2', '--large=0']
    # Both folders compile: a program found on disk takes other memory.
    environment = {**os.environ, 'JAX_ENABLE_COMPILATION_CACHE': 'false'}
    done = subprocess.run(
        [*command, *counts], cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True
    )
    small, medium = map(json.loads, done.stdout.splitlines())
    assert (small['photographs'], medium['photographs']) == (3, 2)
    assert small['photographs_per_second'] == pytest.approx(3 / small['seconds'])
    # 24 megapixels of RGB are 72 MB, in and out, and two photographs are in memory at once.
    assert 1e8 < small['peak_bytes'] + 100e6 < medium['peak_bytes'] < 8e9
