"""The kernels and the memory of the train step on an H100, compiled without the device.

    python -m benchmarks.kernels --config=configs/base.py --config.dtype=bfloat16

Needs JAX's plug-in for CUDA and `ptxas` on the PATH (jax-cuda12-plugin, jax-cuda12-pjrt and
nvidia-cuda-nvcc-cu12), and JAX_SKIP_CUDA_CONSTRAINTS_CHECK=1. Nothing is measured: XLA chooses
without trying, and the description of the device is approximate. --kernel_gradient and --stride
choose the formulations of `backend.Forms`. Prints JSON.
"""

import collections
import json
import re
from typing import Any
from unittest import mock

import jax
from absl import flags
from jax.experimental import topologies

from benchmarks import command
from chromagan_jax import sharding
from chromagan_jax.config import Config
from chromagan_jax.gan import steps
from chromagan_jax.gan.model import make_model
from chromagan_jax.models.ops import backend
from chromagan_jax.training import loop

_OWN = backend.Forms()
_KERNEL_GRADIENT = flags.DEFINE_enum(
    'kernel_gradient', _OWN.kernel_gradient, ['plain', 'exchanged', 'product'], 'See `Forms`.'
)
_STRIDE = flags.DEFINE_enum('stride', _OWN.stride, ['blocks', 'strides'], 'See `Forms`.')

H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 device_memory_size: 84978434048
  cuda_compute_capability { major: 9 minor: 0 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
_CALL = re.compile(r'(?:ROOT )?%\S+ = .*? (fusion|custom-call|copy)\((.*)')
_TARGET = re.compile(r'custom_call_target="([^"]+)"')


def main(config: Config) -> None:
    """Compiles and prints."""
    values: Any = _KERNEL_GRADIENT.value, _STRIDE.value
    forms = backend.Forms(*values)
    compiled: Any = compile_step(config, forms)
    memory = compiled.memory_analysis()
    settings = {'size': config.data.size, 'batch_size': config.batch_size, 'dtype': config.dtype}
    line = {
        **{'name': 'kernels', **settings, 'remat': config.remat, 'forms': forms._asdict()},
        **count(compiled.as_text()),
        'argument_bytes': memory.argument_size_in_bytes,
        'temporary_bytes': memory.temp_size_in_bytes,
    }
    print(json.dumps(line))


def compile_step(config: Config, forms: backend.Forms) -> jax.stages.Compiled:
    """The train step for one H100."""
    target = {'topology': '1x1x1', 'target_config': H100}
    devices = topologies.get_topology_desc('h100', 'cuda', **target).devices
    mesh = sharding.make_mesh(1, devices)
    model = make_model(config, mesh)
    with mock.patch.object(jax, 'default_backend', return_value='gpu'), backend.using(forms):
        lowered = loop.trace_step(model, config, mesh, steps.train_step).lower()
    return lowered.compile()


def count(program: str) -> dict[str, int]:
    """Fusions, copies and library calls of a compiled program."""
    found: collections.Counter[str] = collections.Counter()
    for line in program[program.index('\nENTRY') :].splitlines():
        if call := _CALL.match(line.strip()):
            library = _TARGET.search(line)
            found[library.group(1).strip('_') if library else call.group(1)] += 1
    return dict(found)


if __name__ == '__main__':
    command.run(main)
