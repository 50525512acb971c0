"""The losses of both networks: `generator_loss` and `discriminator_loss`.

Both return the loss, and (new batch statistics, an output to keep, metrics).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from chromagan_jax import color
from chromagan_jax.gan import augment, losses
from chromagan_jax.gan.hints import draw_hints
from chromagan_jax.gan.model import GanModel, gathered
from chromagan_jax.gan.optimizers import BACKBONES
from chromagan_jax.gan.state import GanState, NetworkState
from chromagan_jax.models import Classified
from chromagan_jax.models.pretrained import vgg
from chromagan_jax.models.projected import WeightedLogits

Array = jax.Array
PyTree = Any
Batch = Mapping[str, Array]
Metrics = dict[str, Array]
_DEGRADE = 0x5EED  # folded into the generator's key, for grain and blur
_HINT = 0x417  # the same, for random hints
Frozen = Mapping[str, PyTree]  # parameters of the frozen networks, of `model.make_frozen`


class Images(NamedTuple):
    """Targets, real or fake, and their frozen features."""

    target: Array  # (B, H, W, C)
    features: tuple[Array, ...]  # maps of `model.features`, (B, h, w, F) each; () without


def generator_loss(
    model: GanModel,
    discriminator: NetworkState,
    params: PyTree,
    batch_stats: PyTree,
    real_batch: tuple[Batch, Images],
    key: Array,
    frozen: Frozen,
    weights: Mapping[str, float | Array],
) -> tuple[Array, tuple[PyTree, PyTree, Metrics]]:
    """The weighted sum of the adversarial term and the terms of `losses.TERMS`.

    Terms without a weight are skipped, except those in `losses.REPORTED`.

    Args:
        model: networks and losses.
        discriminator: its state, which stays as it is.
        params: of the generator.
        batch_stats: of the generator.
        real_batch: the batch, and its real images with their features.
        key: PRNG key of the noise.
        frozen: parameters of the frozen networks.
        weights: of the terms, from `loss_weights`.

    Returns:
        The loss, and (new batch statistics, the fake images, the loss and its unweighted terms).
    """
    batch, real = real_batch
    params = {k: lax.stop_gradient(v) if _is_frozen(model, k) else v for k, v in params.items()}
    network, condition = model.generator, _input(model, batch, key)
    train = not model.train_only  # else the statistics of frozen norms are frozen too
    output, batch_stats = _apply(model, network, params, batch_stats, key, condition, train=train)
    classified = isinstance(output, Classified)
    target = output.target if classified else output
    fake = with_features(model, frozen, batch['condition'], target)
    inputs = losses.TermInputs(
        condition=batch['condition'],
        target=batch['target'],
        fake=fake.target,
        class_logits=output.class_logits if classified else None,
        class_target=_class_target(model, batch, frozen) if 'classes' in weights else None,
        fake_maps=fake.features,
        real_maps=real.features,
        huber_delta=model.loss.huber_delta,
    )
    terms = {}
    if 'adversarial' in weights:
        # The discriminator gets no gradient here, and its new batch statistics are discarded.
        variables = discriminator.params, discriminator.batch_stats
        outputs, _ = _discriminate(model, *variables, key, inputs.condition, fake)
        adversarial = losses.ADVERSARIAL[model.loss.adversarial].generator
        terms['adversarial'] = _weighted(adversarial, outputs)
    for name, term in losses.TERMS.items():
        if name in weights or name in losses.REPORTED:
            terms[name] = term(inputs)
    loss = sum((weights.get(name, 0) * term for name, term in terms.items()), jnp.float32(0))
    metrics = {f'generator/{name}': value for name, value in {'loss': loss, **terms}.items()}
    return loss, (batch_stats, lax.stop_gradient(fake), metrics)


def _input(model: GanModel, batch: Batch, key: Array) -> Array:
    """The generator's input: the degraded condition, and random hints if the model has them."""
    degrade_key = jax.random.fold_in(key, _DEGRADE)
    condition = augment.degrade(model.augment, batch['condition'], degrade_key)
    if model.hints is None:
        return condition
    hints = draw_hints(model.hints, batch['target'], jax.random.fold_in(key, _HINT))
    return jnp.concatenate([condition, hints], axis=-1)


def _is_frozen(model: GanModel, name: str) -> bool:
    """Whether a submodule of the generator gets no gradient."""
    others = bool(model.train_only) and name != model.train_only
    return others or (model.encoder_frozen and name in BACKBONES)


def loss_weights(model: GanModel, state: GanState) -> dict[str, float | Array]:
    """Weights of the generator's loss terms, without zeros. With steering, L1's is in the state."""
    weights: dict[str, float | Array] = {k: w for k, w in model.loss.weights.items() if w}
    if state.steering is not None:
        weights['l1'] = state.steering.weight
    return weights


