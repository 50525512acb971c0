r"""The communication of a train step between devices, and its estimated cost on many of them.

    python -m benchmarks.scaling --config=configs/pix2pix.py --config.data.source=sample \
        --batch_per_device=16 --config.dtype=bfloat16

Compiles the step for eight simulated devices and counts the collectives of the program and their
bytes. From these it estimates weak scaling (a constant batch per device) with published bandwidths
and an assumed share of the peak. The second table is an estimate, not a measurement.

The estimate is pessimistic. No collective overlaps with computation. Each takes its latency plus
the time of a ring all-reduce over the slowest link, 2 (n - 1) / n of its bytes. On a cluster of
8-GPU machines, each machine reduces first and each GPU sends an eighth to the network. On
accelerators XLA combines small collectives, except those of norm statistics, which cannot wait.

With mesh.gradients=per_device the collectives are those that the program asks for, before XLA's
CPU back end combines all of them into one and converts bfloat16 to float32.
"""

import os

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=8'

import re
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from benchmarks import command
from chromagan_jax import sharding
from chromagan_jax.config import Config
from chromagan_jax.gan import steps
from chromagan_jax.gan.model import make_model
from chromagan_jax.training import loop

_BATCH = flags.DEFINE_integer('batch_per_device', 16, 'Photographs a step and device.')
_SHARE = flags.DEFINE_float('share_of_peak', 0.4, 'Assumed share of the bfloat16 peak.')
COUNTS = (8, 64, 256)  # devices

_COLLECTIVE = re.compile(
    r' = (.*?) (all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all)(?:-start)?\('
)
_EXPLICIT = re.compile(
    r'stablehlo\.all_reduce".*?\) : \(tensor<(?:([\dx]+)x)?[a-z]+(\d+)>\) -> tensor', re.S
)
_SHAPE = re.compile(r'[a-z]+(\d*)\[([\d,]*)\]')


class Chip(NamedTuple):
    """Figures of an accelerator and its links."""

    name: str
    flops: float  # dense bfloat16, FLOP/s
    near: float  # bytes/s that a device sends inside a machine or slice
    far: float  # bytes/s that a device sends to other machines or slices
    neighbours: int  # devices of a machine or slice
    near_latency: float  # s of a small all-reduce inside a machine or slice
    far_latency: float  # s of a small all-reduce between them


# H200: NVIDIA's data sheet (989 TFLOP/s; NVLink 900 GB/s, half of it each way) and one 400 Gb/s
# network card a GPU, as DGX H200 has. v5e: Google Cloud's documentation (197 TFLOP/s; 1,600 Gb/s
# between chips, 256 chips a slice). The latencies are assumptions.
CHIPS = (
    Chip('H200', 989e12, 450e9, 50e9, 8, 15e-6, 40e-6),
    Chip('TPU v5e', 197e12, 200e9, 200e9, 256, 10e-6, 10e-6),
)


def main(config: Config) -> None:
    """Prints both tables."""
    config.batch_size = _BATCH.value * jax.device_count()
    step, asked = compiled(config)
    found = asked or collectives(step.as_text())
    print('| collective | how many a step | MB a step |')
    print('|---|---:|---:|')
    for kind in sorted({kind for kind, _ in found}):
        sizes = [size for other, size in found if other == kind]
        print(f'| {kind} | {len(sizes)} | {sum(sizes) / 1e6:.1f} |')
    flop = step.cost_analysis()['flops']
    print(f'\n{flop / 1e12:.2f} TFLOP a device and step, batch {_BATCH.value}\n')
    print(
        '| devices | '
        + ' | '.join(f'{c.name}: ms, with collectives, efficiency' for c in CHIPS)
        + ' |'
    )
    print('|---:|' + '---|' * len(CHIPS))
    for count in COUNTS:
        cells = []
        for chip in CHIPS:
            alone = flop / chip.flops / _SHARE.value
            together = alone + sum(all_reduce_seconds(chip, count, size) for _, size in found)
            cells.append(f'{1e3 * alone:.1f}, {1e3 * together:.1f}, {alone / together:.0%}')
        print(f'| {count} | ' + ' | '.join(cells) + ' |')


def compiled(config: Config) -> tuple[Any, list[tuple[str, int]]]:
    """The compiled train step, and the collectives that its program asks for itself."""
    mesh = sharding.make_mesh(config.mesh.fsdp)
    lowered = loop.trace_step(make_model(config, mesh), config, mesh, steps.train_step).lower()
    return lowered.compile(), explicit_collectives(lowered.as_text())


def explicit_collectives(stablehlo: str) -> list[tuple[str, int]]:
    """As `collectives`, of all-reduces in the StableHLO text of a program."""
    return [
        (
            'all-reduce',
            int(np.prod([int(n) for n in sides.split('x') if n] or [1])) * int(bits) // 8,
        )
        for sides, bits in _EXPLICIT.findall(stablehlo)
    ]


def collectives(hlo: str) -> list[tuple[str, int]]:
    """Kind and result bytes of each collective in the HLO text of a program."""
    return [(kind, bytes_of(result)) for result, kind in _COLLECTIVE.findall(hlo)]


def bytes_of(shapes: str) -> int:
    """Bytes of all arrays in a shape of HLO: 'f32[2,3]{1,0}' has 24, a tuple the sum."""
    return sum(
        int(np.prod([int(n) for n in sides.split(',') if n] or [1])) * max(int(bits or 8), 8) // 8
        for bits, sides in _SHAPE.findall(shapes)
    )


def all_reduce_seconds(chip: Chip, count: int, size: int) -> float:
    """Seconds of an all-reduce of `size` bytes over `count` devices; the model is in the module."""
    near = min(count, chip.neighbours)
    seconds = chip.near_latency + 2 * (near - 1) / near * size / chip.near
    if count > near:
        machines = count // near
        seconds += chip.far_latency + 2 * (machines - 1) / machines * size / near / chip.far
    return seconds


if __name__ == '__main__':
    command.run(main)
