"""The device mesh, the sharding of state and batches, and global arrays from per-process rows.

The mesh has two axes. `data` splits the batch and replicates the parameters. `fsdp` splits the
batch, the parameters and the optimizer state (fully sharded data parallelism).
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from chromagan_jax.errors import UserError

PyTree = Any

BATCH_AXES = ('data', 'fsdp')
# Leaves with fewer elements cost less to replicate than to gather at every use.
_MIN_SHARDED = 2**14


def disable_async_cpu_dispatch() -> None:
    """Runs CPU computations in the calling thread. Call it before JAX is used.

    JAX's dispatch thread allocates from a small glibc arena, which maps and clears the temporaries
    of a program at every call. Accelerators and computations on several devices are unaffected.
    """
    jax.config.update('jax_cpu_enable_async_dispatch', False)


def find_devices(local: bool = False) -> list[jax.Device]:
    """The devices of all processes, or with `local` of this one.

    Raises:
        UserError: if JAX finds none of the kind that JAX_PLATFORMS names.
    """
    try:
        return jax.local_devices() if local else jax.devices()
    except (RuntimeError, AssertionError) as error:  # an assertion of JAX has no text
        wanted = os.environ.get('JAX_PLATFORMS')
        if not wanted or (str(error) and 'Unable to initialize backend' not in str(error)):
            raise
        raise UserError(
            f'JAX finds no device for JAX_PLATFORMS={wanted}: unset it, or install JAX for that '
            'kind of device.'
        ) from error


def make_mesh(fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A (data, fsdp) mesh over all devices; each copy of the parameters spans `fsdp` of them.

    Raises:
        UserError: if `fsdp` does not divide the number of devices, or there are none.
    """
    devices = devices or find_devices()
    count = len(devices)
    if fsdp < 1 or count % fsdp:
        raise UserError(
            f'mesh.fsdp is {fsdp}, which does not divide the {count} devices: set it to a divisor.'
        )
    # Axes are Auto: Flax's dropout and reshapes to micro-batches fail with Explicit axes.
    return jax.make_mesh(
        (count // fsdp, fsdp), BATCH_AXES, axis_types=(AxisType.Auto,) * 2, devices=devices
    )


def state_shardings(state: PyTree, mesh: Mesh) -> PyTree:
    """A sharding for each leaf: large ones split over `fsdp` along their longest divisible axis."""
    fsdp = mesh.shape['fsdp']

    def leaf_sharding(leaf: Any) -> NamedSharding:
        spec: list[str | None] = [None] * leaf.ndim
        divisible = [axis for axis in range(leaf.ndim) if leaf.shape[axis] % fsdp == 0]
        if fsdp > 1 and leaf.size >= _MIN_SHARDED and divisible:
            spec[max(divisible, key=lambda axis: leaf.shape[axis])] = 'fsdp'
        return NamedSharding(mesh, PartitionSpec(*spec) if any(spec) else PartitionSpec())

    return jax.tree.map(leaf_sharding, state)


def batch_sharding(mesh: Mesh, accumulate: int = 1) -> NamedSharding:
    """The sharding of a batch (B, ...), or (accumulate, B / accumulate, ...) with micro-batches.

    Micro-batches have a separate axis, so that selecting one moves no data between devices.
    """
    return NamedSharding(mesh, batch_spec(accumulate))


def batch_spec(accumulate: int = 1) -> PartitionSpec:
    """The partition of a batch over the axes of the mesh, as in `batch_sharding`."""
    return PartitionSpec(BATCH_AXES) if accumulate == 1 else PartitionSpec(None, BATCH_AXES)


def draw_rows(
    draw: Callable[[jax.Array, tuple[int, ...]], PyTree], key: jax.Array, count: int
) -> PyTree:
    """Random numbers of the rows of a batch that do not depend on the number of devices.

    Under `jax.shard_map` a device only sees its own rows. Each row then has a key of its position
    in the global batch.

    Args:
        draw: (key, leading axes) -> arrays with these leading axes.
        key: PRNG key of the batch.
        count: rows.

    Returns:
        The arrays of `draw`, with the leading axis (count,).
    """
    axes = jax.sharding.get_abstract_mesh().manual_axes
    if not axes:
        return draw(key, (count,))
    rows = lax.axis_index(axes) * count + jnp.arange(count)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
    return jax.vmap(lambda key: draw(key, ()))(keys)


def check_batch_size(field: str, batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raises UserError unless devices x micro-batches divides the batch size."""
    devices = mesh.size
    if batch_size < 1 or batch_size % (devices * accumulate):
        parts = f'{devices} devices' + (f' x {accumulate} micro-batches' if accumulate > 1 else '')
        raise UserError(
            f'{field} is {batch_size}, which {parts} do not divide: '
            f'make it a multiple of {devices * accumulate}.'
        )


def local_rows(mesh: Mesh, batch_size: int, accumulate: int = 1) -> list[int]:
    """The rows of the global batch that this process's devices hold, in the order of `to_global`.

    All processes together hold the rows 0 .. batch_size - 1, so the global array does not depend
    on the number of processes.
    """
    sharding = batch_sharding(mesh, accumulate)
    rows = np.arange(batch_size).reshape((accumulate, -1) if accumulate > 1 else (-1,))
    indices = sharding.addressable_devices_indices_map(rows.shape).values()
    columns = sorted({index[-1].indices(rows.shape[-1])[:2] for index in indices if index})
    return np.concatenate([rows[..., a:b] for a, b in columns], axis=-1).ravel().tolist()


def to_global(batch: Mapping[str, np.ndarray], mesh: Mesh, accumulate: int = 1) -> PyTree:
    """Builds arrays of the whole batch, sharded over the mesh, from this process's rows."""
    sharding = batch_sharding(mesh, accumulate)

    def place(rows: np.ndarray) -> jax.Array:
        if accumulate > 1:
            rows = rows.reshape(accumulate, -1, *rows.shape[1:])
        return jax.make_array_from_process_local_data(sharding, rows)

    return {name: place(rows) for name, rows in batch.items()}


def gather_indices(indices: Iterable[int]) -> list[int]:
    """The distinct indices of all processes, ascending, without -1; called in all processes."""
    own = sorted({int(index) for index in indices} - {-1})
    most = int(multihost_utils.process_allgather(np.array(len(own))).max())
    if not most:
        return []
    padded = np.array(own + [-1] * (most - len(own)), np.int32)
    return sorted({int(index) for index in multihost_utils.process_allgather(padded).flat} - {-1})
