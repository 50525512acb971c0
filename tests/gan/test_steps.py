import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import rel_entr

from chromagan_jax import config as config_lib
from chromagan_jax.gan import model as model_lib
from chromagan_jax.gan import state as state_lib
from chromagan_jax.gan import steps
from chromagan_jax.gan.model import make_model
from chromagan_jax.models.chromagan import TwoBranch
from chromagan_jax.models.pretrained import vgg


@pytest.fixture
def small(tiny):
    """As few layers as show everything: batch norm and dropout in both networks' reach."""
    tiny.generator = tiny.generator.clone(depth=3)
    tiny.discriminator = tiny.discriminator.clone(layers=1)
    tiny.batch_size = 4
    return tiny


def batch_of(config, seed=1, count=None):
    size = config.data.size
    keys = jax.random.split(jax.random.key(seed))
    shape = (count or config.batch_size, size, size)
    return {
        'condition': jax.random.uniform(keys[0], (*shape, 1), minval=-1),
        'target': jax.random.uniform(keys[1], (*shape, 2), minval=-1),
    }


BUILT, STATES = {}, {}  # compiling takes longer than any test
# The fields that decide the first state.
INITIAL = ('generator', 'discriminator', 'ema_decay', 'data', 'dtype', 'pretrained')


def build(config):
    fields = config_lib.to_dict(config)
    key, initial = (json.dumps(part) for part in (fields, [fields[name] for name in INITIAL]))
    if key not in BUILT:
        model = make_model(config)
        shape = state_lib.target_shape(config)
        if initial not in STATES:
            init = jax.jit(lambda key: state_lib.init_state(model, key, shape))
            STATES[initial] = init(jax.random.key(0))
        BUILT[key] = model, STATES[initial], jax.jit(partial(steps.train_step, model))
    return BUILT[key]


def assert_close(a, b, **tolerance):
    jax.tree.map(partial(np.testing.assert_allclose, **tolerance), a, b)


