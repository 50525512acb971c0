import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from chromagan_jax import sharding
from chromagan_jax.errors import UserError
from chromagan_jax.gan import data_parallel, steps
from chromagan_jax.gan import state as state_lib
from chromagan_jax.gan.model import make_model
from chromagan_jax.training import loop
from configs import base


def make_config(norm='batch', dropout=0.0, **mesh):
    config = base.get_config('tiny')
    config.generator = config.generator.clone(
        depth=2, width=4, norm=norm, dropout=dropout, dropout_from=0
    )
    config.discriminator = config.discriminator.clone(layers=1, norm=norm)
    config.batch_size, config.data.size = 16, 16
    config.mesh.gradients = 'per_device'
    for name, value in mesh.items():
        setattr(config.mesh, name, value)
    return config


def compiled(config, devices=8):
    mesh = sharding.make_mesh(config.mesh.fsdp, jax.devices()[:devices])
    model = make_model(config, mesh)
    step = loop.compile_step(model, config, mesh, lambda text: None, steps.train_step)
    return step, state_lib.create_state(model, config, mesh), mesh


def trajectory(config, devices=8, count=3):
    step, state, mesh = compiled(config, devices)
    rng, metrics = np.random.default_rng(0), []
    for _ in range(count):
        batch = {
            'condition': rng.uniform(-1, 1, (16, 16, 16, 1)).astype(np.float32),
            'target': rng.uniform(-1, 1, (16, 16, 16, 2)).astype(np.float32),
        }
        state, values = step(state, sharding.to_global(batch, mesh, config.grad_accum_steps), {})
        metrics.append(jax.device_get(values))
    return metrics


def assert_same(ours, theirs, rtol=2e-3):
    for one, other in zip(ours, theirs, strict=True):
        for name in other:
            np.testing.assert_allclose(one[name], other[name], rtol=rtol, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_eight_devices_follow_one_with_the_same_noise():
    config = make_config(norm='instance', dropout=0.5)
    assert_same(trajectory(config, 8), trajectory(config, 1))


@pytest.mark.slow
def test_batch_norm_uses_the_rows_of_a_device_as_of_a_micro_batch():
    ours = trajectory(make_config())
    config = make_config()
    config.mesh.gradients, config.grad_accum_steps = 'global', 8
    assert_same(ours, trajectory(config, 1))


@pytest.mark.slow
def test_bfloat16_gradients_change_the_trajectory_by_their_rounding_only():
    whole = trajectory(make_config())
    rounded = trajectory(make_config(gradient_dtype='bfloat16'))
    assert_same(rounded, whole, rtol=0.03)
    assert any(
        one['generator/loss'] != other['generator/loss']
        for one, other in zip(whole, rounded, strict=True)
    )


@pytest.mark.slow
def test_a_step_reduces_gradients_and_the_rest_once_an_update():
    text = compiled(make_config())[0].as_text()
    found = re.findall(r'\b(all-\w+|reduce-scatter|collective-\w+)(?:-start)?\(', text)
    # Two each for the generator and the two updates of the discriminator.
    assert set(found) == {'all-reduce'}
    assert len(found) <= 6


def test_means_keep_the_leaves_and_fill_buckets(monkeypatch):
    monkeypatch.setattr(data_parallel, '_BUCKET', 40)
    mesh, rng = sharding.make_mesh(), np.random.default_rng(0)
    tree = {
        'a': rng.normal(size=(8, 3, 4)).astype(np.float32),
        'b': {'c': rng.normal(size=8).astype(np.float32)},
        'e': rng.normal(size=(8, 20)).astype(jnp.bfloat16),
    }
    rows = PartitionSpec(sharding.BATCH_AXES)
    means = jax.shard_map(
        data_parallel.mean,
        mesh=mesh,
        in_specs=rows,
        out_specs=rows,
        check_vma=False,
    )
    lowered = jax.jit(means).lower(tree)
    assert lowered.as_text().count('all_reduce') == 2  # a, then c and e
    for one, other in zip(jax.tree.leaves(means(tree)), jax.tree.leaves(tree), strict=True):
        assert one.dtype == other.dtype
        expected = np.broadcast_to(np.float32(other).mean(0, keepdims=True), other.shape)
        np.testing.assert_allclose(np.float32(one), expected, rtol=0.01, atol=1e-3)


def test_parameters_spread_over_devices_are_refused():
    config = make_config(fsdp=2)
    with pytest.raises(UserError, match=r'mesh\.fsdp is 2: set mesh\.fsdp to 1'):
        make_model(config, sharding.make_mesh(2))
