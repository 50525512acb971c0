"""Photographs a second and peak memory of `colorize` on folders of small and of large photographs.

    python -m benchmarks.folders --photos=DIR

Makes three folders from the photographs of DIR: `--small` as they are, `--medium` of 24 megapixels
and `--large` of 100. Runs the command on each, and prints a JSON line with the photographs a
second, the start included, and the peak memory of the command and its decoders. The first run on a
machine also compiles the network, so run it twice.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import cv2
from absl import flags

from benchmarks import command
from chromagan_jax.data.decode import decode
from chromagan_jax.data.listing import Ignored, image_names

_PHOTOS = flags.DEFINE_string('photos', None, 'Folder of photographs.', required=True)
_SMALL = flags.DEFINE_integer('small', 500, 'Photographs of their own size.')
_MEDIUM = flags.DEFINE_integer('medium', 12, 'Photographs of 24 megapixels.')
_LARGE = flags.DEFINE_integer('large', 4, 'Photographs of 100 megapixels.')
_SUFFIX = flags.DEFINE_enum(
    'suffix', '.jpg', ['.jpg', '.png', '.tif'], 'Of 24 megapixels and more.'
)
_FLAGS = flags.DEFINE_multi_string('flag', [], 'A flag of colorize.')
_PAUSE = 0.05  # s between looks at the memory


def main(_: list[str]) -> None:
    """Prints a line for each folder."""
    names = sorted(image_names(_PHOTOS.value, Ignored()))
    sizes = {'small': None, '24 megapixels': (6000, 4000), '100 megapixels': (12250, 8164)}
    counts = (_SMALL.value, _MEDIUM.value, _LARGE.value)
    for (kind, size), count in zip(sizes.items(), counts, strict=True):
        if not count:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch, 'photographs')
            make(folder, itertools.islice(itertools.cycle(names), count), size)
            seconds, memory = colorize(folder, Path(scratch, 'results'))
        line = {
            'name': 'folders',
            'folder': kind,
            'source': _PHOTOS.value,
            'photographs': count,
            'photographs_per_second': count / seconds,
            'seconds': seconds,
            'peak_bytes': memory,
        }
        print(json.dumps(line | command.describe()), flush=True)


def make(folder: Path, names: Iterable[str], size: tuple[int, int] | None) -> None:
    """Writes the named photographs to a folder, resized to `size` (width, height) px."""
    folder.mkdir()
    for number, name in enumerate(names):
        source = Path(_PHOTOS.value, name)
        if size is None:
            (folder / f'{number:04}{source.suffix}').write_bytes(source.read_bytes())
            continue
        pixels = cv2.cvtColor(decode(source.read_bytes()), cv2.COLOR_RGB2BGR)
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f'{number:04}{_SUFFIX.value}'), pixels)


def colorize(folder: Path, results: Path) -> tuple[float, int]:
    """Seconds of the command and its peak memory, bytes.

    The memory is the largest sum of the proportional set sizes of the command and its decoders.

    Raises:
        subprocess.CalledProcessError: if the command fails.
    """
    command = [sys.executable, '-m', 'chromagan_jax.colorize', f'--output={results}']
    began = time.monotonic()
    with subprocess.Popen([*command, *_FLAGS.value, str(folder)]) as process:
        peaks = [0]
        ended = threading.Event()
        watcher = threading.Thread(target=watch, args=(process.pid, peaks, ended))
        watcher.start()
        code = process.wait()
        seconds = time.monotonic() - began
        ended.set()
        watcher.join()
    if code:
        raise subprocess.CalledProcessError(code, command)
    return seconds, max(peaks)


def watch(pid: int, peaks: list[int], ended: threading.Event) -> None:
    """Appends the memory of a process and its children to `peaks` until `ended`."""
    while not ended.wait(_PAUSE):
        peaks.append(sum(memory(each) for each in (pid, *children(pid))))


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    found: list[int] = []
    for path in Path(f'/proc/{pid}/task').glob('*/children'):
        try:
            found += map(int, path.read_text().split())
        except OSError:  # the thread has ended
            continue
    return found


def memory(pid: int) -> int:
    """The proportional set size of a process, bytes; 0 if it has ended."""
    try:
        lines = Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith('Pss:'))


if __name__ == '__main__':
    os.environ.setdefault('JAX_PLATFORMS', 'cpu')
    command.start(main)
