"""The train step: one generator update, then the discriminator updates, as pure functions.

The losses of both networks are `generator_loss` and `discriminator_loss`.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from chromagan_jax.gan import losses, optimizers
from chromagan_jax.gan.grad_accumulation import mean_gradient
from chromagan_jax.gan.state import GanState, NetworkState, System, all_finite, averaged, count_step
from chromagan_jax.models import Classified
from chromagan_jax.models.pretrained import vgg

Array = jax.Array
PyTree = Any
Batch = Mapping[str, Array]
Metrics = dict[str, Array]


def train_step(
    system: System, state: GanState, batch: Batch, teacher: PyTree = None
) -> tuple[GanState, Metrics]:
    """One generator update and `system.discriminator_steps` discriminator updates.

    The generator runs forward once and is updated through the discriminator as it stands; every
    discriminator update sees that same fake. If any metric is not finite the parameters stay as
    they were, from then on, and the state remembers the first such step and term.

    Args:
        system: the networks, optimizers and objective.
        state: where training stands; donate it.
        batch: {'condition': (B, H, W, 1), 'target': (B, H, W, C)[, 'label': (B,)]}, with a leading
            axis of micro-batches, (M, B / M, ...), if `system.accumulate` M is greater than 1.
        teacher: parameters of `system.teacher`, if there is one; nothing changes them.

    Returns:
        The new state and scalar float32 metrics.
    """
    key = jax.random.fold_in(state.key, state.step)
    gradients, stats, fake, metrics = _generator_gradient(
        system, state, batch, jax.random.fold_in(key, 0), teacher
    )
    if system.discriminator_max_accuracy < 1:
        discriminator, judged = lax.cond(
            state.discriminator_accuracy > system.discriminator_max_accuracy,
            functools.partial(_rest_discriminator, system, state),
            functools.partial(_update_discriminator, system, state),
            *(batch, fake, key),
        )
    else:
        discriminator, judged = _update_discriminator(system, state, batch, fake, key)
    accuracy = 0.5 * (judged['discriminator/accuracy_real'] + judged['discriminator/accuracy_fake'])
    metrics |= judged
    # Not before it is known whether all is finite: the old state need not be kept beside the new.
    good = all_finite(state, metrics)
    generator = _update(system.generator_optimizer, state, state.generator, gradients, stats, good)
    updated = state.replace(
        generator=generator,
        discriminator=optimizers.select(good, discriminator, state.discriminator),
        ema=optimizers.select(good, averaged(system.ema, state, generator), state.ema),
        discriminator_accuracy=jnp.where(good, accuracy, state.discriminator_accuracy),
    )
    return count_step(updated, metrics), metrics


def pretrain_step(
    system: System, state: GanState, batch: Batch, teacher: PyTree = None
) -> tuple[GanState, Metrics]:
    """One generator update without the adversarial term; the discriminator stays as it is.

    Arguments and results as of `train_step`, whose first steps this can replace.
    """
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), 0)
    gradients, stats, _, metrics = _generator_gradient(
        system, state, batch, key, teacher, alone=True
    )
    good = all_finite(state, metrics)
    generator = _update(system.generator_optimizer, state, state.generator, gradients, stats, good)
    ema = optimizers.select(good, averaged(system.ema, state, generator), state.ema)
    return count_step(state.replace(generator=generator, ema=ema), metrics), metrics


def generator_loss(
    system: System,
    state: GanState,
    params: PyTree,
    batch_stats: PyTree,
    batch: Batch,
    key: Array,
    teacher: PyTree = None,
    alone: bool = False,
) -> tuple[Array, tuple[PyTree, PyTree, Metrics]]:
    """The sum of adversarial, L1, MSE, Huber and class terms, each times its weight.

    Without a weight, or `alone`, no adversarial term is computed.

    Returns:
        The loss, and (batch statistics, the fake target (B, H, W, C), the unweighted terms).
    """
    objective = system.objective
    output, batch_stats = _apply(
        system, system.generator, params, batch_stats, key, batch['condition']
    )
    fake = output.target if isinstance(output, Classified) else output
    terms, weights = {}, {'adversarial': objective.adversarial_weight}
    if objective.adversarial_weight and not alone:
        # Through the discriminator as it stands: its parameters get no gradient, and the batch
        # statistics that this pass would leave behind are dropped.
        judge = state.discriminator
        logits, _ = _apply(
            *(system, system.discriminator, judge.params, judge.batch_stats, key),
            *(batch['condition'], fake),
        )
        terms['adversarial'] = losses.ADVERSARIAL[objective.adversarial].generator(logits)
    for name in ('l1', 'mse'):
        terms[name] = getattr(losses, name)(fake, batch['target'])
    if objective.huber:
        terms['huber'] = losses.huber(fake, batch['target'], objective.huber_delta)
    if objective.classes:
        terms['classes'] = _class_loss(system, output.class_logits, batch, teacher)
    weights |= {name: getattr(objective, name) for name in ('l1', 'mse', 'huber', 'classes')}
    loss = sum((weights[name] * term for name, term in terms.items()), jnp.float32(0))
    metrics = {f'generator/{name}': value for name, value in {'loss': loss, **terms}.items()}
    return loss, (batch_stats, lax.stop_gradient(fake), metrics)


def _class_loss(system: System, class_logits: Array, batch: Batch, teacher: PyTree) -> Array:
    """Of the class head: KL from the teacher's probabilities, or cross-entropy against labels."""
    if system.teacher is None:
        return losses.cross_entropy(class_logits, batch['label'])
    variables = _gathered(system, {'params': teacher})
    seen = vgg.normalized(batch['condition'], batch['target'].shape[-1])
    logits: Any = lax.stop_gradient(system.teacher.apply(variables, seen))
    return losses.kl_divergence(jax.nn.softmax(logits), class_logits)


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


