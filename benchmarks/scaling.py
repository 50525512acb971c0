"""What a train step sends between devices, and on paper what that costs on many of them.

    python -m benchmarks.scaling --config=configs/pix2pix.py --config.data.source=sample \
        --batch_per_device=16 --config.dtype=bfloat16

Compiles the step for eight simulated devices, counts the collectives of its program and their
bytes, and derives the weak scaling (the batch of each device stays the same) from published
bandwidths and an assumed share of the peak: nothing of that table is measured.

The model is a pessimist's: no collective overlaps with computation, and each costs its latency and
what the slowest link needs for a ring all-reduce, 2 (n - 1) / n of its bytes. On a cluster of
8-GPU machines the machines' own ring reduces first and each GPU sends an eighth to the network.
XLA joins small collectives on accelerators; those of a norm's statistics cannot wait for others.
"""

import os

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=8'

import re
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from benchmarks import benchmark
from chromagan_jax.config import Config

_BATCH = flags.DEFINE_integer('batch_per_device', 16, 'Photographs a step on each device.')
_SHARE = flags.DEFINE_float('share_of_peak', 0.4, 'Of the bfloat16 peak that the step is given.')
COUNTS = (8, 64, 256)  # devices

_COLLECTIVE = re.compile(
    r' = (.*?) (all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all)(?:-start)?\('
)
_SHAPE = re.compile(r'[a-z]+(\d*)\[([\d,]*)\]')


class Chip(NamedTuple):
    """Published figures of an accelerator and of its links."""

    name: str
    flops: float  # dense bfloat16, FLOP/s
    near: float  # bytes/s that a device sends within a machine or slice
    far: float  # bytes/s that a device sends beyond it
    neighbours: int  # devices of a machine or slice
    near_latency: float  # s of a small all-reduce there
    far_latency: float  # s of one beyond


# H200: NVIDIA's data sheet (989 TFLOP/s; NVLink 900 GB/s, half of it each way) and one 400 Gb/s
# network card a GPU, as DGX H200 has. v5e: Google Cloud's documentation (197 TFLOP/s; 1,600 Gb/s
# between chips, 256 of them a slice). Latencies are customary figures, not published ones.
CHIPS = (
    Chip('H200', 989e12, 450e9, 50e9, 8, 15e-6, 40e-6),
    Chip('TPU v5e', 197e12, 200e9, 200e9, 256, 10e-6, 10e-6),
)


def main(config: Config) -> None:
    """Prints both tables."""
    config.batch_size = _BATCH.value * jax.device_count()
    step: Any = benchmark.compiled(config)
    found = collectives(step.as_text())
    print('| collective | how many a step | MB a step |')
    print('|---|---:|---:|')
    for kind in sorted({kind for kind, _ in found}):
        sizes = [size for other, size in found if other == kind]
        print(f'| {kind} | {len(sizes)} | {sum(sizes) / 1e6:.1f} |')
    flop = step.cost_analysis()['flops']
    print(f'\n{flop / 1e12:.2f} TFLOP a device and step, batch {_BATCH.value}\n')
    print(
        '| devices | ' + ' | '.join(f'{c.name}: ms, with collectives, kept' for c in CHIPS) + ' |'
    )
    print('|---:|' + '---|' * len(CHIPS))
    for count in COUNTS:
        cells = []
        for chip in CHIPS:
            alone = flop / chip.flops / _SHARE.value
            together = alone + sum(all_reduce_seconds(chip, count, size) for _, size in found)
            cells.append(f'{1e3 * alone:.1f}, {1e3 * together:.1f}, {alone / together:.0%}')
        print(f'| {count} | ' + ' | '.join(cells) + ' |')


def collectives(hlo: str) -> list[tuple[str, int]]:
    """Kind and bytes of the result of each collective in a program's text."""
    return [(kind, bytes_of(result)) for result, kind in _COLLECTIVE.findall(hlo)]


def bytes_of(shapes: str) -> int:
    """Bytes of all arrays in a piece of HLO: 'f32[2,3]{1,0}' has 24, a tuple the sum."""
    return sum(
        int(np.prod([int(n) for n in sides.split(',') if n] or [1])) * max(int(bits or 8), 8) // 8
        for bits, sides in _SHAPE.findall(shapes)
    )


def all_reduce_seconds(chip: Chip, count: int, size: int) -> float:
    """Seconds of an all-reduce of `size` bytes over `count` devices, as the module's text says."""
    near = min(count, chip.neighbours)
    seconds = chip.near_latency + 2 * (near - 1) / near * size / chip.near
    if count > near:
        machines = count // near
        seconds += chip.far_latency + 2 * (machines - 1) / machines * size / near / chip.far
    return seconds


if __name__ == '__main__':
    benchmark.run(main)
