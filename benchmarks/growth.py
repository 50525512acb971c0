"""Time and memory of a train step over batch size, resolution and width.

    python -m benchmarks.growth --config=configs/base.py --config.ema_decay=0.0 --output=runs/growth

Measures the step at the config's batch size, resolution and width, and varies one of the three at a
time, in one process. Writes growth.md and growth.json after each measurement and growth.png at the
end, which needs matplotlib (the extra `[plot]`). Memory is what the compiled program requires:
state, batch and temporaries.
"""

import copy
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks import command, steps
from chromagan_jax.config import Config, flatten, set_field
from chromagan_jax.utils import files

_OUTPUT = flags.DEFINE_string('output', None, 'Folder of the table and the plot.', required=True)
_LISTS = {
    'batch_size': flags.DEFINE_list('batch_sizes', ['1', '2', '4', '8', '16'], 'Batch sizes.'),
    'size': flags.DEFINE_list('sizes', ['32', '64', '128', '256'], 'Resolutions, px.'),
    'width': flags.DEFINE_list('widths', ['8', '16', '32', '64'], 'Widths of both networks.'),
}
flags.declare_key_flag('steps')
flags.declare_key_flag('warm_up')

Row = dict[str, float]


def main(config: Config) -> None:
    """Measures, and writes the table and the plot."""
    output = Path(_OUTPUT.value)
    own = {
        'batch_size': config.batch_size,
        'size': config.data.size,
        'width': flatten(config)['generator.width'],
    }
    rows: list[Row] = []
    for name, values in _LISTS.items():
        for value in map(int, values.value):
            wanted = own | {name: value}
            if not any(wanted.items() <= row.items() for row in rows):
                rows.append(measure(config, wanted))
                files.write_json(output / 'growth.json', rows)
                files.write_atomically(output / 'growth.md', table(rows).encode())
    print(table(rows))
    plot(rows, own, output / 'growth.png')


def measure(config: Config, wanted: dict[str, int]) -> Row:
    """Seconds, images/s, FLOP and bytes of a step at the `wanted` batch size, size and width."""
    config = copy.deepcopy(config)
    config.batch_size, config.data.size = wanted['batch_size'], wanted['size']
    for network in ('generator', 'discriminator'):
        set_field(config, f'{network}.width', wanted['width'])
    step: Any = steps.compiled(config)
    seconds = statistics.median(steps.seconds_of(step, steps.make_inputs(config))[0])
    memory = step.memory_analysis()
    row = {
        **wanted,
        'seconds': seconds,
        'images_per_second': config.batch_size / seconds,
        'flop': (step.cost_analysis() or {}).get('flops', 0.0),
        'state_bytes': memory.argument_size_in_bytes,
        'temporary_bytes': memory.temp_size_in_bytes,
    }
    print(json.dumps(row), flush=True)
    return row


def table(rows: Sequence[Row]) -> str:
    """The measurements as a Markdown table."""
    lines = [
        '| batch | px | width | ms | images/s | GFLOP | GFLOP/s | state, MB | temporary, MB |',
        '|---:|---:|---:|---:|---:|---:|---:|---:|---:|',
    ]
    for row in rows:
        cells = (
            f'{row["batch_size"]} | {row["size"]} | {row["width"]} | {1e3 * row["seconds"]:.0f}',
            f'{row["images_per_second"]:.2f} | {row["flop"] / 1e9:.1f}',
            f'{row["flop"] / row["seconds"] / 1e9:.0f}',
            f'{row["state_bytes"] / 1e6:.0f} | {row["temporary_bytes"] / 1e6:.0f}',
        )
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


def plot(rows: Sequence[Row], own: dict[str, int], path: Path) -> None:
    """Plots time and memory over each of the three; the other two are those of the config."""
    import matplotlib

    matplotlib.use('agg')
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 3, figsize=(10, 5.5), sharey='row', layout='constrained')
    for column, (name, label) in enumerate(
        {'batch_size': 'batch size', 'size': 'resolution, px', 'width': 'width'}.items()
    ):
        others = {other: value for other, value in own.items() if other != name}
        chosen = sorted((r for r in rows if others.items() <= r.items()), key=lambda r: r[name])
        for row, key in enumerate(('seconds', 'temporary_bytes')):
            scale = 1e3 if key == 'seconds' else 1e-6
            values = [scale * measured[key] for measured in chosen]
            axes[row, column].loglog([measured[name] for measured in chosen], values, 'o-')
            axes[row, column].grid(alpha=0.3, which='both')
            axes[row, column].set_xticks([r[name] for r in chosen], [str(r[name]) for r in chosen])
            axes[row, column].minorticks_off()
        axes[1, column].set_xlabel(label)
    axes[0, 0].set_ylabel('ms a step')
    axes[1, 0].set_ylabel('temporary memory, MB')
    figure.savefig(path, dpi=110)


if __name__ == '__main__':
    command.run(main)
