"""Adversarial losses and the other terms of the generator loss. objectives.py adds them up.

To add a term, write a function of `TermInputs` and list it in `TERMS`. Its weight is the config
field `loss.weights.NAME`. To add an adversarial loss, list it in `ADVERSARIAL`.

Every loss casts its inputs to float32 and returns a float32 scalar. Discriminator logits may have
any shape, such as a PatchGAN's (B, H, W, 1): the loss is the mean over all of them.
"""

import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from chromagan_jax.errors import UserError
from chromagan_jax.sharding import draw_rows

Array = jax.Array


def _float32(x: Array) -> Array:
    return x.astype(jnp.float32)


class Adversarial(NamedTuple):
    """Generator and discriminator losses of one adversarial objective. Both are minimised."""

    generator: Callable[[Array], Array]
    """Fake logits -> loss."""
    discriminator: Callable[[Array, Array, float], Array]
    """Real logits, fake logits, label smoothing s -> loss. The real label is 1 - s, the fake label
    is 0 (one-sided smoothing, Salimans et al. 2016, section 3.4)."""
    threshold: float = 0.0
    """Logits above it count as real in the accuracy."""


def bce(logits: Array, label: float) -> Array:
    """Mean binary cross-entropy of sigmoid(logits) with one label in [0, 1]."""
    return optax.sigmoid_binary_cross_entropy(_float32(logits), jnp.float32(label)).mean()


def _bce_discriminator(real: Array, fake: Array, smoothing: float) -> Array:
    """Goodfellow et al. 2014, halved as in pix2pix (Isola et al. 2017, section 3.3)."""
    return 0.5 * (bce(real, 1 - smoothing) + bce(fake, 0))


def _bce_generator(fake: Array) -> Array:
    """The non-saturating generator loss (Goodfellow et al. 2014, section 3)."""
    return bce(fake, 1)


def _lsgan_discriminator(real: Array, fake: Array, smoothing: float) -> Array:
    """Least squares with the labels 1 and 0, halved (Mao et al. 2017)."""
    return 0.5 * (mse(real, jnp.float32(1 - smoothing)) + mse(fake, jnp.float32(0)))


def _lsgan_generator(fake: Array) -> Array:
    """Mean squared distance to the real label 1, not halved (as in the pix2pix code)."""
    return mse(fake, jnp.float32(1))


def _refuse_smoothing(name: str, smoothing: float) -> None:
    if smoothing:
        raise UserError(
            f'The {name} loss has no labels to smooth: set loss.label_smoothing to 0, not '
            f'{smoothing}.'
        )


def _hinge_discriminator(real: Array, fake: Array, smoothing: float) -> Array:
    """Hinge loss with margin 1 (Lim & Ye 2017, Miyato et al. 2018)."""
    _refuse_smoothing('hinge', smoothing)
    return jax.nn.relu(1 - _float32(real)).mean() + jax.nn.relu(1 + _float32(fake)).mean()


def _wgan_discriminator(real: Array, fake: Array, smoothing: float) -> Array:
    """The negative Wasserstein estimate (Arjovsky et al. 2017); needs `gradient_penalty`."""
    _refuse_smoothing('wgan', smoothing)
    return _float32(fake).mean() - _float32(real).mean()


def _critic_generator(fake: Array) -> Array:
    """Generator loss of both hinge and WGAN: the negative mean of the fake logits."""
    return -_float32(fake).mean()


ADVERSARIAL = {
    'bce': Adversarial(_bce_generator, _bce_discriminator),
    'lsgan': Adversarial(_lsgan_generator, _lsgan_discriminator, threshold=0.5),
    'hinge': Adversarial(_critic_generator, _hinge_discriminator),
    'wgan': Adversarial(_critic_generator, _wgan_discriminator),
}


def l1(prediction: Array, target: Array) -> Array:
    """Mean absolute error of two arrays of the same shape."""
    return jnp.abs(_float32(prediction) - _float32(target)).mean()


def mse(prediction: Array, target: Array) -> Array:
    """Mean squared error of two arrays of the same shape."""
    return jnp.square(_float32(prediction) - _float32(target)).mean()


