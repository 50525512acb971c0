"""A training on a CPU keeps freed memory, unless the environment says otherwise."""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import numpy as np
from chromagan_jax.utils import allocator

def resident():  # MB
    pages = int(open('/proc/self/statm').read().split()[1])
    return pages * 4096 / 2**20

changed = allocator.keep_freed_memory()
before = resident()
block = np.ones(2**28, np.uint8)
del block
print(changed, resident() - before > 200)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='only glibc has these settings')
@pytest.mark.parametrize(
    ('variables', 'kept'), [({}, True), ({'MALLOC_TRIM_THRESHOLD_': '131072'}, False)]
)
def test_a_large_block_that_is_freed_is_kept_unless_the_environment_has_settings(variables, kept):
    others = {k: v for k, v in os.environ.items() if not k.startswith(('MALLOC_', 'GLIBC_'))}
    ran = subprocess.run(
        [sys.executable, '-c', PROGRAM],
        env=others | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.split() == [str(kept), str(kept)]
