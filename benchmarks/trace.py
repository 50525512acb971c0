"""Sums the time of each operation in a trace of --profile, the longest first.

    python -m chromagan_jax.main --config=configs/photos.py --profile ...
    python -m benchmarks.trace runs/photos/profile

Sums the time of each operation of the compiled programs over the newest trace in the folder. On a
GPU or TPU the operations of a device run one after another, so the sum is its busy time. On a CPU
some run in parallel. The kinds are XLA's: `fusion` is code that XLA generated; `custom-call` and
names with `__cublas` or `__cudnn` are library calls; `ynn_fusion` are matrix products and
convolutions of YNNPACK; `all-reduce` and similar are communication between devices; `copy` and
`transpose` are layout changes.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags
from jax.profiler import ProfileData

from benchmarks import command

_TOP = flags.DEFINE_integer('top', 25, 'Rows of each table.', lower_bound=0)


def main(argv: Sequence[str]) -> None:
    """Prints the time by kind of operation and by operation."""
    traces = [path for name in argv[1:] for path in Path(name).rglob('*.xplane.pb')]
    if not traces:
        sys.exit('No trace: name a folder that --profile wrote, such as runs/photos/profile.')
    newest = max(traces, key=lambda path: path.stat().st_mtime)
    seconds: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for name, nanoseconds in operations(newest):
        seconds[name] += nanoseconds * 1e-9  # type: ignore[assignment]
        counts[name] += 1
    total = sum(seconds.values())
    kinds: Counter[str] = Counter()
    for name, spent in seconds.items():
        kinds[re.sub(r'[.\d]+$', '', name)] += spent
    print(f'{newest}: {1e3 * total:.1f} ms in {sum(counts.values())} operations')
    for title, found in (('kind', kinds), ('operation', seconds)):
        print(f'\n{"ms":>10} {"share":>6} {"times":>6}  {title}')
        for name, spent in found.most_common(_TOP.value):
            times = counts[name] if title == 'operation' else ''
            print(f'{1e3 * spent:10.2f} {spent / total:6.1%} {times:>6}  {name}')


def operations(trace: Path) -> Iterator[tuple[str, float]]:
    """Yields the name and the nanoseconds of each operation that a compiled program ran."""
    for plane in ProfileData.from_file(str(trace)).planes:
        lines = {line.name: list(line.events) for line in plane.lines}
        # On a TPU and a GPU other lines repeat the events by program, module and source.
        for events in [lines['XLA Ops']] if 'XLA Ops' in lines else lines.values():
            for event in events:
                operation = dict(event.stats).get('hlo_op')
                if operation or 'XLA Ops' in lines:
                    yield str(operation or event.name), event.duration_ns


if __name__ == '__main__':
    command.start(main)