def _generator_gradient(
    system: System,
    state: GanState,
    batch: Batch,
    key: Array,
    teacher: PyTree,
    alone: bool = False,
) -> tuple[PyTree, PyTree, Array, Metrics]:
    """Gradients, new batch statistics, the fake target and metrics."""

    def loss(params: PyTree, stats: PyTree, batch: Batch, key: Array) -> Any:
        return generator_loss(system, state, params, stats, batch, key, teacher, alone)

    gradients, stats, fake, metrics = mean_gradient(
        loss, state.generator, batch, key, system.accumulate
    )
    metrics |= _sizes('generator', system.generator_optimizer, state, gradients)
    return gradients, stats, fake, metrics


def _update_discriminator(
    system: System, state: GanState, batch: Batch, fake: Array, key: Array
) -> tuple[NetworkState, Metrics]:
    """All updates of one step, and the means of their metrics."""

    def loss(params: PyTree, stats: PyTree, batch: tuple[Batch, Array], key: Array) -> Any:
        return discriminator_loss(system, params, stats, batch, key)

    network, rounds = state.discriminator, []
    for update in range(system.discriminator_steps):
        key_of_update = jax.random.fold_in(key, update + 1)
        gradients, stats, _, metrics = mean_gradient(
            loss, network, (batch, fake), key_of_update, system.accumulate
        )
        optimizer = system.discriminator_optimizer
        network = _update(optimizer, state, network, gradients, stats)
        if system.discriminator_max_accuracy < 1:
            metrics['discriminator/rests'] = jnp.float32(0)
        rounds.append(metrics | _sizes('discriminator', optimizer, state, gradients))
    return network, jax.tree.map(lambda *values: jnp.stack(values).mean(), *rounds)


def _rest_discriminator(
    system: System, state: GanState, batch: Batch, fake: Array, key: Array
) -> tuple[NetworkState, Metrics]:
    """The discriminator as it was, and the metrics of an update that is not made."""
    network = state.discriminator

    def judge(batch: tuple[Batch, Array]) -> Metrics:
        _, (_, _, metrics) = discriminator_loss(
            system, network.params, network.batch_stats, batch, jax.random.fold_in(key, 1)
        )
        return metrics

    if system.accumulate == 1:
        metrics = judge((batch, fake))
    else:
        metrics = jax.tree.map(jnp.mean, lax.map(judge, (batch, fake)))
    still = {'gradient_norm': 0, 'learning_rate': 0, 'rests': 1}
    return network, metrics | {f'discriminator/{k}': jnp.float32(v) for k, v in still.items()}


def _update(
    optimizer: optimizers.Optimizer,
    state: GanState,
    network: NetworkState,
    gradients: PyTree,
    batch_stats: PyTree,
    good: Array | bool = True,
) -> NetworkState:
    """One optimizer step of one network, or the network as it was unless `good`."""
    params, opt_state = optimizers.apply_gradients(
        *(optimizer, gradients, network.opt_state, network.params),
        *(optimizer.learning_rate(state.step) * state.plateau.scale, good),
    )
    batch_stats = optimizers.select(good, batch_stats, network.batch_stats)
    return NetworkState(params, batch_stats, opt_state)


def _sizes(
    name: str, optimizer: optimizers.Optimizer, state: GanState, gradients: PyTree
) -> Metrics:
    return {
        f'{name}/gradient_norm': _global_norm(gradients),
        f'{name}/learning_rate': optimizer.learning_rate(state.step) * state.plateau.scale,
    }


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
