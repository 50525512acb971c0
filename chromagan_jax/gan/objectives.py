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
from chromagan_jax.models.projected import Judgement

Array = jax.Array
PyTree = Any
Batch = Mapping[str, Array]
Metrics = dict[str, Array]
_HINT = 0x417  # the same for its hints
_DEGRADE = 0x5EED  # folded into the key of the generator's noise for its degraded input
Frozen = Mapping[str, PyTree]  # parameters of the frozen networks, by `model.abstract_frozen`


class Seen(NamedTuple):
    """What a discriminator judges."""

    target: Array  # (B, H, W, C)
    maps: tuple[Array, ...]  # of `model.features`, (B, h, w, F) each; () without


def generator_loss(
    model: GanModel,
    judge: NetworkState,
    params: PyTree,
    batch_stats: PyTree,
    real: tuple[Batch, Seen],
    key: Array,
    frozen: Frozen,
    weights: Mapping[str, float | Array],
) -> tuple[Array, tuple[PyTree, PyTree, Metrics]]:
    """The weighted sum of the adversarial term and the terms of `losses.TERMS`.

    Terms without a weight are skipped, except those in `losses.REPORTED`.

    Args:
        model: networks and losses.
        judge: the discriminator as it is.
        params: of the generator.
        batch_stats: of the generator.
        real: the batch, and what the discriminator sees of it.
        key: PRNG key of the noise.
        frozen: parameters of the frozen networks.
        weights: of the terms, from `loss_weights`.

    Returns:
        The loss, and (new batch statistics, the fake as a `Seen`, metrics). The metrics are the
        loss and the unweighted terms.
    """
    batch, of_real = real
    params = {k: lax.stop_gradient(v) if _is_frozen(model, k) else v for k, v in params.items()}
    seen = _input(model, batch, key)
    train = not model.train_only  # else the statistics of frozen norms are frozen too
    output, batch_stats = _apply(
        model, model.generator, params, batch_stats, key, seen, train=train
    )
    classified = isinstance(output, Classified)
    fake = see(model, frozen, batch['condition'], output.target if classified else output)
    inputs = losses.TermInputs(
        condition=batch['condition'],
        target=batch['target'],
        fake=fake.target,
        class_logits=output.class_logits if classified else None,
        class_target=_class_target(model, batch, frozen) if 'classes' in weights else None,
        fake_maps=fake.maps,
        real_maps=of_real.maps,
        huber_delta=model.loss.huber_delta,
    )
    terms = {}
    if 'adversarial' in weights:
        # The discriminator gets no gradient here, and its new batch statistics are discarded.
        judged, _ = _judge(model, judge.params, judge.batch_stats, key, inputs.condition, fake)
        adversarial = losses.ADVERSARIAL[model.loss.adversarial].generator
        terms['adversarial'] = _weighted(adversarial, judged)
    for name, term in losses.TERMS.items():
        if name in weights or name in losses.REPORTED:
            terms[name] = term(inputs)
    loss = sum((weights.get(name, 0) * term for name, term in terms.items()), jnp.float32(0))
    metrics = {f'generator/{name}': value for name, value in {'loss': loss, **terms}.items()}
    return loss, (batch_stats, lax.stop_gradient(fake), metrics)


def _input(model: GanModel, batch: Batch, key: Array) -> Array:
    """The generator's input: the degraded condition, and random hints if the model has them."""
    seen = augment.degrade(model.augment, batch['condition'], jax.random.fold_in(key, _DEGRADE))
    if model.hints is None:
        return seen
    hints = draw_hints(model.hints, batch['target'], jax.random.fold_in(key, _HINT))
    return jnp.concatenate([seen, hints], axis=-1)


def _is_frozen(model: GanModel, name: str) -> bool:
    """Whether a submodule of the generator gets no gradient."""
    others = bool(model.train_only) and name != model.train_only
    return others or (model.encoder_frozen and name in BACKBONES)


def loss_weights(model: GanModel, state: GanState) -> dict[str, float | Array]:
    """The weights of the generator's loss terms that are not 0; a steered L1 has its own."""
    weights: dict[str, float | Array] = {k: w for k, w in model.loss.weights.items() if w}
    if state.steering is not None:
        weights['l1'] = state.steering.weight
    return weights


def see(model: GanModel, frozen: Frozen, condition: Array, target: Array) -> Seen:
    """A target (B, H, W, C) and the frozen features of it in RGB, where the model has them."""
    if model.features is None:
        return Seen(target, ())
    variables = gathered(model.replicated, {'params': frozen['features']})
    rgb = color.to_rgb(condition.astype(jnp.float32), target)
    maps: Any = model.features.apply(variables, rgb)
    return Seen(target, maps)


def _class_target(model: GanModel, batch: Batch, frozen: Frozen) -> Array:
    """Class probabilities (B, classes) of the teacher, or labels (B,) without a teacher."""
    if model.teacher is None:
        return batch['label']
    variables = gathered(model.replicated, {'params': frozen['teacher']})
    seen = vgg.normalized(batch['condition'], batch['target'].shape[-1])
    logits: Any = lax.stop_gradient(model.teacher.apply(variables, seen))
    return jax.nn.softmax(logits)


def discriminator_loss(
    model: GanModel,
    params: PyTree,
    batch_stats: PyTree,
    batch: tuple[Batch, Seen, Seen],
    key: Array,
) -> tuple[Array, tuple[PyTree, PyTree, Metrics]]:
    """The adversarial loss on real and fake targets, plus the weighted gradient penalty.

    Real and fake targets are not concatenated: that would mix their batch statistics and gather
    sharded batches.

    Args:
        model: networks and losses.
        params: of the discriminator.
        batch_stats: of the discriminator.
        batch: the real batch, and what the discriminator sees of it and of the fake.
        key: PRNG key of the noise and the penalty.

    Returns:
        The loss, and (new batch statistics, None, metrics).
    """
    real_batch, real, fake = batch
    condition, keys = real_batch['condition'], jax.random.split(key, 4)
    on_real, batch_stats = _judge(model, params, batch_stats, keys[0], condition, real)
    on_fake, batch_stats = _judge(model, params, batch_stats, keys[1], condition, fake)
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
            seen = Seen(target, ())
            judged, _ = _judge(model, params, batch_stats, keys[2], condition, seen)
            return judged.logits[0]

        penalty = losses.gradient_penalty(critic, real.target, fake.target, keys[3])
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


def _judge(
    model: GanModel, params: PyTree, batch_stats: PyTree, key: Array, condition: Array, seen: Seen
) -> tuple[Judgement, PyTree]:
    """The discriminator's logits in train mode, and the new batch statistics."""
    maps = (seen.maps,) if hasattr(model.discriminator, 'features') else ()
    output, batch_stats = _apply(
        *(model, model.discriminator, params, batch_stats, key, condition, seen.target), *maps
    )
    return output if isinstance(output, Judgement) else Judgement((output,), (1.0,)), batch_stats


def _weighted(loss: Callable[..., Array], *judged: Judgement) -> Array:
    """The weighted sum of a loss over the outputs of a discriminator."""
    logits = zip(*(judgement.logits for judgement in judged), strict=True)
    terms = [w * loss(*x) for w, x in zip(judged[0].weights, logits, strict=True)]
    return sum(terms[1:], start=terms[0])


def _mean(metric: Callable[[Array], Array], judged: Judgement) -> Array:
    """The mean of a metric over the outputs of a discriminator."""
    values = [metric(logits) for logits in judged.logits]
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
