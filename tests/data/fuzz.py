"""Damages image files of all kinds, and reads them: each ends in pixels or in its own sentence.

    python -m tests.data.fuzz --count=5000 [--seed=0] [--folder=FILES]

Prints how many ended how, the slowest, and the memory of this process and of its decoders.
"""

import argparse
import itertools
import random
import re
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from chromagan_jax.data import decode
from chromagan_jax.data.decode import formats, process
from tests.data.corpus import corpus, dng

SECONDS = 10  # for one file


def originals(count: int) -> list[bytes]:
    """So many files of `corpus` and a camera's, in turn of each kind."""
    kinds: dict[str, list[bytes]] = {}
    for data in (dng(), *(made.data for made in corpus().values())):
        kind = formats.RAW if data == dng() else formats.identify(data).name
        kinds.setdefault(kind, []).append(data)
    rows = [itertools.cycle(spread(files, 9)) for files in kinds.values()]
    turns = itertools.cycle(rows)
    return [next(next(turns)) for _ in range(count)]


def spread(files: list[bytes], count: int) -> list[bytes]:
    """Up to so many of the files, from the first to the last."""
    return files[:: max(1, len(files) // count)]


def damaged(files: list[bytes], count: int, seed: int) -> Iterator[tuple[int, bytes]]:
    """So many damaged files, each with the index of its original."""
    for number in range(count):
        rng = random.Random(f'{seed} {number}')
        index = number % len(files)
        yield index, damage(files[index], rng)


def damage(data: bytes, rng: random.Random) -> bytes:
    """Flips, cuts, repeats or inflates bytes, once to eight times; half of them near the start."""
    content = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        if not content:
            break
        reach = len(content) if rng.random() < 0.5 else min(len(content), 300)
        place = rng.randrange(reach)
        length = rng.choice((1, 2, 4, 16, 200))
        kind = rng.choice(('flip', 'flip', 'set', 'cut', 'end', 'repeat', 'inflate'))
        if kind == 'flip':
            content[place] ^= 1 << rng.randrange(8)
        elif kind == 'set':
            content[place : place + length] = rng.choice((b'\0', b'\xff', b'\x7f')) * length
        elif kind == 'cut':
            del content[place : place + length]
        elif kind == 'end':
            del content[place:]
        elif kind == 'repeat':
            content[place:place] = content[place : place + length] * rng.choice((1, 2, 50))
        else:
            content[place:place] = rng.randbytes(length)
    return bytes(content)


def outcome(data: bytes) -> tuple[str, float]:
    """How a file ends, and the seconds it takes."""
    started = time.perf_counter()
    try:
        photo = decode.read(data)
        assert photo.pixels.size
        told = 'pixels'
    except decode.UnreadableImage as error:
        told = str(error)
        assert told
        assert '\n' not in told
    return told, time.perf_counter() - started


def peak(process_id: int) -> float:
    """The most memory that a process had, GB."""
    status = Path(f'/proc/{process_id}/status').read_text()
    return int(re.search(r'VmHWM:\s+(\d+)', status)[1]) / 2**20


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--count', type=int, default=300)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--folder', type=Path, help='files to damage instead of made ones')
    arguments = parser.parse_args()
    files = originals(60)
    if arguments.folder:
        files = [path.read_bytes() for path in sorted(arguments.folder.iterdir())]
    told: Counter[str] = Counter()
    slowest = 0.0
    for _, data in damaged(files, arguments.count, arguments.seed):
        words, seconds = outcome(data)
        slowest = max(slowest, seconds)
        told[re.sub(r'\d+', 'N', words)[:60]] += 1
    here = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    there = max((peak(decoder._process.pid) for decoder in process._idle.queue), default=0)
    for words, number in told.most_common(40):
        print(f'{number:6} {words}')
    crashed = sum(number for words, number in told.items() if 'crashed' in words)
    print(
        f'{told.total()} files: {told["pixels"]} pixels, the others sentences; '
        f'{crashed} crashed decoders; slowest {slowest:.2f} s; '
        f'peak {here:.2f} GB here, {there:.2f} GB in the decoder'
    )
    sys.exit(slowest > SECONDS)


if __name__ == '__main__':
    main()
