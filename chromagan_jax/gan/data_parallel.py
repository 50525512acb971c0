"""Gradients of each device's rows, averaged over the devices in few large all-reduces.

The compiler splits a global batch by itself, but then it reduces the statistics of each batch norm
over all devices, in the forward and in the backward pass, and gradients in float32. Here each
device computes the gradients of its own rows, with batch norm statistics of these rows, as in
PyTorch's DistributedDataParallel (Li et al. 2020, https://arxiv.org/abs/2006.15704).
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from chromagan_jax.sharding import BATCH_AXES, batch_spec

Array = jax.Array
PyTree = Any
Gradients: TypeAlias = Callable[[PyTree, Array], tuple[PyTree, PyTree, PyTree, PyTree]]

# An all-reduce of this size takes much longer than its latency. Those of the last layers can run
# while the backward pass computes the gradients of the first.
_BUCKET = 40 * 2**20  # bytes


class PerDevice(NamedTuple):
    """How gradients are averaged."""

    mesh: Mesh  # the devices; each holds all parameters
    dtype: str  # in which gradients are sent and added
    micro_batches: int  # leading axis of a batch, if above 1


def average(gradients: Gradients, how: PerDevice | None) -> Gradients:
    """Computes `gradients` for the rows of each device and averages them.

    Args:
        gradients: (batch, key) -> gradients, batch statistics, output and metrics, of a loss that
            is a mean over rows.
        how: devices and type; None returns `gradients` itself.

    Returns:
        A function of the same arguments and results for the global batch. The output is that of
        all rows; gradients, batch statistics and metrics are means over the devices.
    """
    if how is None:
        return gradients
    rows, whole = batch_spec(how.micro_batches), PartitionSpec()

    def on_device(batch: PyTree, key: Array) -> tuple[PyTree, PyTree, PyTree, PyTree]:
        gradient, stats, output, metrics = gradients(batch, key)
        stats, metrics = mean((stats, metrics))
        return mean(gradient, how.dtype), stats, output, metrics

    return jax.shard_map(
        on_device,
        mesh=how.mesh,
        in_specs=(rows, whole),
        out_specs=(whole, whole, rows, whole),
        check_vma=False,  # it would reduce each gradient separately
    )


def mean(tree: PyTree, dtype: str = 'float32') -> PyTree:
    """The mean over the devices, added in `dtype`, of a tree of arrays; under `jax.shard_map`."""
    leaves, structure = jax.tree.flatten(tree)
    means: list[Array] = []
    for bucket in _buckets(leaves, jnp.dtype(dtype).itemsize):
        flat = jnp.concatenate([leaf.ravel().astype(dtype) for leaf in bucket])
        flat = lax.psum(flat, BATCH_AXES).astype(jnp.float32) / lax.axis_size(BATCH_AXES)
        parts = jnp.split(flat, np.cumsum([leaf.size for leaf in bucket])[:-1])
        means += [
            part.reshape(leaf.shape).astype(leaf.dtype)
            for part, leaf in zip(parts, bucket, strict=True)
        ]
    return jax.tree.unflatten(structure, means)


def _buckets(leaves: list[Array], itemsize: int) -> list[list[Array]]:
    """Consecutive leaves of at least `_BUCKET` bytes together."""
    buckets: list[list[Array]] = []
    for leaf in leaves:
        if not buckets or sum(x.size for x in buckets[-1]) * itemsize >= _BUCKET:
            buckets.append([])
        buckets[-1].append(leaf)
    return buckets