def with_features(model: GanModel, frozen: Frozen, condition: Array, target: Array) -> Images:
    """A target (B, H, W, C) and the frozen features of it in RGB, where the model has them."""
    if model.features is None:
        return Images(target, ())
    variables = gathered(model.replicated, {'params': frozen['features']})
    rgb = color.to_rgb(condition.astype(jnp.float32), target)
    maps: Any = model.features.apply(variables, rgb)
    return Images(target, maps)


def _class_target(model: GanModel, batch: Batch, frozen: Frozen) -> Array:
    """Class probabilities (B, classes) of the teacher, or labels (B,) without a teacher."""
    if model.teacher is None:
        return batch['label']
    variables = gathered(model.replicated, {'params': frozen['teacher']})
    rgb = vgg.normalized(batch['condition'], batch['target'].shape[-1])
    logits: Any = lax.stop_gradient(model.teacher.apply(variables, rgb))
    return jax.nn.softmax(logits)


def discriminator_loss(
    model: GanModel,
    params: PyTree,
    batch_stats: PyTree,
    batch: tuple[Batch, Images, Images],
    key: Array,
) -> tuple[Array, tuple[PyTree, PyTree, Metrics]]:
    """The adversarial loss on real and fake targets, plus the weighted gradient penalty.

    Real and fake targets are not concatenated: that would mix their batch statistics and gather
    sharded batches.

    Args:
        model: networks and losses.
        params: of the discriminator.
        batch_stats: of the discriminator.
        batch: the real batch, its real images and the fake ones.
        key: PRNG key of the noise and the penalty.

    Returns:
        The loss, and (new batch statistics, None, metrics).
    """
    real_batch, real, fake = batch
    condition, keys = real_batch['condition'], jax.random.split(key, 4)
    on_real, batch_stats = _discriminate(model, params, batch_stats, keys[0], condition, real)
    on_fake, batch_stats = _discriminate(model, params, batch_stats, keys[1], condition, fake)
    adversarial = losses.ADVERSARIAL[model.loss.adversarial]
    smoothing, threshold = model.loss.label_smoothing, adversarial.threshold
    loss = _weighted(lambda r, f: adversarial.discriminator(r, f, smoothing), on_real, on_fake)
    metrics = {
        'discriminator/accuracy_real': _mean(
            lambda x: losses.accuracy(x, True, threshold), on_real
        ),
        'discriminator/accuracy_fake': _mean(
            lambda x: losses.accuracy(x, False, threshold), on_fake
        ),
    }
    if model.loss.gradient_penalty_weight:

        def critic(target: Array) -> Array:
            images = Images(target, ())
            output, _ = _discriminate(model, params, batch_stats, keys[2], condition, images)
            return output.logits[0]

        penalty = losses.gradient_penalty(critic, real.target, fake.target, keys[3])
        metrics['discriminator/gradient_penalty'] = penalty
        loss += model.loss.gradient_penalty_weight * penalty
    return loss, (batch_stats, None, {'discriminator/loss': loss, **metrics})


def _discriminate(
    model: GanModel,
    params: PyTree,
    batch_stats: PyTree,
    key: Array,
    condition: Array,
    images: Images,
) -> tuple[WeightedLogits, PyTree]:
    """The discriminator's logits in train mode, and the new batch statistics."""
    inputs: tuple[Any, ...] = condition, images.target
    if hasattr(model.discriminator, 'features'):
        inputs += (images.features,)
    output, batch_stats = _apply(model, model.discriminator, params, batch_stats, key, *inputs)
    if not isinstance(output, WeightedLogits):
        output = WeightedLogits((output,), (1.0,))
    return output, batch_stats


def _weighted(loss: Callable[..., Array], *outputs: WeightedLogits) -> Array:
    """The weighted sum of a loss over the logits of a discriminator."""
    logits = zip(*(output.logits for output in outputs), strict=True)
    terms = [w * loss(*x) for w, x in zip(outputs[0].weights, logits, strict=True)]
    return sum(terms[1:], start=terms[0])


def _mean(metric: Callable[[Array], Array], output: WeightedLogits) -> Array:
    """The mean of a metric over the logits of a discriminator."""
    values = [metric(logits) for logits in output.logits]
    return sum(values[1:], start=values[0]) / len(values)


def _apply(
    model: GanModel,
    module: nn.Module,
    params: PyTree,
    batch_stats: PyTree,
    key: Array,
    *inputs: Any,
    train: bool = True,
) -> tuple[Any, PyTree]:
    """A forward pass, with dropout: the output and the new batch statistics."""
    variables = gathered(model.replicated, {'params': params, 'batch_stats': batch_stats})
    output, changed = module.apply(
        variables, *inputs, train=train, mutable=['batch_stats'], rngs={'noise': key}
    )
    return output, changed.get('batch_stats', batch_stats)
