"""Compares two results of the benchmarks and names what became slower or larger.

    python -m benchmarks.benchmark --config=configs/base.py >before.jsonl
    python -m benchmarks.benchmark --config=configs/base.py >after.jsonl
    python -m benchmarks.compare before.jsonl after.jsonl

The files hold JSON lines as the benchmarks print them. Lines with the same `name` and the same
settings are compared, in the figures of `BETTER`. A file may hold several runs, appended with >>;
their medians are compared. A change counts if it is larger than the noise: the largest of --noise,
the spread that a line states for its seconds, and the range of a figure over the runs of a file.

Exit codes: 0 nothing became worse; 1 something did, AFTER lacks a measurement, or an error in one
sentence.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chromagan_jax.errors import UserError
from tools import cli

# Figures, and whether more is better.
BETTER = {
    'images_per_second': True,
    'frames_per_second': True,
    'photographs_per_second': True,
    'seconds': False,
    'cold_seconds': False,
    'cached_seconds': False,
    'memory_bytes': False,
    'peak_bytes': False,
}
SETTINGS = (
    *('name', 'size', 'batch_size', 'batch', 'dtype', 'generator', 'discriminator', 'width'),
    *('discriminator_width', 'source', 'workers', 'threads', 'in_flight', 'folder'),
    *('photographs', 'megapixels'),
)
MACHINE = ('machine', 'cores', 'device', 'devices')

Line = Mapping[str, Any]


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    try:
        args = parse(argv)
        before, after = read(Path(args.before)), read(Path(args.after))
        shared = [key for key in before if key in after]
        changes = [c for key in shared for c in compare(before[key], after[key], args.noise)]
        if not shared:
            raise UserError(f'{args.before} and {args.after} have no measurement in common.')
    except UserError as error:
        print(f'compare: {error}', file=sys.stderr)
        return 1
    for line in warnings(before, after):
        print(line, file=sys.stderr)
    missing = [f'{label(key)}: only in {args.before}' for key in before if key not in after]
    worse = [text for text, is_worse in changes if is_worse]
    print('\n'.join([text for text, _ in changes] + missing or ['no change beyond the noise']))
    return 1 if worse or missing else 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The flags; raises UserError if one is missing or impossible."""
    parser = cli.Parser('python -m benchmarks.compare BEFORE AFTER [--noise=0.05]', __doc__)
    parser.add_argument('before', help='JSON lines')
    parser.add_argument('after', help='JSON lines')
    parser.add_argument('--noise', default=0.05, type=float, help='share (0.05)')
    return parser.parse_args(argv)


def read(path: Path) -> dict[tuple[Any, ...], list[Line]]:
    """The lines of each measurement in a file, by name and settings.

    Raises:
        UserError: if the file has none, or a line is no JSON object.
    """
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
        if others := [line for line in lines if not isinstance(line, dict)]:
            raise ValueError(f'{json.dumps(others[0])[:40]} is no object')
    except (OSError, ValueError) as error:
        raise UserError(f'{path} cannot be read as JSON lines ({error}).') from error
    found: dict[tuple[Any, ...], list[Line]] = {}
    for line in lines:
        if 'name' in line:
            key = tuple(_setting(line.get(name)) for name in SETTINGS)
            found.setdefault(key, []).append(line)
    if not found:
        raise UserError(f'{path} holds no measurement: redirect the output of a benchmark to it.')
    return found


def _setting(value: Any) -> Any:
    """A value that can be part of a key."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def label(key: tuple[Any, ...]) -> str:
    """The name of a measurement and its settings, such as 'pipeline (size 256, workers 2)'."""
    name, *settings = zip(SETTINGS, key, strict=True)
    shown = ', '.join(f'{setting} {value}' for setting, value in settings if value is not None)
    return f'{name[1]} ({shown})' if shown else str(name[1])


def compare(before: Sequence[Line], after: Sequence[Line], noise: float) -> list[tuple[str, bool]]:
    """A sentence for each figure that changed by more than the noise, and whether it is worse."""
    changes = []
    for figure, more_is_better in BETTER.items():
        values = [known(side, figure) for side in (before, after)]
        if not all(values):
            continue
        old, new = map(statistics.median, values)
        ratio = new / old
        allowed = max(noise, *(spread(side, figure) for side in (before, after)))
        if abs(ratio - 1) > allowed:
            worse = (ratio < 1) == more_is_better
            text = f'{before[0]["name"]}: {figure} {old:.4g} -> {new:.4g}'
            changes.append((f'{text}, {ratio:.2f} x, {"worse" if worse else "better"}', worse))
    return changes


def known(lines: Sequence[Line], figure: str) -> list[float]:
    """The values of a figure that are positive numbers."""
    values = [line.get(figure) for line in lines]
    return [value for value in values if isinstance(value, int | float) and value > 0]


def spread(lines: Sequence[Line], figure: str) -> float:
    """Noise of a figure as a share: its range over the runs, or the spread a line states."""
    values = known(lines, figure)
    shares = [(max(values) - min(values)) / statistics.median(values)]
    if figure in ('seconds', 'images_per_second'):
        stated = [line for line in lines if 'seconds_spread' in line]
        shares += [line['seconds_spread'] / line['seconds'] for line in stated]
    return max(shares)


def warnings(
    before: Mapping[tuple[Any, ...], list[Line]], after: Mapping[tuple[Any, ...], list[Line]]
) -> list[str]:
    """Sentences about differences of the machine, which make a comparison useless."""
    ours, theirs = next(iter(before.values()))[0], next(iter(after.values()))[0]
    return [
        f'the {name} differs: {ours.get(name)!r} and {theirs.get(name)!r}'
        for name in MACHINE
        if ours.get(name) != theirs.get(name)
    ]


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
