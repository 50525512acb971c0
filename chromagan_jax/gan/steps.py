"""The steps of a training as pure functions.

`train_step` computes the gradient of the generator, updates the discriminator on the same fakes,
and then updates the generator. objectives.py has the losses of both networks, losses.py their
terms.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from chromagan_jax.gan import augment, optimizers
from chromagan_jax.gan.data_parallel import Gradients, average
from chromagan_jax.gan.grad_accumulation import LossFunction, accumulate_gradients
from chromagan_jax.gan.model import GanModel
from chromagan_jax.gan.objectives import (
    Batch,
    Frozen,
    Images,
    Metrics,
    discriminator_loss,
    generator_loss,
    loss_weights,
    with_features,
)
from chromagan_jax.gan.state import GanState, NetworkState, all_finite, count_step, update_ema
from chromagan_jax.gan.steering import Steering, update_steering
from chromagan_jax.models.ops import backend

Array = jax.Array
PyTree = Any

_GAMMA = 0xBE4D  # folded into the key of a step, for the lightness curves


def train_step(
    model: GanModel, state: GanState, batch: Batch, frozen: Frozen | None = None
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
        frozen: parameters of the frozen networks, of `model.make_frozen`.

    Returns:
        The new state and scalar float32 metrics.
    """
    frozen = frozen or {}
    key = jax.random.fold_in(state.key, state.step)
    batch, real = _prepare(model, frozen, batch, key)
    weights = loss_weights(model, state)
    gradients, stats, fake, metrics = _generator_gradient(
        model, state, (batch, real), jax.random.fold_in(key, 0), frozen, weights
    )
    if backend.is_cpu():
        fake = _only_after(metrics['generator/gradient_norm'], fake)
    discriminator, accuracy, on_both = _train_discriminator(model, state, (batch, real, fake), key)
    steering, steered = _steer(model, state, fake.target, batch['target'])
    metrics |= on_both | steered
    # Updating only after the finite check avoids holding the old and the new state at once.
    good = all_finite(state, metrics)
    generator = _update(model.generator_optimizer, state, state.generator, gradients, stats, good)
    updated = state.replace(
        generator=generator,
        discriminator=optimizers.select(good, discriminator, state.discriminator),
        ema=optimizers.select(good, update_ema(model.ema_decay, state, generator), state.ema),
        steering=optimizers.select(good, steering, state.steering),
        discriminator_accuracy=jnp.where(good, accuracy, state.discriminator_accuracy),
    )
    return count_step(updated, metrics), metrics


def pretrain_step(
    model: GanModel, state: GanState, batch: Batch, frozen: Frozen | None = None
) -> tuple[GanState, Metrics]:
    """One generator update without the adversarial term; the discriminator is not updated.

    It replaces `train_step` during pretraining. Arguments and results are the same.
    """
    frozen = frozen or {}
    key = jax.random.fold_in(state.key, state.step)
    batch, real = _prepare(model, frozen, batch, key)
    weights = {k: w for k, w in loss_weights(model, state).items() if k != 'adversarial'}
    gradients, stats, _, metrics = _generator_gradient(
        model, state, (batch, real), jax.random.fold_in(key, 0), frozen, weights
    )
    good = all_finite(state, metrics)
    generator = _update(model.generator_optimizer, state, state.generator, gradients, stats, good)
    ema = optimizers.select(good, update_ema(model.ema_decay, state, generator), state.ema)
    return count_step(state.replace(generator=generator, ema=ema), metrics), metrics


def warmup_step(
    model: GanModel, state: GanState, batch: Batch, frozen: Frozen | None = None
) -> tuple[GanState, Metrics]:
    """The discriminator updates of `train_step`; the generator is not updated.

    It lets a new discriminator catch up with a trained generator. Arguments and results are the
    same, and so are the metrics of the generator.
    """
    frozen = frozen or {}
    key = jax.random.fold_in(state.key, state.step)
    batch, real = _prepare(model, frozen, batch, key)
    weights = loss_weights(model, state)
    _, _, fake, metrics = _generator_gradient(
        model, state, (batch, real), jax.random.fold_in(key, 0), frozen, weights
    )
    discriminator, accuracy, on_both = _train_discriminator(model, state, (batch, real, fake), key)
    metrics |= on_both
    good = all_finite(state, metrics)
    updated = state.replace(
        discriminator=optimizers.select(good, discriminator, state.discriminator),
        discriminator_accuracy=jnp.where(good, accuracy, state.discriminator_accuracy),
    )
    return count_step(updated, metrics), metrics


def _prepare(model: GanModel, frozen: Frozen, batch: Batch, key: Array) -> tuple[Batch, Images]:
    """The augmented batch, and its real images with their features.

    The features are computed once for all uses in a step.
    """
    batch = augment.random_gamma(model.augment, batch, jax.random.fold_in(key, _GAMMA))
    if model.features is None:
        return batch, Images(batch['target'], ())

    def images(batch: Batch) -> Images:
        return with_features(model, frozen, batch['condition'], batch['target'])

    return batch, images(batch) if model.grad_accum_steps == 1 else lax.map(images, batch)


def _only_after(scalar: Array, arrays: PyTree) -> PyTree:
    """`arrays`, which cannot be used before the finite `scalar` is computed.

    XLA's CPU back end may run the discriminator's updates before the generator's backward pass, and
    holds the activations of both then. It does not keep to an optimization barrier.
    """
    finite = jnp.isfinite(scalar)  # else the step changes nothing
    return jax.tree.map(lambda x: jnp.where(finite, x, jnp.zeros_like(x)), arrays)


