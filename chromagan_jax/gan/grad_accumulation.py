"""Gradients of a batch, computed in one pass or accumulated over micro-batches."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from chromagan_jax.gan.state import NetworkState

Array = jax.Array
PyTree = Any
Metrics = dict[str, Array]
# (params, batch_stats, batch, key) -> loss, (new batch_stats, output, metrics)
LossFunction = Callable[[PyTree, PyTree, Any, Array], tuple[Array, tuple[PyTree, PyTree, Metrics]]]


def accumulate_gradients(
    loss: LossFunction, network: NetworkState, batch: Any, key: Array, micro_batches: int = 1
) -> tuple[PyTree, PyTree, PyTree, Metrics]:
    """Gradients of `loss` with respect to the network's parameters.

    With M = `micro_batches` above 1, each leaf of `batch` has shape (M, B / M, ...), and so has the
    output. Gradients and metrics are means over the micro-batches. Batch statistics are updated by
    one micro-batch after another.

    Returns:
        Gradients, new batch statistics, output and metrics.
    """
    gradient = jax.value_and_grad(loss, has_aux=True)
    if micro_batches == 1:
        (_, aux), gradients = gradient(network.params, network.batch_stats, batch, key)
        return gradients, *aux

    def micro_batch(carry: Any, inputs: Any) -> tuple[Any, Any]:
        total, stats = carry
        batch, index = inputs
        (_, (stats, output, metrics)), gradients = gradient(
            network.params, stats, batch, jax.random.fold_in(key, index)
        )
        return (jax.tree.map(jnp.add, total, gradients), stats), (output, metrics)

    start = jax.tree.map(jnp.zeros_like, network.params), network.batch_stats
    (total, stats), (output, metrics) = lax.scan(
        micro_batch, start, (batch, jnp.arange(micro_batches))
    )
    mean = jax.tree.map(lambda gradients: gradients / micro_batches, total)
    return mean, stats, output, jax.tree.map(lambda values: values.mean(0), metrics)
