"""The gradient of a batch, at once or over micro-batches that need less memory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from chromagan_jax.gan.state import NetworkState

Array = jax.Array
PyTree = Any
Metrics = dict[str, Array]
# (params, batch_stats, batch, key) -> loss, (new batch_stats, an output to keep, metrics)
LossFunction = Callable[[PyTree, PyTree, Any, Array], tuple[Array, tuple[PyTree, PyTree, Metrics]]]


def accumulate_gradients(
    loss: LossFunction, network: NetworkState, batch: Any, key: Array, micro_batches: int = 1
) -> tuple[PyTree, PyTree, PyTree, Metrics]:
    """(gradients, batch statistics, output, metrics) of a batch, for the network's parameters.

    With `micro_batches` above 1 the leaves of `batch` have an axis of them in front, and so has the
    output. Gradients and metrics are means over them; the batch statistics pass through them.
    """
    gradient = jax.value_and_grad(loss, has_aux=True)
    if micro_batches == 1:
        (_, kept), gradients = gradient(network.params, network.batch_stats, batch, key)
        return gradients, *kept

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
