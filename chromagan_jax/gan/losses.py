"""Adversarial losses and terms of the generator's loss: plain functions of arrays.

To add a term, write a function of `TermInputs` and name it in `TERMS`; its weight is the field
`loss.weights.NAME` of a config. To add an adversarial loss, name it in `ADVERSARIAL`.

Each casts what it is given to float32 and returns a float32 scalar. A discriminator's logits may
have any shape (a PatchGAN's map, a dense network's column): a loss averages over all of them.
"""

import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from chromagan_jax.errors import UserError

Array = jax.Array


def _float32(x: Array) -> Array:
    return x.astype(jnp.float32)


class Adversarial(NamedTuple):
    """The two sides of an adversarial game, both to be minimised."""

    generator: Callable[[Array], Array]
    """Of D's logits of the fakes."""
    discriminator: Callable[[Array, Array, float], Array]
    """Of D's logits of the real and the fake images, and the smoothing: the real label is 1 minus
    it, the fake label stays 0 (one-sided, Salimans et al. 2016, section 3.4)."""


def bce(logits: Array, label: float) -> Array:
    """Mean cross-entropy of sigmoid(logits) against one label in [0, 1] for all of them."""
    return optax.sigmoid_binary_cross_entropy(_float32(logits), jnp.float32(label)).mean()


def _bce_discriminator(real: Array, fake: Array, smoothing: float) -> Array:
    """Goodfellow et al. 2014, halved as in pix2pix (Isola et al. 2017, section 3.3)."""
    return 0.5 * (bce(real, 1 - smoothing) + bce(fake, 0))


def _bce_generator(fake: Array) -> Array:
    """The non-saturating loss: fakes are to be called real (Goodfellow et al. 2014, section 3)."""
    return bce(fake, 1)


def _lsgan_discriminator(real: Array, fake: Array, smoothing: float) -> Array:
    """Least squares with the labels 1 and 0, halved (Mao et al. 2017)."""
    return 0.5 * (mse(real, jnp.float32(1 - smoothing)) + mse(fake, jnp.float32(0)))


def _lsgan_generator(fake: Array) -> Array:
    """Squared distance to the real label, not halved (the pix2pix code's reading of Mao et al.)."""
    return mse(fake, jnp.float32(1))


def _refuse_smoothing(name: str, smoothing: float) -> None:
    if smoothing:
        raise UserError(
            f'label smoothing is {smoothing} but the {name} loss has no labels: set it to 0'
        )


def _hinge_discriminator(real: Array, fake: Array, smoothing: float) -> Array:
    """Margins of 1 on both sides (Lim & Ye 2017, Miyato et al. 2018)."""
    _refuse_smoothing('hinge', smoothing)
    return jax.nn.relu(1 - _float32(real)).mean() + jax.nn.relu(1 + _float32(fake)).mean()


def _wgan_discriminator(real: Array, fake: Array, smoothing: float) -> Array:
    """The negated Wasserstein estimate (Arjovsky et al. 2017); needs `gradient_penalty`."""
    _refuse_smoothing('wgan', smoothing)
    return _float32(fake).mean() - _float32(real).mean()


def _critic_generator(fake: Array) -> Array:
    """The generator's side of both hinge and WGAN: the score of the fakes, negated."""
    return -_float32(fake).mean()


ADVERSARIAL = {
    'bce': Adversarial(_bce_generator, _bce_discriminator),
    'lsgan': Adversarial(_lsgan_generator, _lsgan_discriminator),
    'hinge': Adversarial(_critic_generator, _hinge_discriminator),
    'wgan': Adversarial(_critic_generator, _wgan_discriminator),
}


def l1(prediction: Array, target: Array) -> Array:
    """Mean absolute error, of arrays of one shape."""
    return jnp.abs(_float32(prediction) - _float32(target)).mean()


def mse(prediction: Array, target: Array) -> Array:
    """Mean squared error, of arrays of one shape."""
    return jnp.square(_float32(prediction) - _float32(target)).mean()


