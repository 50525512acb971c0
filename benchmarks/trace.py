"""Where a step's time goes: the operations of a trace, the dearest first.

    python -m chromagan_jax.main --config=configs/photos.py --profile ...
    python -m benchmarks.trace runs/photos/profile

Sums the time of each operation of the compiled programs over the newest trace in the folder. On a
GPU or TPU operations of one device follow one another, so that their sum is the time that it was
busy; on a CPU some run side by side. The kinds are XLA's: `fusion` what it wrote itself,
`custom-call` and `__cublas` or `__cudnn` in a name a library's, `ynn_fusion` YNNPACK's products and
convolutions, `all-reduce` and the like the talk between devices, `copy` and `transpose` a change
of layout that nobody asked for.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import app, flags
from jax.profiler import ProfileData

_TOP = flags.DEFINE_integer('top', 25, 'Operations that are listed by themselves.', lower_bound=0)


def main(argv: Sequence[str]) -> None:
    """Prints the kinds of operations and the dearest of them."""
    traces = [path for name in argv[1:] for path in Path(name).rglob('*.xplane.pb')]
    if not traces:
        sys.exit('No trace: name a folder that --profile has written, such as runs/photos/profile.')
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
    """Each run of an operation of a compiled program: its name, and its nanoseconds."""
    for plane in ProfileData.from_file(str(trace)).planes:
        lines = {line.name: list(line.events) for line in plane.lines}
        # A TPU's and a GPU's events are listed again by program, module and source.
        for events in [lines['XLA Ops']] if 'XLA Ops' in lines else lines.values():
            for event in events:
                operation = dict(event.stats).get('hlo_op')
                if operation or 'XLA Ops' in lines:
                    yield str(operation or event.name), event.duration_ns


if __name__ == '__main__':
    app.run(main)
