import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special

from chromagan_jax import config as config_lib
from chromagan_jax.errors import UserError
from chromagan_jax.gan import losses, objectives
from chromagan_jax.gan import state as state_lib
from chromagan_jax.gan.model import make_model

SHAPES = [(4, 1), (2, 5, 5, 1)]


def normal(seed: int, *shape: int, scale: float = 3.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=scale, size=shape)


def jnp32(*arrays: np.ndarray) -> list[jax.Array]:
    return [jnp.asarray(a, jnp.float32) for a in arrays]


def plain_bce(logits: np.ndarray, label: float) -> float:
    log_p, log_q = scipy.special.log_expit(logits), scipy.special.log_expit(-logits)
    return np.mean(-label * log_p - (1 - label) * log_q)


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('label', [0, 0.3, 0.9, 1])
def test_bce_is_the_mean_of_scipys_log_expit(shape, label):
    logits = normal(0, *shape)
    assert losses.bce(*jnp32(logits), label) == pytest.approx(plain_bce(logits, label), rel=1e-5)


def test_bce_stays_finite_at_large_logits():
    logits = jnp.array([-1e4, 1e4])
    value, gradient = jax.value_and_grad(losses.bce)(logits, 1)
    assert value == pytest.approx(5000)
    np.testing.assert_allclose(gradient, [-0.5, 0], atol=1e-6)


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('smoothing', [0, 0.1])
def test_adversarial_pairs_with_labels_equal_their_closed_forms(shape, smoothing):
    real, fake = normal(1, *shape), normal(2, *shape)
    expected = {
        'bce': (
            plain_bce(fake, 1),
            0.5 * (plain_bce(real, 1 - smoothing) + plain_bce(fake, 0)),
        ),
        'lsgan': (
            np.mean((fake - 1) ** 2),
            0.5 * (np.mean((real - (1 - smoothing)) ** 2) + np.mean(fake**2)),
        ),
    }
    for name, (generator, discriminator) in expected.items():
        pair = losses.ADVERSARIAL[name]
        assert pair.generator(*jnp32(fake)) == pytest.approx(generator, rel=1e-5)
        got = pair.discriminator(*jnp32(real, fake), smoothing)
        assert got == pytest.approx(discriminator, rel=1e-5)


@pytest.mark.parametrize('shape', SHAPES)
def test_adversarial_pairs_without_labels_equal_their_closed_forms(shape):
    real, fake = normal(1, *shape), normal(2, *shape)
    expected = {
        'hinge': np.mean(np.maximum(0, 1 - real)) + np.mean(np.maximum(0, 1 + fake)),
        'wgan': np.mean(fake) - np.mean(real),
    }
    for name, discriminator in expected.items():
        pair = losses.ADVERSARIAL[name]
        assert pair.generator(*jnp32(fake)) == pytest.approx(-np.mean(fake), rel=1e-5)
        got = pair.discriminator(*jnp32(real, fake), 0.0)
        assert got == pytest.approx(discriminator, rel=1e-5)
        with pytest.raises(UserError, match=rf'{name}.*0\.1'):
            pair.discriminator(*jnp32(real, fake), 0.1)


@pytest.mark.parametrize('name', losses.ADVERSARIAL)
def test_both_sides_of_a_pair_pull_the_fake_logits_apart(name):
    pair = losses.ADVERSARIAL[name]
    real, fake = jnp.full((2, 3), 0.5), jnp.full((2, 3), 0.25)
    assert (jax.grad(pair.generator)(fake) < 0).all()
    to_real, to_fake = jax.grad(pair.discriminator, (0, 1))(real, fake, 0.0)
    assert (to_real < 0).all()
    assert (to_fake > 0).all()