def assert_same_bits(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def reference_step(config, model, state, batch):
    """The step written out: plain losses, optax.adam, one network after the other."""
    condition, target = batch['condition'], batch['target']
    discriminator, generator = model.discriminator, model.generator

    def bce(logits, label):
        return optax.sigmoid_binary_cross_entropy(logits, jnp.full_like(logits, label)).mean()

    def train(module, params, stats, *inputs):
        variables = {'params': params, 'batch_stats': stats}
        out, new = module.apply(variables, *inputs, train=True, mutable=['batch_stats'])
        return out, new['batch_stats']

    d_params, d_stats = state.discriminator.params, state.discriminator.batch_stats

    def g_loss(params):
        fake, stats = train(generator, params, state.generator.batch_stats, condition)
        logits, _ = train(discriminator, d_params, d_stats, condition, fake)
        return bce(logits, 1.0) + 100 * jnp.abs(fake - target).mean(), (fake, stats)

    g_gradients, (fake, g_stats) = jax.grad(g_loss, has_aux=True)(state.generator.params)
    adam = optax.adam(config.generator_optimizer.learning_rate, b1=0.5)
    updates, _ = adam.update(g_gradients, adam.init(state.generator.params))
    g_params = optax.apply_updates(state.generator.params, updates)

    opt_state = adam.init(d_params)
    for _ in range(config.discriminator_steps):

        def d_loss(params, stats=d_stats):
            real_logits, stats = train(discriminator, params, stats, condition, target)
            fake_logits, stats = train(discriminator, params, stats, condition, fake)
            return (bce(real_logits, 0.9) + bce(fake_logits, 0.0)) / 2, stats

        d_gradients, d_stats = jax.grad(d_loss, has_aux=True)(d_params)
        updates, opt_state = adam.update(d_gradients, opt_state)
        d_params = optax.apply_updates(d_params, updates)
    return (g_params, g_stats), (d_params, d_stats)


def test_the_step_equals_the_step_written_out(small):
    model, state, step = build(small)
    batch = batch_of(small)
    new, metrics = step(state, batch)
    reference = jax.jit(partial(reference_step, small, model))(state, batch)
    for network, (params, stats) in zip((new.generator, new.discriminator), reference, strict=True):
        # Adam's first update is the sign of the gradient: where that is 0 up to rounding either
        # sign is right, so that nearly all parameters have to agree, and all statistics.
        agree = [
            np.isclose(a, b, rtol=1e-4, atol=1e-6).mean()
            for a, b in zip(jax.tree.leaves(network.params), jax.tree.leaves(params), strict=True)
        ]
        assert min(agree) > 0.97
        assert_close(network.batch_stats, stats, rtol=1e-3, atol=1e-5)
    assert new.step == 1
    assert set(metrics) >= {
        'generator/loss',
        'generator/adversarial',
        'generator/l1',
        'discriminator/loss',
        'discriminator/accuracy_real',
        'discriminator/accuracy_fake',
    }


@pytest.mark.slow
@pytest.mark.parametrize('updates', [1, 3])
def test_the_discriminator_is_updated_as_often_as_asked(small, updates):
    small.discriminator_steps = updates
    _, state, step = build(small)
    new, _ = step(state, batch_of(small))
    assert optax.tree_utils.tree_get(new.discriminator.opt_state, 'count') == updates
    assert optax.tree_utils.tree_get(new.generator.opt_state, 'count') == 1


@pytest.mark.slow
def test_micro_batches_make_the_update_of_the_whole_batch(small):
    small.generator = small.generator.clone(norm='instance')  # no image depends on others
    small.discriminator = small.discriminator.clone(norm='instance')
    _, state, step = build(small)
    batch = batch_of(small)
    whole, whole_metrics = step(state, batch)
    small.grad_accum_steps = 2
    _, _, accumulating = build(small)
    split = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), batch)
    parts, metrics = accumulating(state, split)
    assert_close(metrics, whole_metrics, rtol=1e-4)
    moments = [optax.tree_utils.tree_get(s.generator.opt_state, 'mu') for s in (whole, parts)]
    assert_close(*moments, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_batch_statistics_pass_through_the_micro_batches(small):
    small.grad_accum_steps = 2
    _, state, step = build(small)
    batch = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), batch_of(small))
    new, _ = step(state, batch)
    model = make_model(small)
    variables = {
        'params': state.generator.params,
        'batch_stats': state.generator.batch_stats,
    }
    for part in batch['condition']:
        _, changed = model.generator.apply(variables, part, train=True, mutable=['batch_stats'])
        variables |= changed
    assert_close(new.generator.batch_stats, variables['batch_stats'], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_the_moving_average_is_warmed_up_and_holds_statistics_too(small):
    _, state, step = build(small)
    one, _ = step(state, batch_of(small, 1))
    two, _ = step(one, batch_of(small, 2))
    average = state_lib.generator_variables(state)
    for t, new in enumerate((one, two)):
        decay = min(small.ema_decay, (1 + t) / (10 + t))
        raw = {'params': new.generator.params, 'batch_stats': new.generator.batch_stats}
        average = jax.tree.map(lambda a, b, d=decay: d * a + (1 - d) * b, average, raw)
    assert_close(two.ema, average, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_without_a_moving_average_the_raw_weights_count(small):
    small.ema_decay = 0.0
    _, state, step = build(small)
    new, _ = step(state, batch_of(small))
    assert new.ema is None
    assert_same_bits(state_lib.generator_variables(new)['params'], new.generator.params)


@pytest.mark.slow
def test_noise_depends_on_the_step_and_on_nothing_else(small):
    small.generator = small.generator.clone(dropout=0.5)
    _, state, step = build(small)
    batch = batch_of(small)
    assert_same_bits(step(state, batch), step(state, batch))
    later = state.replace(step=state.step + 1)
    assert step(state, batch)[1]['generator/l1'] != step(later, batch)[1]['generator/l1']


def test_a_non_finite_step_is_recorded_and_changes_no_parameter_from_then_on(small):
    _, state, step = build(small)
    good, _ = step(state, batch_of(small, 1))
    poisoned = batch_of(small, 2)
    poisoned['target'] = poisoned['target'].at[0, 0, 0, 0].set(jnp.inf)
    bad, metrics = step(good, poisoned)
    after, _ = step(bad, batch_of(small, 3))
    assert [int(state.first_nonfinite_step) for state in (good, bad, after)] == [-1, 2, 2]
    assert not jnp.isfinite(metrics['generator/l1'])  # the metrics tell what was not finite
    for field in ('generator', 'discriminator', 'ema', 'discriminator_accuracy'):
        assert_same_bits(getattr(after, field), getattr(good, field))


@pytest.mark.slow
def test_mixed_precision_keeps_parameters_and_losses_in_float32(small):
    _, state, step = build(small)
    _, exact = step(state, batch_of(small))
    small.dtype = 'bfloat16'
    _, state, step = build(small)
    new, metrics = step(state, batch_of(small))
    assert {leaf.dtype for leaf in jax.tree.leaves(new.generator)} <= {
        jnp.dtype('float32'),
        jnp.dtype('int32'),
    }
    assert {metric.dtype for metric in metrics.values()} == {jnp.dtype('float32')}
    assert metrics['generator/loss'] != exact['generator/loss']
    np.testing.assert_allclose(metrics['generator/loss'], exact['generator/loss'], rtol=0.02)


@pytest.mark.slow
def test_learning_rates_of_the_networks_are_their_own_and_scaled_together(small):
    small.generator_optimizer.learning_rate = 1e-3
    small.discriminator_optimizer.learning_rate = 4e-3
    _, state, step = build(small)
    halved = state.replace(plateau=state.plateau._replace(scale=jnp.float32(0.5)))
    _, metrics = step(halved, batch_of(small))
    np.testing.assert_allclose(metrics['generator/learning_rate'], 5e-4, rtol=1e-6)
    np.testing.assert_allclose(metrics['discriminator/learning_rate'], 2e-3, rtol=1e-6)


@pytest.mark.slow
def test_pretraining_updates_the_generator_by_its_reconstruction_alone(small):
    model, state, _ = build(small)
    batch = batch_of(small)
    new, metrics = jax.jit(partial(steps.pretrain_step, model))(state, batch)
    assert_same_bits(new.discriminator, state.discriminator)
    assert not any('discriminator' in name or 'adversarial' in name for name in metrics)
    np.testing.assert_allclose(metrics['generator/loss'], 100 * metrics['generator/l1'], rtol=1e-6)
    # The same as a step whose adversarial term has no weight.
    small.loss.weights['adversarial'] = 0.0
    _, _, step = build(small)
    unjudged, _ = step(state, batch)
    assert_close(new.generator.params, unjudged.generator.params, rtol=1e-5, atol=1e-6)
    assert_close(new.ema, unjudged.ema, rtol=1e-5, atol=1e-6)
    assert new.step == 1


def test_without_a_weight_the_adversary_is_not_asked(small):
    small.loss.weights['adversarial'] = 0.0
    _, state, step = build(small)
    new, metrics = step(state, batch_of(small))
    other = jax.tree.map(lambda p: p + 1, state.discriminator.params)
    blind = state.replace(discriminator=state.discriminator.replace(params=other))
    assert 'generator/adversarial' not in metrics
    assert_same_bits(step(blind, batch_of(small))[0].generator, new.generator)
    assert metrics['discriminator/gradient_norm'] > 0  # it is trained nevertheless


@pytest.mark.parametrize('micro_batches', [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_discriminator_is_skipped_while_its_accuracy_is_too_high(small, micro_batches):
    small.discriminator_max_accuracy = 0.8
    small.discriminator_steps = 2
    small.grad_accum_steps = micro_batches
    _, state, step = build(small)
    batch = batch_of(small)
    if micro_batches > 1:
        batch = jax.tree.map(lambda x: x.reshape(micro_batches, -1, *x.shape[1:]), batch)
    good = state.replace(discriminator_accuracy=jnp.float32(0.81))
    skipped, metrics = step(good, batch)
    assert_same_bits(skipped.discriminator, state.discriminator)
    assert metrics['discriminator/skipped'] == 1
    assert metrics['discriminator/learning_rate'] == 0
    # Its accuracy is measured while it is skipped, so that updates begin again.
    updated, updated_metrics = step(state.replace(discriminator_accuracy=jnp.float32(0.8)), batch)
    assert updated_metrics['discriminator/skipped'] == 0
    assert optax.tree_utils.tree_get(updated.discriminator.opt_state, 'count') == 2
    assert set(metrics) == set(updated_metrics)
    assert_same_bits(skipped.generator, updated.generator)
    names = 'discriminator/accuracy_real', 'discriminator/accuracy_fake'
    np.testing.assert_allclose(
        skipped.discriminator_accuracy, np.mean([metrics[name] for name in names]), rtol=1e-6
    )


@pytest.mark.slow
def test_every_reconstruction_term_counts_with_its_weight(small):
    small.loss = dataclasses.replace(
        small.loss,
        weights={'adversarial': 0.5, 'l1': 3.0, 'mse': 5.0, 'huber': 7.0},
        huber_delta=0.2,
    )
    model, state, step = build(small)
    batch = batch_of(small)
    _, metrics = step(state, batch)
    variables = {'params': state.generator.params, 'batch_stats': state.generator.batch_stats}
    fake, _ = model.generator.apply(
        variables, batch['condition'], train=True, mutable=['batch_stats']
    )
    error = np.abs(np.asarray(fake - batch['target'], np.float64))
    huber = np.where(error <= 0.2, error**2 / 2, 0.2 * (error - 0.1)).mean()
    reconstruction = 3 * error.mean() + 5 * (error**2).mean() + 7 * huber
    expected = 0.5 * metrics['generator/adversarial'] + reconstruction
    np.testing.assert_allclose(metrics['generator/loss'], expected, rtol=1e-4)


@pytest.fixture
def chromagan(small, monkeypatch):
    """ChromaGAN's generator and a teacher, both narrow."""
    monkeypatch.setattr(model_lib.vgg, 'VGG16', partial(vgg.VGG16, width=2))
    small.pretrained['vgg16'] = 'teacher.npz'
    small.generator = TwoBranch(width=4)
    small.data.size = 32
    small.loss.weights['classes'] = 2.0
    return small


@pytest.mark.slow
def test_the_class_head_learns_the_probabilities_of_a_teacher_that_stays_as_it_is(chromagan):
    model, state, step = build(chromagan)
    batch = batch_of(chromagan)
    seen = vgg.normalized(batch['condition'], 2)
    teacher = jax.tree.map(  # an opinion of its own
        lambda leaf: 1.5 * leaf, jax.jit(model.teacher.init)(jax.random.key(3), seen)['params']
    )
    new, metrics = step(state, batch, {'teacher': teacher})
    variables = {'params': state.generator.params, 'batch_stats': state.generator.batch_stats}
    generate = jax.jit(partial(model.generator.apply, train=True, mutable=['batch_stats']))
    output, _ = generate(variables, batch['condition'])
    opinion = jax.jit(model.teacher.apply)({'params': teacher}, seen)
    p = np.asarray(jax.nn.softmax(opinion), np.float64)
    q = np.asarray(jax.nn.softmax(output.class_logits), np.float64)
    kl = rel_entr(p, q).sum(1).mean()
    np.testing.assert_allclose(metrics['generator/classes'], kl, rtol=1e-3)
    for _ in range(8):
        new, metrics = step(new, batch, {'teacher': teacher})
    assert metrics['generator/classes'] < kl
