"""Steering of the L1 weight by the chroma of the fakes. Config fields: `loss.steering`."""

import jax
import jax.numpy as jnp
from flax import struct

from chromagan_jax.config.schema import SteeringConfig

Array = jax.Array

_DECAY = 0.7 ** (1 / 50)  # per step, of the average of the share


class Steering(struct.PyTreeNode):
    """The state of the steering."""

    weight: Array  # () float32, weight of L1
    share: Array  # () float32, moving average of the chroma share; 0 before the first step


def init_steering(weight: float) -> Steering:
    """The state before the first step, with the initial weight."""
    return Steering(weight=jnp.float32(weight), share=jnp.float32(0))


def update_steering(
    config: SteeringConfig, state: Steering, step: Array, fake: Array, real: Array
) -> Steering:
    """The state after a step.

    The share is the mean chroma of the fakes over that of the real images. Each step multiplies
    the weight by exp(rate * (share - chroma_share)), within the limits.

    Args:
        config: target share, rate and limits.
        state: the state before the step.
        step: () int32, steps done before.
        fake: (..., 2) targets in Lab.
        real: (..., 2), the same shape.
    """
    chroma_of_real = mean_chroma(real)
    now = jnp.where(chroma_of_real > 0, mean_chroma(fake) / chroma_of_real, config.chroma_share)
    share = jnp.where(state.share > 0, _DECAY * state.share + (1 - _DECAY) * now, now)
    change = jnp.exp(config.rate * (share - config.chroma_share))
    steered = (state.weight * change).clip(config.min_weight, config.max_weight)
    weight = jnp.where(step >= config.delay, steered, state.weight)
    return Steering(weight=weight, share=share)


def mean_chroma(target: Array) -> Array:
    """Mean over pixels of |(a, b)| for (..., 2) targets, float32, in units of the target."""
    squares = jnp.square(target.astype(jnp.float32)).sum(axis=-1)
    return jnp.sqrt(squares).mean()
