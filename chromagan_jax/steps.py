"""The train step: one generator update, then the discriminator updates, as pure functions.

The losses of both networks are `generator_loss` and `discriminator_loss`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from chromagan_jax import losses, optim
from chromagan_jax.models import Classified
from chromagan_jax.state import GanState, NetworkState, System

Array = jax.Array
PyTree = Any
Batch = Mapping[str, Array]
Metrics = dict[str, Array]
# (params, batch_stats, batch, key) -> loss, (new batch_stats, an output to keep, metrics)
LossFunction = Callable[[PyTree, PyTree, Any, Array], tuple[Array, tuple[PyTree, PyTree, Metrics]]]


def train_step(system: System, state: GanState, batch: Batch) -> tuple[GanState, Metrics]:
    """One generator update and `system.discriminator_steps` discriminator updates.

    The generator runs forward once and is updated through the discriminator as it stands; every
    discriminator update sees that same fake. If any metric is not finite the parameters stay as
    they were, from then on, and the state remembers the first such step and term.

    Args:
        system: the networks, optimizers and objective.
        state: where training stands; donate it.
        batch: {'condition': (B, H, W, 1), 'target': (B, H, W, C)[, 'label': (B,)]}, with a leading
            axis of micro-batches, (M, B / M, ...), if `system.accumulate` M is greater than 1.

    Returns:
        The new state and scalar float32 metrics.
    """
    key = jax.random.fold_in(state.key, state.step)
    generator, fake, metrics = _update_generator(system, state, batch, jax.random.fold_in(key, 0))
    discriminator, rounds = state.discriminator, []
    for update in range(system.discriminator_steps):
        discriminator, round_metrics = _update_discriminator(
            system, state, discriminator, batch, fake, jax.random.fold_in(key, update + 1)
        )
        rounds.append(round_metrics)
    metrics |= jax.tree.map(lambda *values: jnp.stack(values).mean(), *rounds)
    updated = state.replace(
        generator=generator,
        discriminator=discriminator,
        ema=_averaged(system, state, generator),
        discriminator_accuracy=0.5
        * (metrics['discriminator/accuracy_real'] + metrics['discriminator/accuracy_fake']),
    )
    return _keep_finite(state, updated, metrics), metrics


def generator_loss(
    system: System, state: GanState, params: PyTree, batch_stats: PyTree, batch: Batch, key: Array
) -> tuple[Array, tuple[PyTree, PyTree, Metrics]]:
    """adversarial_weight x adversarial + l1 x L1 + mse x MSE + classes x cross-entropy.

    Returns:
        The loss, and (batch statistics, the fake target (B, H, W, C), the unweighted terms).
    """
    objective = system.objective
    output, batch_stats = _apply(
        system, system.generator, params, batch_stats, key, batch['condition']
    )
    fake = output.target if isinstance(output, Classified) else output
    # Through the discriminator as it stands: its parameters get no gradient, and the batch
    # statistics that this pass would leave behind are dropped.
    logits, _ = _apply(
        system,
        system.discriminator,
        state.discriminator.params,
        state.discriminator.batch_stats,
        key,
        batch['condition'],
        fake,
    )
    terms = {
        'adversarial': losses.ADVERSARIAL[objective.adversarial].generator(logits),
        'l1': losses.l1(fake, batch['target']),
        'mse': losses.mse(fake, batch['target']),
    }
    loss = (
        objective.adversarial_weight * terms['adversarial']
        + objective.l1 * terms['l1']
        + objective.mse * terms['mse']
    )
    if objective.classes:
        terms['classes'] = losses.cross_entropy(output.class_logits, batch['label'])
        loss += objective.classes * terms['classes']
    metrics = {f'generator/{name}': value for name, value in {'loss': loss, **terms}.items()}
    return loss, (batch_stats, lax.stop_gradient(fake), metrics)


def discriminator_loss(
    system: System, params: PyTree, batch_stats: PyTree, batch: tuple[Batch, Array], key: Array
) -> tuple[Array, tuple[PyTree, PyTree, Metrics]]:
    """The adversarial loss on real, then on fake, plus the gradient penalty.

    Two calls, not one on a concatenated batch: that would mix the batch statistics of real and
    fake, and gather sharded batches.
    """
    objective = system.objective
    (real_batch, fake), condition = batch, batch[0]['condition']
    keys = jax.random.split(key, 4)

    def judge(target: Array, stats: PyTree, key: Array) -> tuple[Array, PyTree]:
        return _apply(system, system.discriminator, params, stats, key, condition, target)

    real_logits, batch_stats = judge(real_batch['target'], batch_stats, keys[0])
    fake_logits, batch_stats = judge(fake, batch_stats, keys[1])
    adversarial = losses.ADVERSARIAL[objective.adversarial]
    loss = adversarial.discriminator(real_logits, fake_logits, objective.label_smoothing)
    metrics = {
        'discriminator/accuracy_real': losses.accuracy(real_logits, real=True),
        'discriminator/accuracy_fake': losses.accuracy(fake_logits, real=False),
    }
    if objective.gradient_penalty:
        penalty = losses.gradient_penalty(
            lambda target: judge(target, batch_stats, keys[2])[0],
            real_batch['target'],
            fake,
            keys[3],
        )
        metrics['discriminator/gradient_penalty'] = penalty
        loss += objective.gradient_penalty * penalty
    return loss, (batch_stats, None, {'discriminator/loss': loss, **metrics})


def predict(
    system: System, variables: PyTree, condition: Array, noise: Array | None = None
) -> Array:
    """The generator at test time: condition (B, H, W, 1) -> target (B, H, W, C), float32.

    With a PRNG key for `noise` the generator's noise (its dropout) is on.
    """
    rngs = {} if noise is None else {'noise': noise}
    variables = _gathered(system, variables)
    output: Any = system.generator.apply(variables, condition, train=False, rngs=rngs)
    return output.target if isinstance(output, Classified) else output


def _update_generator(
    system: System, state: GanState, batch: Batch, key: Array
) -> tuple[NetworkState, Array, Metrics]:
    def loss(params: PyTree, stats: PyTree, batch: Batch, key: Array) -> Any:
        return generator_loss(system, state, params, stats, batch, key)

    gradients, stats, fake, metrics = _mean_gradient(system, loss, state.generator, batch, key)
    optimizer = system.generator_optimizer
    network, sizes = _update(optimizer, state, state.generator, gradients, stats)
    return network, fake, metrics | {f'generator/{name}': x for name, x in sizes.items()}


def _update_discriminator(
    system: System,
    state: GanState,
    network: NetworkState,
    batch: Batch,
    fake: Array,
    key: Array,
) -> tuple[NetworkState, Metrics]:
    def loss(params: PyTree, stats: PyTree, batch: tuple[Batch, Array], key: Array) -> Any:
        return discriminator_loss(system, params, stats, batch, key)

    gradients, stats, _, metrics = _mean_gradient(system, loss, network, (batch, fake), key)
    network, sizes = _update(system.discriminator_optimizer, state, network, gradients, stats)
    return network, metrics | {f'discriminator/{name}': x for name, x in sizes.items()}


def _update(
    optimizer: optim.Optimizer,
    state: GanState,
    network: NetworkState,
    gradients: PyTree,
    batch_stats: PyTree,
) -> tuple[NetworkState, Metrics]:
    """One optimizer step of one network."""
    rate = optimizer.learning_rate(state.step) * state.plateau_scale
    params, opt_state = optim.apply_gradients(
        optimizer, gradients, network.opt_state, network.params, rate
    )
    metrics = {'gradient_norm': _global_norm(gradients), 'learning_rate': rate}
    return NetworkState(params, batch_stats, opt_state), metrics


def _mean_gradient(
    system: System, loss: LossFunction, network: NetworkState, batch: Any, key: Array
) -> tuple[PyTree, PyTree, PyTree, Metrics]:
    """(gradients, batch statistics, output, metrics) of a batch.

    Gradients and metrics are means over the micro-batches; the batch statistics pass through them.
    """
    gradient = jax.value_and_grad(loss, has_aux=True)
    if system.accumulate == 1:
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
        micro_batch, start, (batch, jnp.arange(system.accumulate))
    )
    mean = jax.tree.map(lambda gradients: gradients / system.accumulate, total)
    return mean, stats, output, jax.tree.map(lambda values: values.mean(0), metrics)


def _apply(
    system: System, module: nn.Module, params: PyTree, batch_stats: PyTree, key: Array, *inputs: Any
) -> tuple[Any, PyTree]:
    """One training pass: the output and the new batch statistics."""
    variables = _gathered(system, {'params': params, 'batch_stats': batch_stats})
    output, changed = module.apply(
        variables, *inputs, train=True, mutable=['batch_stats'], rngs={'noise': key}
    )
    return output, changed.get('batch_stats', batch_stats)


def _gathered(system: System, variables: PyTree) -> PyTree:
    """Parameters whole on every device, whatever their sharding at rest."""
    if system.replicated is None:
        return variables
    return lax.with_sharding_constraint(variables, system.replicated)


def _global_norm(tree: PyTree) -> Array:
    return jnp.sqrt(sum(jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(tree)))


def _averaged(system: System, state: GanState, generator: NetworkState) -> PyTree | None:
    """The moving average of parameters and batch statistics, warmed up.

    Decay min(d, (1 + t) / (10 + t)) at step t, so that early averages are not of the initial
    weights (as in TensorFlow's ExponentialMovingAverage).
    """
    if state.ema is None:
        return None
    t = state.step.astype(jnp.float32)
    decay = jnp.minimum(system.ema, (1 + t) / (10 + t))
    new = {'params': generator.params, 'batch_stats': generator.batch_stats}
    return jax.tree.map(lambda a, b: (decay * a + (1 - decay) * b).astype(a.dtype), state.ema, new)


def _keep_finite(state: GanState, updated: GanState, metrics: Metrics) -> GanState:
    """`updated` one step on, or `state` one step on if this or an earlier step went wrong."""
    finite = jnp.stack([jnp.isfinite(metrics[name]) for name in sorted(metrics)])
    good_before = state.bad_step < 0
    good = good_before & finite.all()
    step = state.step + 1
    kept = jax.tree.map(
        lambda new, old: jnp.where(good, new, old),
        updated.replace(key=None, step=None),
        state.replace(key=None, step=None),
    )
    first_bad = good_before & ~finite.all()
    return kept.replace(
        key=state.key,
        step=step,
        bad_step=jnp.where(first_bad, step, state.bad_step),
        bad_term=jnp.where(first_bad, jnp.argmin(finite).astype(jnp.int32), state.bad_term),
    )
