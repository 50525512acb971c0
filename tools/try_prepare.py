"""Tests chromagan_jax.prepare with duplicates and bad images added to photographs.

    python -m tools.try_prepare --photos=DIR --odd=DIR --output=DIR

Adds --count images of each kind of duplicate and each kind of bad image to links to the
photographs, prepares them all, and writes to table.md and table.json how many were found and what
was dropped wrongly.

    python -m tools.try_prepare --photos=DIR --output=DIR --speed

Measures the speed and memory of the preparation instead, and the time of its decoding, resizing and
encoding without the pipeline; and the read speed of the result and of the folder. --copies=4 shows
whether memory grows with the number of images.
"""

import csv
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from absl import flags
from PIL import Image, ImageOps

from chromagan_jax.data.decode import decode, resize_short
from chromagan_jax.data.listing import Ignored, image_names
from chromagan_jax.data.sources import make_source
from chromagan_jax.errors import UserError
from chromagan_jax.evaluation.report.runs import encode_jpeg as jpeg
from chromagan_jax.prepare.pictures import Options, encode_jpeg
from chromagan_jax.utils import cli, files

ROOT = Path(__file__).resolve().parents[1]
SEED = 0


class Planted(NamedTuple):
    """An added file and its expected outcome."""

    name: str  # below the input folder
    kind: str
    outcome: str  # the expected reason of dropping it; of a duplicate, it or its base
    base: str  # the photograph it was made from; '' for an odd file


def scaled(image: Image.Image, scale: float) -> Image.Image:
    """`image` with sides `scale` times as long."""
    return image.resize((round(image.width * scale), round(image.height * scale)))


def sepia(image: Image.Image) -> Image.Image:
    """`image` in shades of brown."""
    return ImageOps.colorize(image.convert('L'), '#1c1005', '#fff3dc', mid='#8f6f47')