def test_smoothing_moves_the_best_real_logit_to_its_label_and_leaves_the_fakes():
    def at_best(name: str, smoothing: float) -> tuple[float, float]:
        def loss(x: np.ndarray) -> float:
            logits = jnp32(x[:1], x[1:])
            return float(losses.ADVERSARIAL[name].discriminator(*logits, smoothing))

        return tuple(scipy.optimize.minimize(loss, [0.5, 0.5], method='Nelder-Mead').x)

    real, fake = at_best('lsgan', 0.1)
    assert real == pytest.approx(0.9, abs=1e-2)
    assert fake == pytest.approx(0, abs=1e-2)
    real, fake = at_best('bce', 0.1)
    assert scipy.special.expit(real) == pytest.approx(0.9, abs=1e-2)
    assert scipy.special.expit(fake) < 0.01


def test_reconstruction_terms_equal_numpys():
    prediction, target = normal(3, 2, 4, 4, 2), normal(4, 2, 4, 4, 2)
    e = np.abs(prediction - target)
    arrays = jnp32(prediction, target)
    assert losses.l1(*arrays) == pytest.approx(e.mean(), rel=1e-5)
    assert losses.mse(*arrays) == pytest.approx((e**2).mean(), rel=1e-5)
    for delta in (1.0, 2.5):
        expected = np.where(e <= delta, e**2 / 2, delta * (e - delta / 2)).mean()
        assert losses.huber(*arrays, delta=delta) == pytest.approx(expected, rel=1e-5)
    assert losses.huber(*arrays) == losses.huber(*arrays, delta=1)


def test_cross_entropy_is_the_mean_over_the_labelled_images():
    logits, labels = normal(5, 5, 7), np.array([3, -1, 0, 6, -1])
    log_p = scipy.special.log_softmax(logits, axis=1)
    expected = -np.mean([log_p[0, 3], log_p[2, 0], log_p[3, 6]])
    assert losses.cross_entropy(*jnp32(logits), jnp.array(labels)) == pytest.approx(
        expected, rel=1e-5
    )


def test_cross_entropy_without_any_label_is_zero_and_so_is_its_gradient():
    logits = jnp.full((3, 4), jnp.inf).at[:, 0].set(0)  # nothing of it may leak into the mean
    labels = jnp.full(3, -1)
    assert losses.cross_entropy(logits, labels) == 0
    gradient = jax.grad(losses.cross_entropy)(jnp.ones((3, 4)), labels)
    np.testing.assert_array_equal(gradient, 0)


def test_kl_divergence_is_the_batch_mean_of_scipys_rel_entr():
    teacher, logits = scipy.special.softmax(normal(6, 4, 9), axis=1), normal(7, 4, 9)
    teacher[:, :3] = 0
    teacher /= teacher.sum(axis=1, keepdims=True)
    expected = scipy.special.rel_entr(teacher, scipy.special.softmax(logits, axis=1)).sum(1).mean()
    assert losses.kl_divergence(*jnp32(teacher, logits)) == pytest.approx(expected, rel=1e-5)


