import collections
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from chromagan_jax import sharding
from chromagan_jax.errors import UserError
from chromagan_jax.gan import state as state_lib
from chromagan_jax.gan import steps
from chromagan_jax.gan.model import make_model
from chromagan_jax.training import loop
from configs import base

COLLECTIVES = re.compile(
    r'\b(all-reduce|all-gather|reduce-scatter|all-to-all|collective-\w+|ragged-\w+)'
    r'(?:-start)?\('
)


def small_config():
    tiny = base.get_config('tiny')
    # Wide, so that kernels are large enough to be sharded.
    tiny.generator = tiny.generator.clone(depth=2, width=32, dropout=0.5, dropout_from=0)
    tiny.discriminator = tiny.discriminator.clone(layers=1)
    tiny.batch_size = 16
    tiny.data.size = 16
    return tiny


@pytest.fixture
def small():
    return small_config()


def compiled(config, devices=None):
    mesh = sharding.make_mesh(config.mesh.fsdp, devices)
    model = make_model(config, mesh)
    step = loop.compile_step(model, config, mesh, lambda text: None, steps.train_step)
    return step, state_lib.create_state(model, config, mesh), mesh


def batches(config, count):
    rng = np.random.default_rng(0)
    shape = (config.batch_size, config.data.size, config.data.size)
    for _ in range(count):
        yield {
            'condition': rng.uniform(-1, 1, (*shape, 1)).astype(np.float32),
            'target': rng.uniform(-1, 1, (*shape, 2)).astype(np.float32),
        }


def trajectory(config, devices=None):
    step, state, mesh = compiled(config, devices)
    metrics = []
    for batch in batches(config, 4):
        state, values = step(state, sharding.to_global(batch, mesh, config.grad_accum_steps), {})
        metrics.append(jax.device_get(values))
    return metrics, step


def collectives(step):
    return collections.Counter(COLLECTIVES.findall(step.as_text()))


@pytest.fixture(scope='module')
def alone():
    return trajectory(small_config(), jax.devices()[:1])[0]


def assert_same_trajectory(metrics, alone):
    for ours, theirs in zip(metrics, alone, strict=True):
        for name in theirs:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=2e-3, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_eight_devices_follow_the_trajectory_of_one_by_all_reduces_alone(small, alone):
    metrics, step = trajectory(small)
    assert_same_trajectory(metrics, alone)
    assert set(collectives(step)) == {'all-reduce'}


@pytest.mark.slow
def test_fully_sharded_devices_follow_it_too_by_gathers_and_reductions_alone(small, alone):
    small.mesh.fsdp = 4
    metrics, step = trajectory(small)
    assert_same_trajectory(metrics, alone)
    counts = collectives(step)
    assert counts['all-gather'] > 0
    assert set(counts) <= {'all-gather', 'all-reduce', 'reduce-scatter'}


@pytest.mark.slow
def test_micro_batches_move_nothing_between_devices(small):
    small.grad_accum_steps = 2
    step, *_ = compiled(small)
    assert set(collectives(step)) == {'all-reduce'}


def test_fsdp_shards_parameters_and_optimizer_states_alike(small):
    small.mesh.fsdp = 8
    mesh = sharding.make_mesh(8)
    state = state_lib.abstract_state(make_model(small, mesh), small, mesh)
    params = jax.tree.leaves(state.generator.params)
    large = [leaf for leaf in params if leaf.size >= 2**14]
    assert large
    assert all('fsdp' in leaf.sharding.spec for leaf in large)
    assert any(leaf.sharding.spec == PartitionSpec() for leaf in params)
    kept = sum(np.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in jax.tree.leaves(state))
    whole = sum(leaf.size for leaf in jax.tree.leaves(state))
    assert kept < whole / 3


def test_without_fsdp_the_state_is_whole_everywhere(small):
    mesh = sharding.make_mesh()
    state = state_lib.abstract_state(make_model(small, mesh), small, mesh)
    assert {leaf.sharding.spec for leaf in jax.tree.leaves(state)} == {PartitionSpec()}


@pytest.mark.parametrize('micro_batches', [1, 2])
def test_rows_come_back_in_the_order_of_the_batch(micro_batches):
    mesh = sharding.make_mesh(2)
    rows = sharding.local_rows(mesh, 16, micro_batches)
    assert sorted(rows) == list(range(16))
    placed = sharding.to_global({'x': np.array(rows)}, mesh, micro_batches)['x']
    np.testing.assert_array_equal(np.asarray(placed).ravel(), np.arange(16))


def test_rows_of_several_processes_partition_the_batch_wherever_the_mesh_puts_them(monkeypatch):
    mesh = sharding.make_mesh()
    placed = sharding.batch_sharding(mesh)
    everywhere = placed.devices_indices_map((16,))
    claimed = []
    for devices in (jax.devices()[::2], jax.devices()[1::2]):  # interleaved: two processes
        mine = {device: everywhere[device] for device in devices}
        monkeypatch.setattr(
            jax.sharding.NamedSharding,
            'addressable_devices_indices_map',
            lambda self, shape, mine=mine: mine,
        )
        claimed.append(sharding.local_rows(mesh, 16))
    assert claimed == [[0, 1, 4, 5, 8, 9, 12, 13], [2, 3, 6, 7, 10, 11, 14, 15]]


def test_state_placement_needs_an_axis_that_the_devices_divide():
    mesh = sharding.make_mesh(8)
    leaves = {'odd': jnp.zeros((7, 2341)), 'even': jnp.zeros((3, 8192)), 'few': jnp.zeros(8)}
    specs = {name: s.spec for name, s in sharding.state_shardings(leaves, mesh).items()}
    assert specs == {
        'odd': PartitionSpec(),
        'even': PartitionSpec(None, 'fsdp'),
        'few': PartitionSpec(),
    }


def test_impossible_meshes_and_batches_are_named():
    with pytest.raises(UserError, match=r'mesh\.fsdp is 3, which does not divide the 8 devices'):
        sharding.make_mesh(3)
    mesh = sharding.make_mesh()
    with pytest.raises(UserError, match='batch_size is 12, which 8 devices do not divide'):
        sharding.check_batch_size('batch_size', 12, mesh)
    with pytest.raises(UserError, match=r'8 devices x 2 micro-batches.*multiple of 16'):
        sharding.check_batch_size('batch_size', 24, mesh, 2)
    sharding.check_batch_size('batch_size', 32, mesh, 2)


def test_indices_of_all_processes_are_gathered_once_each(monkeypatch):
    assert sharding.gather_indices([-1, 5, 2, 5]) == [2, 5]
    assert sharding.gather_indices([-1, -1]) == []

    def beside_a_process_with_three(own):
        other = np.array(3) if own.ndim == 0 else np.array([1, 2, 7], own.dtype)
        return np.stack([own, other])

    gather = 'process_allgather'
    monkeypatch.setattr(sharding.multihost_utils, gather, beside_a_process_with_three)
    assert sharding.gather_indices([-1, 5, 2]) == [1, 2, 5, 7]
