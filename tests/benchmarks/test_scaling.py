import importlib.util
import os
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from chromagan_jax import sharding


@pytest.fixture(scope='module')
def scaling():
    path = Path(__file__).parents[2] / 'benchmarks' / 'scaling.py'
    spec = importlib.util.spec_from_file_location('scaling', path)
    module = importlib.util.module_from_spec(spec)
    before = os.environ.copy()
    spec.loader.exec_module(module)
    os.environ.clear()
    os.environ.update(before)
    return module


def test_bytes_are_those_of_every_array_in_a_shape(scaling):
    assert scaling.bytes_of('f32[2,3]{1,0}') == 24
    assert scaling.bytes_of('(bf16[8]{0}, f32[], pred[5]{0})') == 16 + 4 + 5


def test_the_collectives_of_a_compiled_program_are_counted_with_their_bytes(scaling):
    mesh = sharding.make_mesh()
    split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    whole = NamedSharding(mesh, PartitionSpec())

    @partial(jax.jit, in_shardings=split, out_shardings=whole)
    def mean(x):
        return x.mean(0)

    hlo = mean.lower(jax.ShapeDtypeStruct((16, 250), jnp.float32)).compile().as_text()
    assert scaling.collectives(hlo) == [('all-reduce', 1000)]


def test_all_reduces_of_the_program_itself_are_counted_in_their_own_type(scaling):
    mesh = sharding.make_mesh()

    @partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=PartitionSpec(mesh.axis_names),
        out_specs=(PartitionSpec(), PartitionSpec()),
        check_vma=False,
    )
    def sums(x):
        total = jax.lax.psum(x.sum(), mesh.axis_names)
        return jax.lax.psum(x.astype(jnp.bfloat16), mesh.axis_names), total

    text = jax.jit(sums).lower(jax.ShapeDtypeStruct((16, 250), jnp.float32)).as_text()
    assert sorted(scaling.explicit_collectives(text)) == [('all-reduce', 4), ('all-reduce', 1000)]


def test_an_all_reduce_costs_its_latency_and_the_bytes_of_a_ring(scaling):
    chip = scaling.Chip('', 1.0, near=100, far=10, neighbours=4, near_latency=1, far_latency=2)
    assert scaling.all_reduce_seconds(chip, 2, 100) == pytest.approx(1 + 2 * 1 / 2)
    assert scaling.all_reduce_seconds(chip, 4, 100) == pytest.approx(1 + 2 * 3 / 4)
    # Two machines: each of the four devices sends a quarter of the bytes to its partner.
    assert scaling.all_reduce_seconds(chip, 8, 100) == pytest.approx(2.5 + 2 + 2 * 1 / 2 * 25 / 10)
