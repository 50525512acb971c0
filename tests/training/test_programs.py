"""A train step from disk is the one that would have been compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from chromagan_jax import sharding
from chromagan_jax.config import fields
from chromagan_jax.gan import state as state_lib
from chromagan_jax.gan import steps
from chromagan_jax.gan.model import make_model
from chromagan_jax.training import loop
from chromagan_jax.utils import programs


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty folder of programs and of JAX's cache."""
    before = jax.config.values['jax_compilation_cache_dir']
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path))
    monkeypatch.setattr(programs, '_runs_command', lambda: True)
    jax.config.update('jax_compilation_cache_dir', str(tmp_path))
    compilation_cache.reset_cache()
    programs.use_cache()
    yield tmp_path
    programs.use_cache('')
    jax.config.update('jax_compilation_cache_dir', before)
    compilation_cache.reset_cache()


@pytest.mark.slow
def test_compiled_and_loaded_steps_in_any_order_end_in_the_same_bits(small, cache):
    small.generator = small.generator.clone(dropout=0.5)
    mesh = sharding.make_mesh()
    model = make_model(small, mesh)
    logged = []
    compiled, loaded = (
        loop.compile_step(model, small, mesh, logged.append, steps.train_step) for _ in range(2)
    )
    assert [line.split()[0] for line in logged] == ['compiled', 'loaded']
    rng = np.random.default_rng(0)
    batch = {
        name: jax.device_put(rng.uniform(-1, 1, leaf.shape).astype(leaf.dtype), leaf.sharding)
        for name, leaf in state_lib.abstract_batch(small, mesh).items()
    }
    first, ends = state_lib.create_state(model, small, mesh), set()
    for order in ([compiled, compiled], [loaded, loaded], [compiled, loaded], [loaded, compiled]):
        state = jax.tree.map(jnp.copy, first)  # a step donates it
        for step in order:
            state, metrics = step(state, batch, {})
        bits = state.replace(key=jax.random.key_data(state.key))
        ends.add((programs.digest(bits), programs.digest(metrics)))
    assert len(ends) == 1


@pytest.mark.parametrize(
    ('field', 'value', 'same'),
    [
        ('log_every', '7', True),
        ('data.source', 'elsewhere', True),
        ('steps', '12345', True),  # the rate is constant
        ('loss.weights.l1', '99', False),
        ('loss.label_smoothing', '0.2', False),
        ('generator_optimizer.learning_rate', '0.123', False),
        ('generator.dropout', '0.25', False),
        ('dtype', 'bfloat16', False),
        ('remat', 'true', False),
        ('batch_size', '16', False),
        ('grad_accum_steps', '2', False),
        ('ema_decay', '0.25', False),
        ('data.size', '32', False),
        ('mesh.fsdp', '2', False),
        ('mesh.gradients', 'per_device', False),
    ],
)
def test_a_field_that_affects_the_step_has_another_program(field, value, same, small, monkeypatch):
    keys = []
    monkeypatch.setattr(
        programs, 'cached', lambda name, networks, made_from, *rest: keys.append(repr(made_from))
    )
    for text in (None, value):
        if text is not None:
            fields.set_text(small, field, text)
        mesh = sharding.make_mesh(small.mesh.fsdp)
        loop.compile_step(make_model(small), small, mesh, keys.append, steps.train_step)
    before, after = (key for key in keys if 'train step' not in key)
    assert (before == after) == same


def test_each_step_function_and_set_of_devices_has_a_program(small, monkeypatch):
    keys = set()
    monkeypatch.setattr(
        programs,
        'cached',
        lambda name, networks, made_from, devices, make: keys.add(repr((made_from, devices))),
    )
    for devices in (jax.devices(), jax.devices()[:1], jax.devices()[1:2]):
        for step in (steps.train_step, steps.pretrain_step, steps.warmup_step):
            mesh = sharding.make_mesh(devices=devices)
            loop.compile_step(make_model(small), small, mesh, lambda text: None, step)
    assert len(keys) == 9


@pytest.mark.slow
def test_an_initial_state_made_by_a_program_from_disk_has_the_same_bits(small, cache):
    mesh = sharding.make_mesh()
    states = [state_lib.create_state(make_model(small, mesh), small, mesh) for _ in range(2)]
    assert len(list(cache.glob('init-*.program'))) == 1
    plain = jax.jit(
        lambda key: state_lib.init_state(make_model(small), key, state_lib.target_shape(small))
    )(jax.random.key(small.seed))
    digests = {
        programs.digest(state.replace(key=jax.random.key_data(state.key)))
        for state in (*states, plain)
    }
    assert len(digests) == 1
