"""The compiled train step of a config on random data, for the benchmarks."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from chromagan_jax import sharding
from chromagan_jax.config import Config
from chromagan_jax.gan import state as state_lib
from chromagan_jax.gan import steps
from chromagan_jax.gan.model import load_pretrained, make_model
from chromagan_jax.training import loop, setup

ROUNDS = flags.DEFINE_integer('rounds', 5, 'Repetitions of each measurement.')
STEPS = flags.DEFINE_integer('steps', 20, 'Steps of a measurement.')
WARM_UP = flags.DEFINE_integer('warm_up', 4, 'Steps before a measurement.', lower_bound=1)


class Inputs(NamedTuple):
    """The arguments of the train step, on the devices."""

    state: Any
    batch: Any
    frozen: Any


def compiled(config: Config) -> Callable[..., Any]:
    """The train step, compiled for all devices."""
    mesh = sharding.make_mesh(config.mesh.fsdp)
    model = make_model(config, mesh)
    return loop.compile_step(model, config, mesh, lambda text: None, steps.train_step)


def make_inputs(config: Config) -> Inputs:
    """The initial state, a random batch and the frozen networks."""
    mesh = sharding.make_mesh(config.mesh.fsdp)
    model = make_model(config, mesh)
    state = state_lib.create_state(model, config, mesh)
    weights = load_pretrained(config.pretrained)
    frozen = setup.place_frozen(model, weights, config.data.size, mesh)
    return Inputs(state, random_batch(config), frozen)


def random_batch(config: Config) -> Any:
    """A batch of random values in [-1, 1]; labels are 0."""
    mesh = sharding.make_mesh(config.mesh.fsdp)
    rng = np.random.default_rng(0)

    def random(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        whole = rng.uniform(-1, 1, leaf.shape) if leaf.dtype.kind == 'f' else np.zeros(leaf.shape)
        whole = whole.astype(leaf.dtype)
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda at: whole[at])

    return jax.tree.map(random, state_lib.abstract_batch(config, mesh))


def seconds_of(step: Callable[..., Any], inputs: Inputs) -> tuple[list[float], Inputs]:
    """Seconds of each of --steps after --warm_up others, and the inputs of the next one.

    The state of `inputs` is used up.
    """
    seconds = []
    for _ in range(WARM_UP.value + STEPS.value):
        began = time.perf_counter()
        state, metrics = step(*inputs)
        jax.block_until_ready((state, metrics))
        seconds.append(time.perf_counter() - began)
        inputs = inputs._replace(state=state)
    return seconds[WARM_UP.value :], inputs