def test_kl_divergence_of_equal_distributions_is_zero():
    logits = normal(8, 4, 9)
    teacher = scipy.special.softmax(logits, axis=1)
    assert losses.kl_divergence(*jnp32(teacher, logits)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize('logit_map', [(), (1,), (3, 3, 1)])
def test_gradient_penalty_of_a_linear_critic_is_its_slope_less_one_squared(logit_map):
    weight = normal(9, 4, 4, 2)
    slope = np.linalg.norm(weight)

    def critic(x: jax.Array) -> jax.Array:
        score = (x * weight).sum((1, 2, 3))
        return jnp.broadcast_to(score.reshape(-1, *[1] * len(logit_map)), (3, *logit_map))

    real, fake = jnp32(normal(10, 3, 4, 4, 2), normal(11, 3, 4, 4, 2))
    got = jax.jit(losses.gradient_penalty, static_argnums=0)(critic, real, fake, jax.random.key(0))
    assert got == pytest.approx((slope - 1) ** 2, rel=1e-5)


def test_gradient_penalty_interpolates_each_sample_with_a_share_of_its_own():
    # The slope of 0.5 |x|^2 at x is x itself: with x = e * 1 + (1 - e) * 0 the norm is 2 e, for
    # (2, 2, 1) pixels. From one sample's e to the next the penalty (2 e - 1)^2 varies.
    def critic(x: jax.Array) -> jax.Array:
        return 0.5 * jnp.square(x).sum((1, 2, 3))

    def penalty(samples: int, key: int) -> jax.Array:
        shape = (samples, 2, 2, 1)
        return losses.gradient_penalty(
            critic, jnp.ones(shape), jnp.zeros(shape), jax.random.key(key)
        )

    assert penalty(20000, 0) == pytest.approx(1 / 3, abs=0.01)  # mean of (2 e - 1)^2 over U(0, 1)
    assert penalty(20000, 0) == penalty(20000, 0)
    assert penalty(1, 0) != penalty(1, 1)


def test_the_gradient_of_gradient_penalty_is_that_of_finite_differences():
    real, fake = jnp32(normal(12, 2, 3, 3, 1, scale=1), normal(13, 2, 3, 3, 1, scale=1))
    weights = normal(14, 9, scale=1)

    @jax.jit
    def penalty(w: jax.Array) -> jax.Array:
        def critic(x: jax.Array) -> jax.Array:
            return jnp.tanh(x.reshape(2, 9) * w).sum(axis=1, keepdims=True)

        return losses.gradient_penalty(critic, real, fake, jax.random.key(1))

    step = 1e-2
    expected = [
        (penalty(weights + step * d) - penalty(weights - step * d)) / (2 * step) for d in np.eye(9)
    ]
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(jax.jit(jax.grad(penalty))(weights), expected, rtol=2e-2, atol=2e-3)


def test_gradient_penalty_of_a_dead_critic_is_one_with_a_finite_gradient():
    def penalty(w: jax.Array) -> jax.Array:
        x = jnp.ones((2, 3, 3, 1))
        return losses.gradient_penalty(lambda x: w * x, x, 0 * x, jax.random.key(0))

    value, gradient = jax.value_and_grad(penalty)(0.0)
    assert value == 1
    assert gradient == 0


def test_terms_of_bfloat16_arrays_are_computed_in_float32():
    # 4097 ones and a 2: bfloat16 can hold neither the sum nor the mean.
    x = jnp.ones(4098, jnp.bfloat16).at[0].set(2)
    zero = jnp.zeros_like(x)
    for value in (
        losses.l1(x, zero),
        -losses.ADVERSARIAL['wgan'].generator(x),
        losses.ADVERSARIAL['wgan'].discriminator(zero, x, 0.0),
        losses.ADVERSARIAL['hinge'].discriminator(x, zero, 0.0) + 1 / 4098,
    ):
        assert value.dtype == jnp.float32
        assert value == pytest.approx(1 + 1 / 4098, abs=1e-6)


@pytest.mark.parametrize(
    ('name', 'real', 'fake'),
    [('bce', 3.0, -3.0), ('lsgan', 0.95, 0.05), ('hinge', 1.0, -1.0)],
)
def test_a_discriminator_that_separates_its_labels_is_always_right(name, real, fake):
    threshold = losses.ADVERSARIAL[name].threshold
    assert losses.accuracy(jnp.full((2, 3), real), True, threshold) == 1
    assert losses.accuracy(jnp.full((2, 3), fake), False, threshold) == 1
    assert losses.accuracy(jnp.full((2, 3), fake), True, threshold) == 0


def test_accuracy_is_the_share_on_the_right_side_of_zero():
    logits = jnp.array([[-2.0, -1.0, 0.0], [1.0, 2.0, 3.0]])
    assert losses.accuracy(logits, real=True) == pytest.approx(3 / 6)
    assert losses.accuracy(logits, real=False) == pytest.approx(2 / 6)


@pytest.mark.parametrize('adversarial', losses.ADVERSARIAL)
def test_names_that_exist_are_accepted(adversarial):
    losses.check_names(adversarial, ['adversarial', *losses.TERMS])


@pytest.mark.parametrize(
    ('name', 'hint'),
    [
        ('nonsense', 'choose one of bce, lsgan, hinge, wgan.'),
        ('Hinge', 'did you mean hinge?'),
        ('wgan-gp', 'did you mean wgan?'),
    ],
)
def test_an_adversarial_loss_that_does_not_exist_is_named_with_the_nearest(small, name, hint):
    small.loss.adversarial = name
    with pytest.raises(UserError) as raised:
        make_model(small)
    assert str(raised.value) == (
        f'loss.adversarial {name!r} is not a known adversarial loss: {hint}'
    )


def test_an_added_adversarial_loss_is_chosen_by_its_name(small, monkeypatch):
    """tests/integration/test_extending.py trains with one."""
    monkeypatch.setitem(losses.ADVERSARIAL, 'other', losses.ADVERSARIAL['bce'])
    config_lib.set_field(small, 'loss.adversarial', 'other')
    config_lib.validate(small)
    assert make_model(small).loss.adversarial == 'other'


@pytest.mark.parametrize(
    ('name', 'hint'),
    [
        ('l2', 'choose one of adversarial, l1, mse, huber, classes, perceptual.'),
        ('class', 'did you mean classes?'),
        ('hubber', 'did you mean huber?'),
        ('adverserial', 'did you mean adversarial?'),
        ('perceptive', 'did you mean perceptual?'),
    ],
)
def test_the_weight_of_a_term_that_does_not_exist_is_named_with_the_nearest(small, name, hint):
    small.loss.weights[name] = 1.0
    sentence = f'loss.weights.{name} is not a known loss term: {hint}'
    with pytest.raises(UserError) as raised:
        make_model(small)
    assert str(raised.value) == sentence


def test_a_term_added_by_name_counts_with_its_weight_and_is_a_metric(small, monkeypatch):
    mean_chroma = lambda inputs: jnp.sqrt(jnp.square(inputs.fake).sum(-1) + 1e-6).mean()
    monkeypatch.setitem(losses.TERMS, 'chroma', mean_chroma)
    keys = jax.random.split(jax.random.key(0))
    batch = {
        'condition': jax.random.uniform(keys[0], (2, 16, 16, 1), minval=-1),
        'target': jax.random.uniform(keys[1], (2, 16, 16, 2), minval=-1),
    }

    def loss_and_gradient(weight):
        config_lib.set_field(small, 'loss.weights.chroma', weight)
        model = make_model(small)
        init = jax.jit(lambda: state_lib.init_state(model, jax.random.key(0), (16, 16, 2)))
        state = init()
        stats, key = state.generator.batch_stats, jax.random.key(1)

        @jax.jit
        def compute(params):
            real, weights = (batch, objectives.Images(batch['target'], ())), {'l1': 100.0}
            weights |= {'chroma': weight} if weight else {}
            loss = lambda p: objectives.generator_loss(
                model, state.discriminator, p, stats, real, key, {}, weights
            )
            return jax.value_and_grad(loss, has_aux=True)(params)

        (loss, (_, fake, metrics)), gradient = compute(state.generator.params)
        return loss, gradient['out']['kernel'], fake.target, metrics

    plain, plain_gradient, _, plain_metrics = loss_and_gradient(0.0)
    loss, gradient, fake, metrics = loss_and_gradient(25.0)
    chroma = np.sqrt(np.square(np.asarray(fake, np.float64)).sum(-1) + 1e-6).mean()
    assert metrics['generator/chroma'] == pytest.approx(chroma, rel=1e-5)
    assert metrics.keys() - plain_metrics.keys() == {'generator/chroma'}
    assert loss == metrics['generator/loss']
    assert loss == pytest.approx(float(plain) + 25 * chroma, rel=1e-5)
    assert np.abs(gradient - plain_gradient).max() > 1e-2
