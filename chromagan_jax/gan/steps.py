"""The train step as pure functions: one generator update, then the discriminator updates.

The losses are `generator_loss` and `discriminator_loss`.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax

from chromagan_jax.gan import losses, optimizers
from chromagan_jax.gan.grad_accumulation import accumulate_gradients
from chromagan_jax.gan.model import GanModel, gathered
from chromagan_jax.gan.state import GanState, NetworkState, all_finite, count_step, update_ema
from chromagan_jax.models import Classified
from chromagan_jax.models.pretrained import vgg

Array = jax.Array
PyTree = Any
Batch = Mapping[str, Array]
Metrics = dict[str, Array]


def train_step(
    model: GanModel, state: GanState, batch: Batch, teacher: PyTree = None
) -> tuple[GanState, Metrics]:
    """One generator update and `model.discriminator_steps` discriminator updates.

    The generator runs forward once. Its update uses the discriminator of the previous step, and all
    discriminator updates use the same fake images. After the first non-finite metric the
    parameters no longer change, and the state records that step.

    Args:
        model: networks, optimizers and losses.
        state: the state before the step; donate it.
        batch: {'condition': (B, H, W, 1), 'target': (B, H, W, C)[, 'label': (B,)]}, with a leading
            axis of micro-batches, (M, B / M, ...), if `model.grad_accum_steps` M is greater than 1.
        teacher: parameters of `model.teacher`, if there is one; they are not trained.

    Returns:
        The new state and scalar float32 metrics.
    """
    key = jax.random.fold_in(state.key, state.step)
    gradients, stats, fake, metrics = _generator_gradient(
        model, state, batch, jax.random.fold_in(key, 0), teacher
    )
    if model.discriminator_max_accuracy < 1:
        discriminator, judged = lax.cond(
            state.discriminator_accuracy > model.discriminator_max_accuracy,
            functools.partial(_skip_discriminator, model, state),
            functools.partial(_update_discriminator, model, state),
            *(batch, fake, key),
        )
    else:
        discriminator, judged = _update_discriminator(model, state, batch, fake, key)
    accuracy = 0.5 * (judged['discriminator/accuracy_real'] + judged['discriminator/accuracy_fake'])
    metrics |= judged
    # Updating only after the finite check avoids holding the old and the new state at once.
    good = all_finite(state, metrics)
    generator = _update(model.generator_optimizer, state, state.generator, gradients, stats, good)
    updated = state.replace(
        generator=generator,
        discriminator=optimizers.select(good, discriminator, state.discriminator),
        ema=optimizers.select(good, update_ema(model.ema_decay, state, generator), state.ema),
        discriminator_accuracy=jnp.where(good, accuracy, state.discriminator_accuracy),
    )
    return count_step(updated, metrics), metrics


def pretrain_step(
    model: GanModel, state: GanState, batch: Batch, teacher: PyTree = None
) -> tuple[GanState, Metrics]:
    """One generator update without the adversarial term; the discriminator is not updated.

    It replaces `train_step` during pretraining. Arguments and results are the same.
    """
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), 0)
    gradients, stats, _, metrics = _generator_gradient(
        model, state, batch, key, teacher, reconstruction_only=True
    )
    good = all_finite(state, metrics)
    generator = _update(model.generator_optimizer, state, state.generator, gradients, stats, good)
    ema = optimizers.select(good, update_ema(model.ema_decay, state, generator), state.ema)
    return count_step(state.replace(generator=generator, ema=ema), metrics), metrics


def generator_loss(
    model: GanModel,
    state: GanState,
    params: PyTree,
    batch_stats: PyTree,
    batch: Batch,
    key: Array,
    teacher: PyTree = None,
    reconstruction_only: bool = False,
) -> tuple[Array, tuple[PyTree, PyTree, Metrics]]:
    """The weighted sum of the adversarial term and the terms of `losses.TERMS`.

    Terms without a weight are skipped, except those in `losses.REPORTED`. With
    `reconstruction_only` the adversarial term is skipped.

    Returns:
        The loss, and (new batch statistics, fake target (B, H, W, C), metrics). The metrics are
        the loss and the unweighted terms.
    """
    weights = {name: weight for name, weight in model.loss.weights.items() if weight}
    output, batch_stats = _apply(
        model, model.generator, params, batch_stats, key, batch['condition']
    )
    classified = isinstance(output, Classified)
    inputs = losses.TermInputs(
        condition=batch['condition'],
        target=batch['target'],
        fake=output.target if classified else output,
        class_logits=output.class_logits if classified else None,
        class_target=_class_target(model, batch, teacher) if 'classes' in weights else None,
        huber_delta=model.loss.huber_delta,
    )
    terms = {}
    if 'adversarial' in weights and not reconstruction_only:
        # The discriminator gets no gradient here, and its new batch statistics are discarded.
        judge = state.discriminator
        logits, _ = _apply(
            *(model, model.discriminator, judge.params, judge.batch_stats, key),
            *(inputs.condition, inputs.fake),
        )
        terms['adversarial'] = losses.ADVERSARIAL[model.loss.adversarial].generator(logits)
    for name, term in losses.TERMS.items():
        if name in weights or name in losses.REPORTED:
            terms[name] = term(inputs)
    loss = sum((weights.get(name, 0) * term for name, term in terms.items()), jnp.float32(0))
    metrics = {f'generator/{name}': value for name, value in {'loss': loss, **terms}.items()}
    return loss, (batch_stats, lax.stop_gradient(inputs.fake), metrics)


def _class_target(model: GanModel, batch: Batch, teacher: PyTree) -> Array:
    """Class probabilities (B, classes) of the teacher, or labels (B,) without a teacher."""
    if model.teacher is None:
        return batch['label']
    variables = gathered(model.replicated, {'params': teacher})
    seen = vgg.normalized(batch['condition'], batch['target'].shape[-1])
    logits: Any = lax.stop_gradient(model.teacher.apply(variables, seen))
    return jax.nn.softmax(logits)


def discriminator_loss(
    model: GanModel, params: PyTree, batch_stats: PyTree, batch: tuple[Batch, Array], key: Array
) -> tuple[Array, tuple[PyTree, PyTree, Metrics]]:
    """The adversarial loss on real and fake targets, plus the weighted gradient penalty.

    Real and fake targets are not concatenated: that would mix their batch statistics and gather
    sharded batches.

    Args:
        model: networks and losses.
        params: of the discriminator.
        batch_stats: of the discriminator.
        batch: the real batch, and the fake target (B, H, W, C).
        key: PRNG key of the noise and the penalty.

    Returns:
        The loss, and (new batch statistics, None, metrics).
    """
    (real_batch, fake), condition = batch, batch[0]['condition']
    keys = jax.random.split(key, 4)

    def judge(target: Array, stats: PyTree, key: Array) -> tuple[Array, PyTree]:
        return _apply(model, model.discriminator, params, stats, key, condition, target)

    real_logits, batch_stats = judge(real_batch['target'], batch_stats, keys[0])
    fake_logits, batch_stats = judge(fake, batch_stats, keys[1])
    adversarial = losses.ADVERSARIAL[model.loss.adversarial]
    loss = adversarial.discriminator(real_logits, fake_logits, model.loss.label_smoothing)
    metrics = {
        'discriminator/accuracy_real': losses.accuracy(real_logits, real=True),
        'discriminator/accuracy_fake': losses.accuracy(fake_logits, real=False),
    }
    if model.loss.gradient_penalty_weight:
        penalty = losses.gradient_penalty(
            lambda target: judge(target, batch_stats, keys[2])[0],
            real_batch['target'],
            fake,
            keys[3],
        )
        metrics['discriminator/gradient_penalty'] = penalty
        loss += model.loss.gradient_penalty_weight * penalty
    return loss, (batch_stats, None, {'discriminator/loss': loss, **metrics})


def predict(
    generator: nn.Module, variables: PyTree, condition: Array, noise: Array | None = None
) -> Array:
    """Runs the generator in inference mode: condition (B, H, W, 1) -> target (B, H, W, C), float32.

    Dropout stays active if `noise` is a PRNG key.
    """
    rngs = {} if noise is None else {'noise': noise}
    output: Any = generator.apply(variables, condition, train=False, rngs=rngs)
    return output.target if isinstance(output, Classified) else output


def _generator_gradient(
    model: GanModel,
    state: GanState,
    batch: Batch,
    key: Array,
    teacher: PyTree,
    reconstruction_only: bool = False,
) -> tuple[PyTree, PyTree, Array, Metrics]:
    """Gradients, new batch statistics, fake target and metrics of the generator."""

    def loss(params: PyTree, stats: PyTree, batch: Batch, key: Array) -> Any:
        return generator_loss(model, state, params, stats, batch, key, teacher, reconstruction_only)

    gradients, stats, fake, metrics = accumulate_gradients(
        loss, state.generator, batch, key, model.grad_accum_steps
    )
    metrics |= _sizes('generator', model.generator_optimizer, state, gradients)
    return gradients, stats, fake, metrics


def _update_discriminator(
    model: GanModel, state: GanState, batch: Batch, fake: Array, key: Array
) -> tuple[NetworkState, Metrics]:
    """All discriminator updates of one step, and the means of their metrics."""

    def loss(params: PyTree, stats: PyTree, batch: tuple[Batch, Array], key: Array) -> Any:
        return discriminator_loss(model, params, stats, batch, key)

    network, rounds = state.discriminator, []
    for update in range(model.discriminator_steps):
        key_of_update = jax.random.fold_in(key, update + 1)
        gradients, stats, _, metrics = accumulate_gradients(
            loss, network, (batch, fake), key_of_update, model.grad_accum_steps
        )
        optimizer = model.discriminator_optimizer
        network = _update(optimizer, state, network, gradients, stats)
        if model.discriminator_max_accuracy < 1:
            metrics['discriminator/skipped'] = jnp.float32(0)
        rounds.append(metrics | _sizes('discriminator', optimizer, state, gradients))
    return network, jax.tree.map(lambda *values: jnp.stack(values).mean(), *rounds)


def _skip_discriminator(
    model: GanModel, state: GanState, batch: Batch, fake: Array, key: Array
) -> tuple[NetworkState, Metrics]:
    """The unchanged discriminator, and the metrics of its losses without an update."""
    network = state.discriminator

    def judge(batch: tuple[Batch, Array]) -> Metrics:
        _, (_, _, metrics) = discriminator_loss(
            model, network.params, network.batch_stats, batch, jax.random.fold_in(key, 1)
        )
        return metrics

    if model.grad_accum_steps == 1:
        metrics = judge((batch, fake))
    else:
        metrics = jax.tree.map(jnp.mean, lax.map(judge, (batch, fake)))
    still = {'gradient_norm': 0, 'learning_rate': 0, 'skipped': 1}
    return network, metrics | {f'discriminator/{k}': jnp.float32(v) for k, v in still.items()}


def _update(
    optimizer: optimizers.Optimizer,
    state: GanState,
    network: NetworkState,
    gradients: PyTree,
    batch_stats: PyTree,
    good: Array | bool = True,
) -> NetworkState:
    """One optimizer step of one network; the old network if `good` is false."""
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
        f'{name}/gradient_norm': optax.tree.norm(optax.tree.cast(gradients, jnp.float32)),
        f'{name}/learning_rate': optimizer.learning_rate(state.step) * state.plateau.scale,
    }


def _apply(
    model: GanModel,
    module: nn.Module,
    params: PyTree,
    batch_stats: PyTree,
    key: Array,
    *inputs: Any,
) -> tuple[Any, PyTree]:
    """A forward pass in train mode: the output and the new batch statistics."""
    variables = gathered(model.replicated, {'params': params, 'batch_stats': batch_stats})
    output, changed = module.apply(
        variables, *inputs, train=True, mutable=['batch_stats'], rngs={'noise': key}
    )
    return output, changed.get('batch_stats', batch_stats)