def huber(prediction: Array, target: Array, delta: float = 1.0) -> Array:
    """Mean of 0.5 e^2 where |e| <= delta and delta (|e| - 0.5 delta) elsewhere (Huber 1964)."""
    return optax.huber_loss(_float32(prediction), _float32(target), delta=delta).mean()


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Mean softmax cross-entropy over the labelled images; 0 without any.

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
    """Mean over the batch of KL(teacher || softmax(logits)), in nats.

    The class loss of ChromaGAN (Vitoria et al. 2020).

    Args:
      teacher_probabilities: (B, classes); rows sum to 1, zeros are allowed.
      logits: (B, classes).
    """
    log_predictions = jax.nn.log_softmax(_float32(logits))
    return optax.kl_divergence(log_predictions, _float32(teacher_probabilities)).mean()


def perceptual_distance(fake: Sequence[Array], real: Sequence[Array]) -> Array:
    """Mean over feature maps of mean |fake - real| / mean |real|.

    Args:
      fake: (B, h, w, F) each.
      real: the same shapes.
    """
    distances = [l1(f, r) / jnp.abs(_float32(r)).mean() for f, r in zip(fake, real, strict=True)]
    return jnp.stack(distances).mean()


class TermInputs(NamedTuple):
    """Inputs of the terms of the generator loss."""

    condition: Array  # (B, H, W, 1)
    target: Array  # (B, H, W, C)
    fake: Array  # (B, H, W, C), the generator's output
    class_logits: Array | None  # (B, classes) of a class head
    class_target: Array | None  # (B, classes) probabilities of a teacher, or (B,) labels
    fake_maps: Sequence[Array]  # (B, h, w, F) each, frozen features of the fake; () without
    real_maps: Sequence[Array]  # the same of the target
    huber_delta: float


def _classes(x: TermInputs) -> Array:
    """Class loss: KL divergence from the teacher's probabilities, or cross-entropy with labels."""
    assert x.class_logits is not None
    assert x.class_target is not None
    if x.class_target.ndim == 1:
        return cross_entropy(x.class_logits, x.class_target)
    return kl_divergence(x.class_target, x.class_logits)


# Terms of the generator loss except the adversarial one, by the name of their weight.
TERMS: dict[str, Callable[[TermInputs], Array]] = {
    'l1': lambda x: l1(x.fake, x.target),
    'mse': lambda x: mse(x.fake, x.target),
    'huber': lambda x: huber(x.fake, x.target, x.huber_delta),
    'classes': _classes,
    'perceptual': lambda x: perceptual_distance(x.fake_maps, x.real_maps),
}
REPORTED = ('l1', 'mse')  # terms that are logged even without a weight


def check_names(adversarial: str, terms: Iterable[str]) -> None:
    """Raises UserError for an adversarial loss or a term that is unknown, with the closest name."""
    if adversarial not in ADVERSARIAL:
        hint = _known_name(adversarial, list(ADVERSARIAL))
        raise UserError(f'loss.adversarial {adversarial!r} is not a known adversarial loss: {hint}')
    known = ['adversarial', *TERMS]
    for name in terms:
        if name not in known:
            hint = _known_name(name, known)
            raise UserError(f'loss.weights.{name} is not a known loss term: {hint}')


def _known_name(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f'did you mean {close[0]}?' if close else f'choose one of {", ".join(known)}.'


def gradient_penalty(
    critic: Callable[[Array], Array], real: Array, fake: Array, key: Array
) -> Array:
    """Gradient penalty of WGAN-GP (Gulrajani et al. 2017), float32 scalar.

    The mean over samples of (|grad score(x)| - 1)^2 at x = e real + (1 - e) fake, with e ~ U(0, 1)
    per sample. Where the norm is 0 its gradient is 0, not NaN.

    Args:
      critic: target (B, ...) -> logits (B, ...); the score of a sample is the mean of its logits.
        It must treat samples independently, so BatchNorm in train mode is not allowed.
      real: (B, ...) targets, e.g. (B, H, W, C).
      fake: (B, ...) targets of the same shape.
      key: PRNG key of e.
    """
    batch = real.shape[0]
    ones = (1,) * (real.ndim - 1)
    e = draw_rows(lambda key, lead: jax.random.uniform(key, (*lead, *ones)), key, batch)
    mixed = e * _float32(real) + (1 - e) * _float32(fake)

    def total_score(x: Array) -> Array:
        return _float32(critic(x)).reshape(batch, -1).mean(axis=1).sum()

    squared = jnp.square(jax.grad(total_score)(mixed)).reshape(batch, -1).sum(axis=1)
    norm = jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0)
    return jnp.square(norm - 1).mean()


def accuracy(logits: Array, real: bool, threshold: float = 0.0) -> Array:
    """Share of correct logits: above the threshold for real images, below it for fakes."""
    return (logits > threshold if real else logits < threshold).mean(dtype=jnp.float32)
