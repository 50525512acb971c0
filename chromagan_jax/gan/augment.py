"""Random changes of the condition inside the train step.

They depend only on the PRNG key, not on the mesh. Config fields: `augment`.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from chromagan_jax.config.schema import AugmentConfig
from chromagan_jax.sharding import draw_rows

Array = jax.Array

_EXPONENTS = (0.7, 1.4)  # limits of the lightness exponent


def random_gamma(config: AugmentConfig, batch: Mapping[str, Array], key: Array) -> dict[str, Array]:
    """Replaces the lightness of each image by 100 (L* / 100)**e, with a random e near 1.

    log(e) is normal with `lightness_std`; e is clipped to [0.7, 1.4]. The target is unchanged.

    Args:
        config: the strengths.
        batch: 'condition' (..., H, W, 1) = L*/50 - 1, and other arrays.
        key: PRNG key.
    """
    condition = batch['condition']
    if not config.lightness_std:
        return dict(batch)
    normal = jax.random.normal(key, (*condition.shape[:-3], 1, 1, 1))
    exponent = jnp.exp(config.lightness_std * normal).clip(*_EXPONENTS)
    lightness = (0.5 * (condition + 1)).clip(1e-6, 1)
    return {**batch, 'condition': 2 * lightness**exponent - 1}


def degrade(config: AugmentConfig, condition: Array, key: Array) -> Array:
    """Blurs and adds white noise to random images, as in old photographs.

    Args:
        config: shares and strengths.
        condition: (B, H, W, 1) in [-1, 1].
        key: PRNG key.

    Returns:
        (B, H, W, 1) in [-1, 1]; `condition` itself if both shares are 0.
    """
    if not config.blur and not config.grain:
        return condition

    def draw(key: Array, lead: tuple[int, ...]) -> tuple[list[Array], Array]:
        *keys, last = jax.random.split(key, 4)
        uniform = [jax.random.uniform(key, (*lead, 1, 1, 1)) for key in keys]
        return uniform, jax.random.normal(last, (*lead, *condition.shape[1:]))

    (blur, grain, strength), noise = draw_rows(draw, key, len(condition))
    condition = jnp.where(blur < config.blur, _box_blur(condition), condition)
    deviation = (grain < config.grain) * config.grain_std * strength
    return (condition + deviation * noise).clip(-1, 1)


def _box_blur(x: Array) -> Array:
    """Mean of 3x3 px of (B, H, W, 1); the border is replicated."""
    for axis in (1, 2):
        pad = [(0, 0)] * 4
        pad[axis] = (1, 1)
        padded = jnp.pad(x, pad, mode='edge')
        parts = [jax.lax.slice_in_dim(padded, i, i + x.shape[axis], axis=axis) for i in range(3)]
        x = (parts[0] + parts[1] + parts[2]) / 3
    return x
