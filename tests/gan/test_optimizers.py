import copy
import dataclasses
import functools
import math
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from chromagan_jax import config as config_lib
from chromagan_jax.config.fields import type_hints
from chromagan_jax.config.resume import schedule_depends_on_steps
from chromagan_jax.config.schema import Config, OptimizerConfig, PlateauConfig
from chromagan_jax.errors import UserError
from chromagan_jax.gan import optimizers, state, steps
from chromagan_jax.gan.model import make_model

SCHEDULES = get_args(type_hints(OptimizerConfig)['schedule'])
SHAPES = {'kernel': (3, 5), 'bias': (5,)}


def draw(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape) for name, shape in SHAPES.items()}


def on_device(tree: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    return {name: jnp.asarray(leaf, jnp.float32) for name, leaf in tree.items()}


def make(tiny: Config, **fields: Any) -> optimizers.Optimizer:
    """The generator's optimizer with some fields changed."""
    return optimizers.make_optimizer(
        dataclasses.replace(tiny.generator_optimizer, **fields), tiny.steps
    )


def run(
    optimizer: optimizers.Optimizer,
    params: dict[str, np.ndarray],
    gradients: list[dict],
    rate: float,
) -> dict[str, jax.Array]:
    now = on_device(params)
    opt_state = optimizer.transform.init(now)
    for gradient in gradients:
        now, opt_state = optimizers.apply_gradients(
            optimizer, on_device(gradient), opt_state, now, jnp.float32(rate)
        )
    return now


def plain_adam(
    params: dict[str, np.ndarray],
    gradients: list[dict],
    rate: float,
    decay: float = 0.0,
    clip: float = math.inf,
    b1: float = 0.5,
    b2: float = 0.999,
) -> dict[str, np.ndarray]:
    """Algorithm 1 of Kingma & Ba 2015, with weight decay as in Loshchilov & Hutter 2019."""
    params = dict(params)
    first = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    second = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    for t, gradient in enumerate(gradients, 1):
        norm = math.sqrt(sum((g**2).sum() for g in gradient.values()))
        for name, g in gradient.items():
            g = g * min(1.0, clip / norm)
            first[name] = b1 * first[name] + (1 - b1) * g
            second[name] = b2 * second[name] + (1 - b2) * g**2
            unbiased = first[name] / (1 - b1**t), second[name] / (1 - b2**t)
            update = unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
            if name == 'kernel':
                update = update + decay * params[name]
            params[name] = params[name] - rate * update
    return params


def assert_trees_close(got: Any, expected: Any, atol: float = 2e-5) -> None:
    for name in SHAPES:  # in float32, 1 - 0.999 is off by 5e-5 of itself
        np.testing.assert_allclose(got[name], expected[name], rtol=0, atol=atol)


def test_the_optimizer_is_adam_with_the_numbers_of_pix2pix(tiny):
    params, gradients = draw(0), [draw(seed) for seed in range(1, 7)]
    optimizer = make(tiny)
    rate = float(optimizer.learning_rate(jnp.int32(0)))
    assert rate == pytest.approx(2e-4)
    for count in (1, 2, 6):  # the bias correction matters most at the first steps
        got = run(optimizer, params, gradients[:count], 0.1)
        assert_trees_close(got, plain_adam(params, gradients[:count], 0.1))


def test_the_optimizer_equals_optax_adam_with_its_learning_rate_inside(tiny):
    params, gradients = draw(0), [draw(seed) for seed in range(1, 7)]
    got = run(make(tiny, b1=0.9), params, gradients, 0.03)
    reference = optax.adam(0.03, b1=0.9, b2=0.999)
    expected = on_device(params)
    opt_state = reference.init(expected)
    for gradient in gradients:
        updates, opt_state = reference.update(on_device(gradient), opt_state, expected)
        expected = optax.apply_updates(expected, updates)
    assert_trees_close(got, expected, atol=1e-6)


def test_without_gradients_weight_decay_shrinks_kernels_only(tiny):
    params, nothing = draw(0), {name: np.zeros(shape) for name, shape in SHAPES.items()}
    optimizer = make(tiny, weight_decay=0.1)
    got = run(optimizer, params, [nothing] * 3, 0.5)
    np.testing.assert_allclose(got['kernel'], params['kernel'] * (1 - 0.5 * 0.1) ** 3, rtol=1e-6)
    np.testing.assert_array_equal(got['bias'], params['bias'].astype(np.float32))


def test_weight_decay_is_decoupled_from_adams_moments(tiny):
    params, gradients = draw(0), [draw(seed) for seed in range(1, 5)]
    optimizer = make(tiny, weight_decay=0.3)
    got = run(optimizer, params, gradients, 0.1)
    assert_trees_close(got, plain_adam(params, gradients, 0.1, decay=0.3))


def test_gradients_are_clipped_to_their_global_norm_before_adam(tiny):
    params = draw(0)
    # Norms on both sides of the limit; Adam would not notice a factor common to all steps.
    gradients = [
        {name: scale * leaf for name, leaf in draw(seed).items()}
        for seed, scale in enumerate((0.05, 3.0, 0.1, 10.0), 1)
    ]
    optimizer = make(tiny, grad_clip_norm=1.0)
    got = run(optimizer, params, gradients, 0.1)
    assert_trees_close(got, plain_adam(params, gradients, 0.1, clip=1.0))
    unclipped = plain_adam(params, gradients, 0.1)
    assert np.abs(unclipped['kernel'] - got['kernel']).max() > 1e-3


def test_weight_decay_is_not_clipped(tiny):
    params, gradients = draw(0), [{name: 9 * leaf for name, leaf in draw(1).items()}]
    got = run(make(tiny, grad_clip_norm=0.01, weight_decay=5.0), params, gradients, 0.1)
    assert_trees_close(got, plain_adam(params, gradients, 0.1, decay=5.0, clip=0.01))


def falling(shape: str, step: int, start: int, end: int) -> float:
    """Share of the full rate, 1 up to `start` and 0 from `end` on."""
    t = min(max((step - start) / (end - start), 0.0), 1.0)
    return {'constant': 1.0, 'linear': 1 - t, 'cosine': 0.5 * (1 + math.cos(math.pi * t))}[shape]


@pytest.mark.parametrize('schedule', SCHEDULES)
@pytest.mark.parametrize(('decay_from', 'start'), [(0.0, 0), (0.5, 20), (0.9, 36)])
@pytest.mark.parametrize('warmup', [0, 1, 8, 24])
def test_schedules_follow_their_closed_forms(tiny, schedule, decay_from, start, warmup):
    tiny.steps = 40
    fields = {'schedule': schedule, 'decay_from': decay_from, 'warmup_steps': warmup}
    rate = make(tiny, **fields).learning_rate
    got = np.asarray([rate(jnp.int32(step)) for step in range(42)])
    rise = [min((step + 1) / warmup, 1.0) if warmup else 1.0 for step in range(42)]
    expected = [2e-4 * falling(schedule, step, start, 40) * rise[step] for step in range(42)]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize('schedule', ['linear', 'cosine'])
def test_a_rate_stays_full_until_decay_from_and_is_zero_only_at_the_end(tiny, schedule):
    tiny.steps = 40
    rate = make(tiny, schedule=schedule, decay_from=0.5).learning_rate
    at = {step: float(rate(jnp.int32(step))) for step in (0, 19, 20, 21, 39, 40)}
    assert at[0] == at[19] == at[20] == pytest.approx(2e-4)
    assert at[20] > at[21] > at[39] > at[40] == 0


@pytest.mark.parametrize('schedule', ['linear', 'cosine'])
def test_a_late_decay_of_a_short_run_keeps_the_full_rate_to_its_last_step(tiny, schedule):
    tiny.steps = 4
    rate = make(tiny, schedule=schedule, decay_from=0.9).learning_rate
    assert [float(rate(jnp.int32(step))) for step in range(4)] == pytest.approx([2e-4] * 4)
    assert rate(jnp.int32(4)) == 0


def test_each_network_has_the_schedule_of_its_own_field(tiny):
    tiny.discriminator_optimizer.learning_rate = 5e-5
    model = make_model(tiny)
    rates = [
        float(optimizer.learning_rate(jnp.int32(0)))
        for optimizer in (model.generator_optimizer, model.discriminator_optimizer)
    ]
    assert rates == pytest.approx([2e-4, 5e-5])


class _Scale(nn.Module):
    """A network of either kind with two parameters."""

    channels: int

    @nn.compact
    def __call__(self, *pictures: jax.Array, train: bool) -> jax.Array:
        return nn.Dense(self.channels, kernel_init=nn.initializers.normal())(pictures[-1])


@pytest.mark.slow
def test_every_update_of_the_discriminator_sees_the_rate_of_the_train_step(tiny):
    tiny.steps, tiny.discriminator_steps = 10, 3
    tiny.discriminator_optimizer = dataclasses.replace(
        tiny.discriminator_optimizer, schedule='linear', decay_from=0.0, learning_rate=0.1
    )
    model = make_model(tiny)._replace(generator=_Scale(2), discriminator=_Scale(1))
    at_step = 4
    constant = copy.deepcopy(tiny.discriminator_optimizer)
    constant.schedule, constant.learning_rate = 'constant', 0.1 * (1 - 4 / 10)
    reference = model._replace(
        discriminator_optimizer=optimizers.make_optimizer(constant, tiny.steps)
    )
    init = jax.jit(lambda: state.init_state(model, jax.random.key(0), (8, 8, 2)))
    begin = init().replace(step=jnp.int32(at_step))
    keys = jax.random.split(jax.random.key(1))
    batch = {
        'condition': jax.random.normal(keys[0], (2, 8, 8, 1)),
        'target': jax.random.normal(keys[1], (2, 8, 8, 2)),
    }
    got, metrics = jax.jit(functools.partial(steps.train_step, model))(begin, batch)
    expected, _ = jax.jit(functools.partial(steps.train_step, reference))(begin, batch)
    assert float(metrics['discriminator/learning_rate']) == pytest.approx(0.06)
    assert int(got.discriminator.opt_state[0].count) == 3
    for new, same, old in zip(
        *(jax.tree.leaves(s.discriminator.params) for s in (got, expected, begin)), strict=True
    ):
        np.testing.assert_allclose(new, same, atol=1e-5)
        assert np.abs(np.asarray(new) - np.asarray(old)).max() > 0.01


@pytest.mark.parametrize('field', ['generator_optimizer', 'discriminator_optimizer'])
def test_a_schedule_other_than_constant_depends_on_the_steps(tiny, field):
    assert not schedule_depends_on_steps(tiny)
    for schedule in ('linear', 'cosine'):
        getattr(tiny, field).schedule = schedule
        assert schedule_depends_on_steps(tiny)


def test_a_warm_up_alone_does_not_depend_on_the_steps(tiny):
    tiny.generator_optimizer.warmup_steps = 3
    assert not schedule_depends_on_steps(tiny)
    rates = []
    for tiny.steps in (5, 50):
        rate = make(tiny).learning_rate
        rates.append([float(rate(jnp.int32(step))) for step in range(5)])
    assert rates[0] == rates[1]


@pytest.mark.parametrize(
    ('field', 'value', 'message'),
    [
        ('schedule', 'step', r"\.schedule is 'step'; choose one of constant, linear, cosine"),
        ('decay_from', 1.0, r'\.decay_from must be 0 <= x < 1, not 1\.0'),
        ('decay_from', -0.1, r'\.decay_from must be 0 <= x < 1, not -0\.1'),
    ],
)
@pytest.mark.parametrize('optimizer', ['generator_optimizer', 'discriminator_optimizer'])
def test_an_impossible_schedule_is_named(tiny, optimizer, field, value, message):
    setattr(getattr(tiny, optimizer), field, value)
    with pytest.raises(UserError, match=f'^{optimizer}{message}'):
        config_lib.validate(tiny)


def reduced(scores: list[float], c: PlateauConfig) -> list[float]:
    """The rule written out: the scale after each score."""
    best, vain, scale, scales = np.inf, 0, 1.0, []
    for score in scores:
        if score < best * (1 - 1e-4):
            best, vain = score, 0
        else:
            vain += 1
        if vain == c.patience:
            scale, vain = max(scale * c.factor, c.min_scale), 0
        scales.append(scale)
    return scales


@pytest.mark.parametrize('patience', [1, 2, 3])
def test_learning_rates_fall_on_a_plateau_and_not_below_their_floor(patience):
    plateau = PlateauConfig(patience=patience, factor=0.5, min_scale=0.2)
    scores = [
        5.0,
        4.0,
        4.0,
        4.1,
        3.9999,
        4.2,
        3.0,
        3.0,
        3.0,
        2.9,
        2.95,
        3.0,
        3.1,
        3.2,
        3.3,
        3.4,
        9.0,
    ]
    state, scales = optimizers.init_plateau(), []
    for score in scores:
        state = optimizers.update_plateau(plateau, state, score)
        scales.append(float(state.scale))
    np.testing.assert_allclose(scales, reduced(scores, plateau), rtol=1e-6)
    assert scales[0] == 1.0
    assert scales[-1] < 1.0


@pytest.mark.parametrize('start', [-20.0, -0.9, 0.0, 20.0])
def test_scores_of_either_sign_that_do_not_improve_reduce_the_learning_rates(start):
    plateau, size = PlateauConfig(patience=2, factor=0.5), max(abs(start), 1.0)
    state = optimizers.init_plateau()
    for _ in range(5):
        state = optimizers.update_plateau(plateau, state, start)
    assert float(state.scale) == 0.25
    state = optimizers.init_plateau()
    for step in range(5):
        state = optimizers.update_plateau(plateau, state, start - 0.01 * size * step)
    assert float(state.scale) == 1.0


def test_the_plateau_stays_where_it_was_on_the_devices():
    placed = jax.sharding.NamedSharding(
        jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,)),
        jax.sharding.PartitionSpec(),
    )
    state = jax.device_put(optimizers.init_plateau(), placed)
    new = optimizers.update_plateau(PlateauConfig(patience=1), state, 1.0)
    kinds = [jax.tree.map(lambda x: (x.dtype, x.weak_type, x.sharding), t) for t in (state, new)]
    assert kinds[0] == kinds[1]
