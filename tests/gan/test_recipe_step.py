"""The train step with the options of configs/best.py."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from chromagan_jax.errors import UserError
from chromagan_jax.gan import losses, objectives, steps
from chromagan_jax.gan import state as state_lib
from chromagan_jax.gan.model import make_frozen, make_model
from chromagan_jax.models.lite_unet import LiteUNet
from chromagan_jax.models.pretrained import efficientnet_lite
from chromagan_jax.models.projected import ProjectedDiscriminator
from configs import best
from tests.gan.test_steps import assert_same_bits, batch_of
from tests.models import lite

pytestmark = pytest.mark.slow  # compiling the steps takes half a minute


@pytest.fixture(scope='module', autouse=True)
def _shallow():
    """Half the blocks of the encoder, of each kind that it has: the steps compile sooner."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(efficientnet_lite, '_STAGES', lite.SHALLOW)
        yield


@pytest.fixture(scope='module')
def encoder(_shallow):
    network = efficientnet_lite.Encoder()
    return jax.jit(network.init)(jax.random.key(1), jnp.zeros((1, 32, 32, 3)))['params']


@pytest.fixture(scope='module')
def recipe():
    config = best.get_config()
    config.generator = LiteUNet(decoder_widths=(8, 8, 8, 8, 8))
    config.discriminator = ProjectedDiscriminator(head_width=8, patch_weight=0.2, patch_width=8)
    config.data.size, config.batch_size = 32, 4
    config.loss.steering.delay = 0
    config.generator_optimizer.warmup_steps = 0
    return config


@pytest.fixture(scope='module')
def built(recipe, encoder):
    model = make_model(recipe)
    shape = state_lib.target_shape(recipe)
    state = jax.jit(lambda key: state_lib.init_state(model, key, shape))(jax.random.key(0))
    frozen = make_frozen(model, {'efficientnet_lite': encoder}, 32)
    return model, state, frozen, jax.jit(partial(steps.train_step, model))


def test_a_step_steers_l1_and_leaves_the_frozen_features_alone(built, recipe):
    _model, state, frozen, step = built
    before = jax.tree.map(np.array, frozen)
    new, metrics = step(state, batch_of(recipe), frozen)
    assert_same_bits(before, frozen)
    share = metrics['generator/chroma_share']
    assert metrics['generator/l1_weight'] == 30
    expected = 30 * np.exp(0.01 * (share - 0.88))
    assert new.steering.weight == pytest.approx(expected, rel=1e-5)
    _, later = step(new, batch_of(recipe, 2), frozen)
    assert later['generator/l1_weight'] == new.steering.weight
    weights = {**recipe.loss.weights, 'l1': metrics['generator/l1_weight']}
    total = sum(weight * metrics[f'generator/{name}'] for name, weight in weights.items())
    assert float(metrics['generator/loss']) == pytest.approx(float(total), rel=1e-5)


def test_the_perceptual_term_is_the_relative_distance_of_the_maps_and_reaches_the_fakes(
    built, recipe
):
    model, _, frozen, _ = built
    batch = batch_of(recipe)
    real, fake = batch['target'], 0.5 * batch['target'] + 0.1

    def term(fake):
        maps = [
            objectives.with_features(model, frozen, batch['condition'], x).features
            for x in (fake, real)
        ]
        return losses.perceptual_distance(*maps), maps

    (value, maps), gradient = jax.jit(jax.value_and_grad(term, has_aux=True))(fake)
    shares = [
        np.abs(np.subtract(f, r)).mean() / np.abs(r).mean() for f, r in zip(*maps, strict=True)
    ]
    assert float(value) == pytest.approx(float(np.mean(shares)), rel=1e-4)
    assert np.mean(np.abs(gradient) > 0) > 0.9


def test_the_perceptual_term_follows_the_frozen_features(built, recipe):
    _, state, frozen, step = built
    batch = batch_of(recipe)
    _, metrics = step(state, batch, frozen)
    assert metrics['generator/perceptual'] > 0
    other = jax.tree.map(lambda x: 1.1 * x, frozen)
    assert step(state, batch, other)[1]['generator/perceptual'] != metrics['generator/perceptual']


def test_warming_up_trains_the_discriminator_as_a_step_does_and_nothing_else(built, recipe):
    model, state, frozen, step = built
    batch = batch_of(recipe)
    trained, metrics = step(state, batch, frozen)
    warm, warm_metrics = jax.jit(partial(steps.warmup_step, model))(state, batch, frozen)
    assert warm.step == 1
    assert_same_bits(warm.generator, state.generator)
    assert_same_bits((warm.ema, warm.steering), (state.ema, state.steering))
    for a, b in zip(
        jax.tree.leaves(warm.discriminator.params),
        jax.tree.leaves(trained.discriminator.params),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert warm_metrics.keys() == metrics.keys() - {'generator/l1_weight', 'generator/chroma_share'}


@pytest.mark.parametrize('ratio', [0.0, 0.1])
def test_the_encoder_has_a_rate_of_its_own_and_can_be_frozen(recipe, built, ratio):
    config = recipe
    _model, state, _frozen, _ = built
    plain = make_model(config)._replace(
        generator_optimizer=steps.optimizers.make_optimizer(config.generator_optimizer, 100)
    )
    scaled = plain._replace(
        generator_optimizer=steps.optimizers.make_optimizer(config.generator_optimizer, 100, ratio),
        encoder_frozen=ratio == 0,
    )
    gradients = jax.tree.map(jnp.ones_like, state.generator.params)
    changes = []
    for optimizer in (plain.generator_optimizer, scaled.generator_optimizer):
        opt_state = optimizer.transform.init(state.generator.params)
        new, _ = steps.optimizers.apply_gradients(
            optimizer, gradients, opt_state, state.generator.params, jnp.float32(1e-2)
        )
        changes.append(optax.tree.sub(new, state.generator.params))
    for name, change in changes[1].items():
        factor = ratio if name == 'encoder' else 1.0
        jax.tree.map(
            lambda a, b, f=factor: np.testing.assert_allclose(a, f * b, atol=1e-6),
            change,
            changes[0][name],
        )


def test_a_frozen_encoder_gets_no_gradient_and_the_decoder_does(recipe, built):
    model, state, frozen, _ = built
    frozen_model = model._replace(encoder_frozen=True)
    new, _ = jax.jit(partial(steps.train_step, frozen_model))(state, batch_of(recipe), frozen)
    assert_same_bits(new.generator.params['encoder'], state.generator.params['encoder'])
    assert not np.array_equal(
        new.generator.params['out']['kernel'], state.generator.params['out']['kernel']
    )


def test_missing_features_and_a_penalty_on_them_are_errors(recipe):
    model = make_model(recipe)
    with pytest.raises(UserError, match=r'set pretrained\.efficientnet_lite to a file'):
        make_frozen(model, {}, 32)
    with pytest.raises(UserError, match=r'set discriminator\.encoder to lite0'):
        make_frozen(model, {'efficientnet_lite': {'stem': np.zeros(3)}}, 32)
