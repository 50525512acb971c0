"""Bilinear upsampling."""

import jax
import jax.numpy as jnp

from chromagan_jax.models.ops import backend

Array = jax.Array


def upsample(x: Array, factor: int) -> Array:
    """(B, h, w, C) -> (B, factor h, factor w, C) by bilinear interpolation, edges replicated."""
    if not backend.is_portable():
        shape = (x.shape[0], factor * x.shape[1], factor * x.shape[2], x.shape[3])
        return jax.image.resize(x, shape, 'linear')
    return _phases(_phases(x, factor, 1), factor, 2)


def _phases(x: Array, factor: int, axis: int) -> Array:
    """Upsamples one axis; each of the `factor` phases mixes a pixel with one neighbour."""
    first = jax.lax.slice_in_dim(x, 0, 1, axis=axis)
    last = jax.lax.slice_in_dim(x, -1, None, axis=axis)
    before = jnp.concatenate([first, jax.lax.slice_in_dim(x, 0, -1, axis=axis)], axis)
    after = jnp.concatenate([jax.lax.slice_in_dim(x, 1, None, axis=axis), last], axis)
    phases = []
    for phase in range(factor):
        offset = (phase + 0.5) / factor - 0.5
        other = before if offset < 0 else after
        phases.append((1 - abs(offset)) * x + abs(offset) * other)
    shape = list(x.shape)
    shape[axis] *= factor
    return jnp.stack(phases, axis + 1).reshape(shape)
