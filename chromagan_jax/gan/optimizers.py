"""Optimizers and learning-rate schedules from a config.

The learning rate is a function of the train step, not of the optimizer's update count. Schedules of
generator and discriminator stay aligned if the discriminator is updated several times per step.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from optax import contrib

from chromagan_jax.config.schema import OptimizerConfig, PlateauConfig
from chromagan_jax.models.pretrained import PRETRAINED

Array = jax.Array
PyTree = Any

_EPSILON = 1e-8  # of Adam
BACKBONES = frozenset(network.backbone for network in PRETRAINED.values())
PlateauState: TypeAlias = contrib.ReduceLROnPlateauState


class Optimizer(NamedTuple):
    """A gradient transformation and a learning-rate schedule, which is applied separately."""

    transform: optax.GradientTransformationExtraArgs
    learning_rate: Callable[[Array], Array]  # train step, from 0 -> rate


def make_optimizer(
    config: OptimizerConfig, steps: int, encoder_lr_ratio: float = 1.0, train_only: str = ''
) -> Optimizer:
    """The optimizer that a config describes, for a run of `steps` train steps.

    Adam (Kingma & Ba 2015). Optional: decoupled weight decay of kernels (Loshchilov & Hutter 2019),
    clipping of the gradients' global norm, and another learning rate of pretrained backbones.

    Args:
        config: the optimizer's fields.
        steps: length of the run.
        encoder_lr_ratio: learning rate of the submodules in `BACKBONES`, divided by that of others.
        train_only: name of the only submodule with updates and optimizer state; '': all.
    """
    norm = config.grad_clip_norm
    parts = [optax.clip_by_global_norm(norm)] if norm else []
    parts.append(_scale_by_adam(config.b1, config.b2))
    if config.weight_decay:
        kernels = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)  # no norms, no biases
        parts.append(optax.add_decayed_weights(config.weight_decay, kernels))
    if encoder_lr_ratio != 1:
        parts.append(optax.stateless(functools.partial(_scale_encoder, encoder_lr_ratio)))
    transform = optax.chain(*parts)
    if train_only:
        labels = lambda params: {name: name == train_only for name in params}
        transform = optax.partition({True: transform, False: optax.set_to_zero()}, labels)
    return Optimizer(transform, make_schedule(config, steps))


def _scale_encoder(ratio: float, updates: PyTree, params: PyTree) -> PyTree:
    """Multiplies the updates of pretrained backbones."""
    del params
    return {
        name: jax.tree.map(lambda u: ratio * u, update) if name in BACKBONES else update
        for name, update in updates.items()
    }


def _scale_by_adam(b1: float, b2: float) -> optax.GradientTransformationExtraArgs:
    """`optax.scale_by_adam` that leaves its state unchanged if the argument `good` is false."""
    adam = optax.scale_by_adam(b1, b2)

    def update(
        gradients: PyTree, state: Any, params: PyTree = None, *, good: Array | bool, **_: Any
    ) -> tuple[PyTree, Any]:
        _, new = adam.update(gradients, state, params)
        # Without the barrier XLA copies the old moments and computes the new ones twice.
        new = lax.optimization_barrier(select(good, new, state))
        mean = optax.tree.bias_correction(new.mu, b1, new.count)
        square = optax.tree.bias_correction(new.nu, b2, new.count)
        return jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + _EPSILON), mean, square), new

    return optax.GradientTransformationExtraArgs(adam.init, update)


def make_schedule(config: OptimizerConfig, steps: int) -> Callable[[Array], Array]:
    """Linear warm-up, constant `learning_rate`, then decay to 0 from `decay_from` to the end.

    `decay_from` is a fraction of `steps`: pix2pix's "100 epochs constant, 100 linear to 0" is
    schedule='linear', decay_from=0.5 for a run of any length.
    """
    peak = config.learning_rate
    start = min(round(config.decay_from * steps), steps - 1)  # optax decays over 1 step or more
    decay = {
        'constant': lambda: optax.constant_schedule(peak),
        'linear': lambda: optax.linear_schedule(peak, 0.0, steps - start, start),
        'cosine': lambda: optax.join_schedules(
            [optax.constant_schedule(peak), optax.cosine_decay_schedule(peak, steps - start)],
            [start],
        ),
    }[config.schedule]()
    if not config.warmup_steps:
        return decay
    return lambda step: decay(step) * jnp.minimum((step + 1) / config.warmup_steps, 1.0)


def init_plateau() -> PlateauState:
    """The initial state: scale 1, no score seen."""
    return contrib.reduce_on_plateau().init(jnp.zeros(()))


def update_plateau(config: PlateauConfig, state: PlateauState, score: float) -> PlateauState:
    """Multiplies `scale` by `factor` after `patience` evaluations in a row without improvement.

    An improvement is a score below the best by 1e-4 of its size, as in PyTorch's ReduceLROnPlateau.
    Negative scores, of metrics of which more is better, are compared in the same way.
    PyTorch reduces after `patience` + 1 evaluations. Shardings are preserved.

    Args:
        config: patience, factor and lower limit of the scale.
        state: the state before the evaluation.
        score: the lower, the better.
    """
    best = abs(float(state.best_value))  # infinite before the first evaluation
    plateau = contrib.reduce_on_plateau(
        factor=config.factor,
        patience=config.patience,
        rtol=0.0,
        atol=max(1e-4 * best, 1e-12) if np.isfinite(best) else 1.0,
        min_scale=config.min_scale,
    )
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    update = jax.jit(
        lambda state, value: plateau.update((), state, value=value)[1], out_shardings=shardings
    )
    return update(state, np.float32(score))


def apply_gradients(
    optimizer: Optimizer,
    gradients: PyTree,
    opt_state: PyTree,
    params: PyTree,
    learning_rate: Array,
    good: Array | bool = True,
) -> tuple[PyTree, PyTree]:
    """New parameters and optimizer state; the old ones if `good`, () bool, is false."""
    updates, opt_state = optimizer.transform.update(gradients, opt_state, params, good=good)
    new = optax.apply_updates(params, jax.tree.map(lambda u: -learning_rate * u, updates))
    return select(good, new, params), opt_state


def select(good: Array | bool, new: PyTree, old: PyTree) -> PyTree:
    """`new` if `good`, () bool, else `old`: pytrees of the same structure."""
    return jax.tree.map(functools.partial(jnp.where, good), new, old)