def huber(prediction: Array, target: Array, delta: float = 1.0) -> Array:
    """Mean of 0.5 e^2 where |e| <= delta and delta (|e| - 0.5 delta) elsewhere (Huber 1964)."""
    return optax.huber_loss(_float32(prediction), _float32(target), delta=delta).mean()


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Mean softmax cross-entropy over the images that have a label; 0 if none has.

    Args:
      logits: (B, classes).
      labels: (B,) integers in [0, classes), or -1 for an image without a label.
    """
    labelled = labels >= 0
    losses = optax.softmax_cross_entropy_with_integer_labels(
        _float32(logits), jnp.where(labelled, labels, 0)
    )
    return jnp.where(labelled, losses, 0).sum() / jnp.maximum(labelled.sum(), 1)


def kl_divergence(teacher_probabilities: Array, logits: Array) -> Array:
    """Mean over the batch of KL(teacher || softmax(logits)), in nats (ChromaGAN's class term).

    Args:
      teacher_probabilities: (B, classes), rows that sum to 1; zeros are allowed.
      logits: (B, classes).
    """
    log_predictions = jax.nn.log_softmax(_float32(logits))
    return optax.kl_divergence(log_predictions, _float32(teacher_probabilities)).mean()


class TermInputs(NamedTuple):
    """What a term of the generator's loss may look at."""

    condition: Array  # (B, H, W, 1)
    target: Array  # (B, H, W, C)
    fake: Array  # (B, H, W, C), the generator's output
    class_logits: Array | None  # (B, classes) of a class head
    class_target: Array | None  # (B, classes) probabilities of a teacher, or (B,) labels
    fake_maps: Sequence[Array] | None  # (B, h, w, F) each, frozen features of the fake in RGB
    real_maps: Sequence[Array] | None  # the same of the target
    huber_delta: float


def _classes(x: TermInputs) -> Array:
    """Of the class head: KL from the teacher's probabilities, or cross-entropy against labels."""
    assert x.class_logits is not None
    assert x.class_target is not None
    if x.class_target.ndim == 1:
        return cross_entropy(x.class_logits, x.class_target)
    return kl_divergence(x.class_target, x.class_logits)


def _perceptual(x: TermInputs) -> Array:
    assert x.fake_maps is not None
    assert x.real_maps is not None
    return perceptual_distance(x.fake_maps, x.real_maps)


# Terms of the generator's loss beside the adversarial one, by the name of their weight.
TERMS: dict[str, Callable[[TermInputs], Array]] = {
    'l1': lambda x: l1(x.fake, x.target),
    'mse': lambda x: mse(x.fake, x.target),
    'huber': lambda x: huber(x.fake, x.target, x.huber_delta),
    'classes': _classes,
    'perceptual': _perceptual,
}
REPORTED = ('l1', 'mse')  # metrics even without a weight


def check_terms(names: Iterable[str]) -> None:
    """Raises UserError, naming the nearest one, for a weight of a term that does not exist."""
    known = ('adversarial', *TERMS)
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f'did you mean {close[0]}?' if close else f'there are {", ".join(known)}.'
            raise UserError(f'loss.weights.{name} is the weight of no loss term: {hint}')


def perceptual_distance(fake: Sequence[Array], real: Sequence[Array]) -> Array:
    """Mean over the maps of mean |fake - real| / mean |real|.

    Args:
      fake: (B, h, w, F) features, any number of maps.
      real: the same shapes.
    """
    distances = [
        l1(f, r) / jnp.abs(_float32(r)).mean() for f, r in zip(fake, real, strict=True)
    ]
    return jnp.stack(distances).mean()


def gradient_penalty(
    critic: Callable[[Array], Array], real: Array, fake: Array, key: Array
) -> Array:
    """How far the critic's slope is from 1 between real and fake (WGAN-GP, Gulrajani et al. 2017).

    The mean over samples of (|grad score(x)| - 1)^2 at x = e real + (1 - e) fake with e ~ U(0, 1)
    drawn per sample. The norm's gradient is 0, not NaN, where the norm is 0.

    Args:
      critic: target (B, ...) to logits (B, ...); the score of a sample is the mean of its logits.
        No sample may touch another's logits, so no BatchNorm in train mode.
      real: (B, ...) targets, e.g. (B, H, W, C).
      fake: the same shape.
      key: a PRNG key.
    """
    batch = real.shape[0]
    e = jax.random.uniform(key, (batch,) + (1,) * (real.ndim - 1))
    mixed = e * _float32(real) + (1 - e) * _float32(fake)

    def total_score(x: Array) -> Array:
        return _float32(critic(x)).reshape(batch, -1).mean(axis=1).sum()

    squared = jnp.square(jax.grad(total_score)(mixed)).reshape(batch, -1).sum(axis=1)
    norm = jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0)
    return jnp.square(norm - 1).mean()


def accuracy(logits: Array, real: bool) -> Array:
    """Share of the logits on the right side of 0: above it for real images, below it for fakes."""
    return (logits > 0 if real else logits < 0).mean(dtype=jnp.float32)
