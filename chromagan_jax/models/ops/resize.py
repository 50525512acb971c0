"""Bilinear upsampling."""

import functools

import jax
import jax.numpy as jnp

from chromagan_jax.models.ops import backend

Array = jax.Array


def upsample(x: Array, factor: int) -> Array:
    """(B, h, w, C) -> (B, factor h, factor w, C) by bilinear interpolation, edges replicated."""
    if not backend.is_portable():
        shape = (x.shape[0], factor * x.shape[1], factor * x.shape[2], x.shape[3])
        return jax.image.resize(x, shape, 'linear')
    return _rows(_rows(x, factor).swapaxes(1, 2), factor).swapaxes(1, 2)


def _rows(x: Array, factor: int) -> Array:
    """Upsamples the rows; each of the `factor` phases mixes a pixel with one neighbour."""
    b, h, w, c = x.shape
    # Not in jax.numpy's terms: those have no standard ONNX operations for symbolic h and w.
    part = functools.partial(jax.lax.slice_in_dim, axis=1)
    padded = jax.lax.concatenate([part(x, 0, 1), x, part(x, h - 1, h)], 1)
    before, after = part(padded, 0, h), part(padded, 2, h + 2)
    phases = []
    for phase in range(factor):
        offset = (phase + 0.5) / factor - 0.5
        other = before if offset < 0 else after
        phases.append((1 - abs(offset)) * x + abs(offset) * other)
    return jnp.stack(phases, 2).reshape(b, factor * h, w, c)