# (kind, expected outcome) -> function of a photograph's bytes that makes the added file.
KINDS: dict[tuple[str, str], Callable[[bytes, Image.Image], bytes]] = {
    ('renamed', 'duplicate'): lambda data, image: data,
    ('re-encoded', 'duplicate'): lambda data, image: jpeg(image, 50),
    ('rescaled to 60 %', 'duplicate'): lambda data, image: jpeg(scaled(image, 0.6), 90),
    ('enlarged to 150 %', 'duplicate'): lambda data, image: jpeg(scaled(image, 1.5), 90),
    ('mirrored', 'duplicate'): lambda data, image: jpeg(ImageOps.mirror(image), 90),
    ('gray', 'gray'): lambda data, image: jpeg(image.convert('L'), 90),
    ('gray in RGB', 'gray'): lambda data, image: jpeg(image.convert('L').convert('RGB'), 75),
    ('sepia', 'gray'): lambda data, image: jpeg(sepia(image), 90),
    ('cut off', 'undecodable'): lambda data, image: data[: len(data) // 2],
    ('thumbnail', 'too_small'): lambda data, image: jpeg(image.resize((60, 45)), 90),
    ('strip', 'too_elongated'): lambda data, image: jpeg(image.resize((400, 100)), 90),
}


def plant(photos: Path, odd: Path | None, pile: Path, count: int) -> list[Planted]:
    """Links photographs into the folder `pile`, adds the other files; UserError if it cannot."""
    names, needed = sorted(image_names(str(photos), Ignored())), count * len(KINDS)
    if len(names) < needed:
        raise UserError(f'{photos} holds fewer than {needed} photographs: lower --count={count}.')
    if pile.exists():
        raise UserError(f'{pile} exists: choose another --output.')
    pile.mkdir(parents=True)
    for name in names:
        link = pile / 'photos' / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(photos.absolute() / name)
    chosen = iter(random.Random(SEED).sample(names, needed))
    planted = []
    (pile / 'planted').mkdir()
    for (kind, outcome), make in KINDS.items():
        for index in range(count):
            base = next(chosen)
            data = (photos / base).read_bytes()
            name = f'planted/{"".join(filter(str.isalnum, kind))}_{index:03d}.jpg'
            image = Image.fromarray(decode(data))
            (pile / name).write_bytes(make(data, image))
            planted.append(Planted(name, kind, outcome, f'photos/{base}'))
    if odd:
        planted += [
            Planted(f'odd/{name}', 'odd file', outcome, '')
            for name, outcome in expected_of_odd(odd / 'manifest.csv')
        ]
        shutil.copytree(odd, pile / 'odd', copy_function=shutil.copyfile)
    return planted


def expected_of_odd(manifest: Path) -> Iterator[tuple[str, str]]:
    """Yields the odd files that must be dropped, with the reason; others may stay or be dropped."""
    with manifest.open(newline='') as file:
        for row in csv.DictReader(file):
            if row['pil_load'] != 'ok':
                yield row['file'], 'undecodable'
                continue
            short, long = sorted((int(row['width']), int(row['height'])))
            if short < Options().min_side:
                yield row['file'], 'too_small'
            elif long > Options().max_aspect * short:
                yield row['file'], 'too_elongated'
            elif row['pil_format_mode'].endswith(('/L', '/1', '/I;16')) or 'sepia' in row['file']:
                yield row['file'], 'gray'


def compare(planted: Sequence[Planted], pictures: Path) -> dict[str, Any]:
    """What was found, missed and dropped wrongly, from pictures.csv."""
    with pictures.open(newline='') as file:
        rows = {row['file']: row for row in csv.DictReader(file)}
    counts: dict[str, Counter[str]] = {}
    missed, partners = [], {one.base for one in planted if one.outcome == 'duplicate'}
    for one in planted:
        tally = counts.setdefault(one.kind, Counter())
        # Either of two duplicates may be dropped.
        pair = (one.name, one.base) if one.outcome == 'duplicate' else (one.name,)
        found = any(rows[name]['decision'] not in ('train', 'test') for name in pair)
        tally['found' if found else 'missed'] += 1
        if not found:
            missed.append({**one._asdict(), 'was': rows[one.name]['decision']})
    dropped = [
        {'file': name, 'decision': row['decision'], 'detail': row['detail']}
        for name, row in rows.items()
        if name.startswith('photos/')
        and row['decision'] not in ('train', 'test')
        # A photograph may be dropped as the duplicate of an added file.
        and not (
            name in partners and row['decision'] == 'duplicate' and ' planted/' in row['detail']
        )
    ]
    return {
        'planted': {kind: dict(tally) for kind, tally in counts.items()},
        'missed': missed,
        'photographs': sum(name.startswith('photos/') for name in rows),
        'photographs_dropped': dict(Counter(row['decision'] for row in dropped)),
        'dropped': sorted(dropped, key=lambda row: (row['decision'], row['file'])),
    }


def table_of(result: Mapping[str, Any]) -> str:
    """The counts as a Markdown table."""
    lines = ['| planted | found | missed |', '|---|---|---|']
    for kind, tally in result['planted'].items():
        lines.append(f'| {kind} | {tally.get("found", 0)} | {tally.get("missed", 0)} |')
    wrong = ', '.join(f'{n} as {why}' for why, n in result['photographs_dropped'].items())
    return '\n'.join(lines) + (
        f'\n\nDropped of the {result["photographs"]} photographs: {wrong or "none"}.\n'
    )


def run_prepare(pile: Path, output: Path, *arguments: str) -> tuple[float, float, float]:
    """Runs the command.

    Returns:
        Wall-clock seconds, CPU seconds, and the peak memory of all its processes in MB.
    """
    command = [sys.executable, '-m', 'chromagan_jax.prepare', f'--input={pile}']
    begun, before, most = time.monotonic(), worked(), 0.0
    process = subprocess.Popen([*command, f'--output={output}', *arguments], cwd=ROOT)
    while process.poll() is None:
        most = max(most, memory(process.pid))
        time.sleep(0.1)
    if process.returncode:
        sys.exit(process.returncode)
    return time.monotonic() - begun, worked() - before, most


def worked() -> float:
    """CPU seconds of the child processes that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def memory(pid: int) -> float:
    """Memory of a process and its descendants in MB (Linux); shared pages count once."""
    total = 0.0
    try:
        for line in Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines():
            if line.startswith('Pss:'):
                total += int(line.split()[1]) / 1024
        for task in Path(f'/proc/{pid}/task').iterdir():
            total += sum(memory(int(child)) for child in (task / 'children').read_text().split())
    except OSError:
        pass  # the process has ended
    return total


def work_without_pipeline(paths: Sequence[Path]) -> float:
    """Reads, decodes, resizes and encodes without the pipeline; returns CPU seconds."""
    begun = time.process_time()
    cv2.setNumThreads(1)
    for path in paths:
        rgb = decode(path.read_bytes())
        if min(rgb.shape[:2]) > Options().size:
            rgb = resize_short(rgb, Options().size)
        encode_jpeg(np.ascontiguousarray(rgb), Options().quality)
    return time.process_time() - begun


def read_speed(source: str, number: int) -> float:
    """Images/s of one thread that reads and decodes the first `number`, from the page cache."""
    opened = make_source(source)
    for _ in range(2):  # the first round fills the page cache
        begun = time.monotonic()
        for index in range(number):
            decode(opened[index]['image'])
    return round(number / (time.monotonic() - begun), 1)


def multiply(photos: Path, folder: Path, copies: int) -> Path:
    """A folder with `copies` files of each photograph, which differ in an appended byte."""
    for number in range(copies):
        for name in image_names(str(photos), Ignored()):
            copy = folder / str(number) / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((photos / name).read_bytes() + bytes([number]))
    return folder


def measure(photos: Path, output: Path, workers: int) -> dict[str, Any]:
    """Images/s of the work without the pipeline, of the command and of reading; its memory."""
    paths = [photos / name for name in sorted(image_names(str(photos), Ignored()))]
    parts = [paths[index::workers] for index in range(workers)]
    with ProcessPoolExecutor(workers) as pool:
        list(pool.map(work_without_pipeline, [part[:4] for part in parts]))  # imports
        begun = time.monotonic()
        floor_busy, floor = sum(pool.map(work_without_pipeline, parts)), time.monotonic() - begun
    seconds, busy, most = run_prepare(photos, output, f'--workers={workers}', '--distance=-1')
    number = len(make_source(str(output)))
    return {
        'pictures': len(paths),
        'workers': workers,
        'floor_pictures_per_second': round(len(paths) / floor, 1),
        'pictures_per_second': round(len(paths) / seconds, 1),
        'share_of_floor': round(floor / seconds, 3),
        'floor_processor_ms_per_picture': round(1000 * floor_busy / len(paths), 2),
        'processor_ms_per_picture': round(1000 * busy / len(paths), 2),
        'memory_mb': round(most),
        'read_folder_per_second': read_speed(str(photos), number),
        'read_prepared_per_second': read_speed(str(output), number),
    }


def make_flags() -> flags.FlagValues:
    """The flags of the command, apart from absl's global ones."""
    values = flags.FlagValues()
    define = partial(flags.DEFINE_string, flag_values=values)
    define('photos', None, 'Photographs in colour.', required=True)
    define('odd', '', 'Odd files with a manifest.csv.')
    define('output', None, 'A new folder.', required=True)
    flags.DEFINE_integer('count', 50, 'Files added of each kind.', flag_values=values)
    flags.DEFINE_integer('workers', os.cpu_count() or 1, 'As in prepare.', flag_values=values)
    flags.DEFINE_bool('speed', False, 'Measure the speed.', flag_values=values)
    flags.DEFINE_integer('copies', 1, 'Of each photograph, with --speed.', flag_values=values)
    return values


def main(argv: Sequence[str]) -> int:
    """Runs the test or the measurement; returns the exit code."""
    values = make_flags()
    if cli.asks_for_help(argv):
        own = cli.described(values[name] for name in values)
        print(f'{__doc__}\n{cli.flag_lines(own)}')
        return 0
    try:
        cli.parse(values, argv)
        (measure_speed if values.speed else try_decisions)(values, Path(values.output))
    except UserError as error:
        cli.print_error(str(error))
        return 1
    return 0


def measure_speed(values: flags.FlagValues, output: Path) -> None:
    """Measures the speed; prints it and writes speed.json."""
    photos = multiply(Path(values.photos), output / 'pile', values.copies)
    result = measure(photos, output / 'prepared', values.workers)
    print(json.dumps(result, indent=2))
    files.write_json(output / 'speed.json', result)


def try_decisions(values: flags.FlagValues, output: Path) -> None:
    """Compares what prepare drops with what should be dropped; writes table.json and table.md."""
    odd = Path(values.odd) if values.odd else None
    planted = plant(Path(values.photos), odd, output / 'pile', values.count)
    run_prepare(output / 'pile', output / 'prepared', f'--workers={values.workers}')
    result = compare(planted, output / 'prepared' / 'pictures.csv')
    files.write_json(output / 'table.json', result)
    table = table_of(result)
    files.write_atomically(output / 'table.md', table.encode())
    print(table)


if __name__ == '__main__':
    sys.exit(main(sys.argv))