def _steer(
    model: GanModel, state: GanState, fake: Array, real: Array
) -> tuple[Steering | None, Metrics]:
    """The new state of the L1 steering, and its metrics; None and {} without steering."""
    if state.steering is None:
        return None, {}
    new = update_steering(model.loss.steering, state.steering, state.step, fake, real)
    return new, {'generator/l1_weight': state.steering.weight, 'generator/chroma_share': new.share}


def _generator_gradient(
    model: GanModel,
    state: GanState,
    real: tuple[Batch, Images],
    key: Array,
    frozen: Frozen,
    weights: Mapping[str, float | Array],
) -> tuple[PyTree, PyTree, Images, Metrics]:
    """Gradients, new batch statistics, the fake and metrics of the generator."""

    def loss(params: PyTree, stats: PyTree, real: tuple[Batch, Images], key: Array) -> Any:
        discriminator = state.discriminator
        return generator_loss(model, discriminator, params, stats, real, key, frozen, weights)

    gradients, stats, fake, metrics = _gradients(model, loss, state.generator)(real, key)
    metrics |= _optimizer_metrics('generator', model.generator_optimizer, state, gradients)
    return gradients, stats, fake, metrics


def _train_discriminator(
    model: GanModel, state: GanState, batch: tuple[Batch, Images, Images], key: Array
) -> tuple[NetworkState, Array, Metrics]:
    """The discriminator after its updates, or unchanged if skipped; its accuracy and metrics."""
    update = functools.partial(_update_discriminator, model, state)
    if model.discriminator_max_accuracy < 1:
        network, metrics = lax.cond(
            state.discriminator_accuracy > model.discriminator_max_accuracy,
            functools.partial(_skip_discriminator, model, state),
            update,
            batch,
            key,
        )
    else:
        network, metrics = update(batch, key)
    accuracy = metrics['discriminator/accuracy_real'] + metrics['discriminator/accuracy_fake']
    return network, 0.5 * accuracy, metrics


def _update_discriminator(
    model: GanModel, state: GanState, batch: tuple[Batch, Images, Images], key: Array
) -> tuple[NetworkState, Metrics]:
    """All discriminator updates of one step, and the means of their metrics."""

    def loss(params: PyTree, stats: PyTree, batch: tuple[Batch, Images, Images], key: Array) -> Any:
        return discriminator_loss(model, params, stats, batch, key)

    network, rounds = state.discriminator, []
    for update in range(model.discriminator_steps):
        key_of_update = jax.random.fold_in(key, update + 1)
        gradients, stats, _, metrics = _gradients(model, loss, network)(batch, key_of_update)
        optimizer = model.discriminator_optimizer
        network = _update(optimizer, state, network, gradients, stats)
        if model.discriminator_max_accuracy < 1:
            metrics['discriminator/skipped'] = jnp.float32(0)
        rounds.append(metrics | _optimizer_metrics('discriminator', optimizer, state, gradients))
    return network, jax.tree.map(lambda *values: jnp.stack(values).mean(), *rounds)


def _skip_discriminator(
    model: GanModel, state: GanState, batch: tuple[Batch, Images, Images], key: Array
) -> tuple[NetworkState, Metrics]:
    """The unchanged discriminator, and the metrics of its losses without an update."""
    network = state.discriminator

    def without_gradient(
        batch: tuple[Batch, Images, Images], key: Array
    ) -> tuple[PyTree, PyTree, None, Metrics]:
        def metrics(batch: tuple[Batch, Images, Images]) -> Metrics:
            return discriminator_loss(model, network.params, network.batch_stats, batch, key)[1][2]

        if model.grad_accum_steps == 1:
            return {}, {}, None, metrics(batch)
        return {}, {}, None, jax.tree.map(jnp.mean, lax.map(metrics, batch))

    *_, metrics = average(without_gradient, model.per_device)(batch, jax.random.fold_in(key, 1))
    still = {'gradient_norm': 0, 'learning_rate': 0, 'skipped': 1}
    return network, metrics | {f'discriminator/{k}': jnp.float32(v) for k, v in still.items()}


def _gradients(model: GanModel, loss: LossFunction, network: NetworkState) -> Gradients:
    """(batch, key) -> what `accumulate_gradients` returns, on global batches."""

    def compute(batch: PyTree, key: Array) -> tuple[PyTree, PyTree, PyTree, Metrics]:
        return accumulate_gradients(loss, network, batch, key, model.grad_accum_steps)

    return average(compute, model.per_device)


def _update(
    optimizer: optimizers.Optimizer,
    state: GanState,
    network: NetworkState,
    gradients: PyTree,
    batch_stats: PyTree,
    good: Array | bool = True,
) -> NetworkState:
    """One optimizer step of one network; the old network if `good` is false."""
    rate = optimizer.learning_rate(state.step) * state.plateau.scale
    params, opt_state = optimizers.apply_gradients(
        optimizer, gradients, network.opt_state, network.params, rate, good
    )
    batch_stats = optimizers.select(good, batch_stats, network.batch_stats)
    return NetworkState(params, batch_stats, opt_state)


def _optimizer_metrics(
    name: str, optimizer: optimizers.Optimizer, state: GanState, gradients: PyTree
) -> Metrics:
    """The norm of the gradients, and the learning rate."""
    return {
        f'{name}/gradient_norm': optax.tree.norm(optax.tree.cast(gradients, jnp.float32)),
        f'{name}/learning_rate': optimizer.learning_rate(state.step) * state.plateau.scale,
    }
