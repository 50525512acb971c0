"""The train state: one pytree that a step updates and a checkpoint stores."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct
from jax import lax
from jax.sharding import Mesh

from chromagan_jax import models, sharding
from chromagan_jax.color import TARGET_CHANNELS
from chromagan_jax.config.resume import fields_of_step
from chromagan_jax.config.schema import Config
from chromagan_jax.errors import UserError
from chromagan_jax.gan import model as model_lib
from chromagan_jax.gan import optimizers
from chromagan_jax.gan.model import GanModel
from chromagan_jax.gan.steering import Steering, init_steering
from chromagan_jax.models.pretrained import PRETRAINED
from chromagan_jax.utils import programs

Array = jax.Array
PyTree = Any


class NetworkState(struct.PyTreeNode):
    """Variables and optimizer state of one network."""

    params: PyTree
    batch_stats: PyTree  # {} for a network without batch or spectral norm
    opt_state: PyTree

    @property
    def variables(self) -> dict[str, PyTree]:
        """Parameters and batch statistics, as `module.apply` takes them."""
        return {'params': self.params, 'batch_stats': self.batch_stats}


class GanState(struct.PyTreeNode):
    """Everything that a train step updates. It is donated to each step."""

    step: Array  # () int32, train steps done
    key: Array  # () typed PRNG key; a step uses fold_in(key, step)
    generator: NetworkState
    discriminator: NetworkState
    ema: PyTree | None  # moving average of the generator's {'params', 'batch_stats'}; None: off
    plateau: optimizers.PlateauState  # `scale`, () float32, multiplies both learning rates
    steering: Steering | None  # of the L1 weight; None: constant
    discriminator_accuracy: Array  # () float32, mean over real and fake at the last step
    first_nonfinite_step: Array  # () int32, first step with a non-finite metric; -1: none


def init_state(model: GanModel, key: Array, shape: tuple[int, int, int]) -> GanState:
    """A new state for targets of `shape` (H, W, C). Works under jit and `jax.eval_shape`.

    Raises:
        UserError: if a network does not accept images of this size.
    """
    generator_key, discriminator_key, train_key = jax.random.split(key, 3)
    target = jnp.zeros((1, *shape))
    condition = target[..., :1]
    generator = _init_network(model.generator, model.generator_optimizer, generator_key, condition)
    judged: tuple[Any, ...] = (condition, target)
    if hasattr(model.discriminator, 'features') and model.features is not None:
        maps, _ = jax.eval_shape(
            model.features.init_with_output, discriminator_key, jnp.zeros((1, *shape[:2], 3))
        )
        judged += (jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), maps),)
    discriminator = _init_network(
        model.discriminator, model.discriminator_optimizer, discriminator_key, *judged
    )
    loss = model.loss
    return GanState(
        step=jnp.zeros((), jnp.int32),
        key=train_key,
        generator=generator,
        discriminator=discriminator,
        ema=generator.variables if model.ema_decay else None,
        plateau=optimizers.init_plateau(),
        steering=init_steering(loss.weights['l1']) if loss.steering.chroma_share else None,
        discriminator_accuracy=jnp.full((), 0.5),
        first_nonfinite_step=jnp.full((), -1, jnp.int32),
    )


def _init_network(
    module: nn.Module, optimizer: optimizers.Optimizer, key: Array, *inputs: Any
) -> NetworkState:
    variables = module.init({'params': key, 'noise': key}, *inputs, train=True)
    params = variables['params']
    return NetworkState(
        params=params,
        batch_stats=variables.get('batch_stats', {}),
        opt_state=optimizer.transform.init(params),
    )


def target_shape(config: Config) -> tuple[int, int, int]:
    """Shape (H, W, C) of a training target."""
    return config.data.size, config.data.size, TARGET_CHANNELS[config.color_space]


def abstract_state(model: GanModel, config: Config, mesh: Mesh) -> GanState:
    """Shapes, dtypes and shardings of the state, without allocating arrays."""
    shapes = jax.eval_shape(lambda: init_state(model, jax.random.key(0), target_shape(config)))
    return jax.tree.map(
        lambda leaf, spec: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=spec),
        shapes,
        sharding.state_shardings(shapes, mesh),
    )


def create_state(
    model: GanModel, config: Config, mesh: Mesh, abstract: GanState | None = None
) -> GanState:
    """A new state from `config.seed`, created with its sharding on the mesh.

    The program that creates it is loaded from disk if it is there (`utils/programs.py`).
    `abstract` is that of `abstract_state`, if the caller has it: tracing it takes time.
    """
    abstract = abstract or abstract_state(model, config, mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    init = jax.jit(
        lambda key: init_state(model, key, target_shape(config)), out_shardings=shardings
    )
    key = jax.random.key(config.seed)
    networks = model.generator, model.discriminator
    made_from = fields_of_step(config), mesh
    devices = mesh.devices.ravel().tolist()

    def make() -> jax.stages.Compiled:
        return init.trace(key).lower().compile()

    return programs.cached('init', networks, made_from, devices, make)(key)


def abstract_batch(config: Config, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes, dtypes and shardings of a training batch.

    (B, ...) each, or (M, B / M, ...) with M = `grad_accum_steps` above 1.
    """
    height, width, channels = target_shape(config)
    leading: tuple[int, ...] = (config.batch_size,)
    if config.grad_accum_steps > 1:
        leading = (config.grad_accum_steps, config.batch_size // config.grad_accum_steps)
    placed = sharding.batch_sharding(mesh, config.grad_accum_steps)
    batch = {
        'condition': jax.ShapeDtypeStruct((*leading, height, width, 1), jnp.float32),
        'target': jax.ShapeDtypeStruct((*leading, height, width, channels), jnp.float32),
    }
    if config.data.labels:
        batch['label'] = jax.ShapeDtypeStruct(leading, jnp.int32)
    return {k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=placed) for k, v in batch.items()}


def abstract_frozen(model: GanModel, config: Config, mesh: Mesh) -> dict[str, PyTree]:
    """Shapes and shardings of the parameters of the frozen networks, by their names."""
    shapes = model_lib.abstract_frozen(model, config.data.size)
    return jax.tree.map(
        lambda leaf, spec: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=spec),
        shapes,
        sharding.state_shardings(shapes, mesh),
    )


def with_generator(state: GanState, variables: PyTree) -> GanState:
    """Sets the generator's variables, also in the moving average.

    Args:
        state: submodules that `variables` lacks, such as those for hints, keep their parameters.
        variables: {'params', 'batch_stats'}.
    """
    old = state.generator.variables
    variables = {**variables, 'params': {**old['params'], **variables['params']}}
    placed = jax.tree.map(
        lambda leaf, array: jax.device_put(array.astype(leaf.dtype), leaf.sharding), old, variables
    )
    ema = state.ema
    if ema is not None:  # copied, because a buffer used twice in the state cannot be donated
        ema = jax.tree.map(jnp.copy, placed)
    return state.replace(generator=state.generator.replace(**placed), ema=ema)


def with_backbone(state: GanState, field: str, weights: PyTree) -> GanState:
    """Sets the generator's backbone to pretrained weights, also in the moving average.

    Args:
        state: a new one, whose generator contains the backbone.
        field: key of `PRETRAINED`.
        weights: parameters of the pretrained network; layers outside the backbone are ignored.

    Raises:
        UserError: if shapes differ between the weights and the backbone.
    """
    network = PRETRAINED[field]
    new = state.generator.params[network.backbone]
    loaded = {layer: weights.get(layer) for layer in new}
    if jax.tree.map(jnp.shape, new) != jax.tree.map(np.shape, loaded):
        raise UserError(
            f'pretrained.{field} names a file of another shape than the {network.title} of the '
            f'generator: {network.fix}.'
        )
    stats = state.generator.batch_stats
    return with_generator(state, {'params': {network.backbone: loaded}, 'batch_stats': stats})


def check_networks(model: GanModel, config: Config, abstract: GanState | None = None) -> None:
    """Checks both networks by shape inference at the training and evaluation sizes.

    `abstract` is that of `abstract_state`, if the caller has it.

    Raises:
        UserError: if a network does not accept a size, no network takes a pretrained file or the
            encoder's rate, or the generator has no class head for the class loss.
    """
    shapes = abstract or jax.eval_shape(
        lambda: init_state(model, jax.random.key(0), target_shape(config))
    )
    variables = shapes.generator.variables
    size = config.eval.size or config.data.size
    variables = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), variables)
    output = jax.eval_shape(
        lambda variables, condition: model.generator.apply(variables, condition, train=False),
        variables,
        jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32),
    )
    name = type(model.generator).__name__
    backbones = {network.backbone for network in PRETRAINED.values()}
    ratio = config.generator_optimizer.encoder_lr_ratio
    if ratio != 1 and not backbones & shapes.generator.params.keys():
        raise UserError(
            f'generator_optimizer.encoder_lr_ratio is {ratio:g}, but the generator {name} has no '
            'pretrained encoder: set it to 1.'
        )
    for field, network in PRETRAINED.items():
        used = network.backbone in shapes.generator.params or (
            field == 'efficientnet_lite' and model.features is not None
        )
        if config.pretrained.get(field) and not used:
            raise UserError(
                f'pretrained.{field} names a file, but the generator {name} is not built on '
                f"{network.title}: set it to ''."
            )
    if model.train_only and model.train_only not in shapes.generator.params:
        raise UserError(
            f'generator_optimizer.train_only is {model.train_only!r}, but the submodules of '
            f'{name} are {", ".join(sorted(shapes.generator.params))}: choose one of them.'
        )
    if model.loss.weights.get('classes') and not isinstance(output, models.Classified):
        raise UserError(
            f'loss.weights.classes is set, but the generator {name} has no class head: '
            'choose another generator, or set the weight to 0.'
        )


def generator_variables(state: GanState) -> PyTree:
    """The generator's variables for evaluation: the moving average, or the raw weights."""
    return state.generator.variables if state.ema is None else state.ema


def update_ema(max_decay: float, state: GanState, generator: NetworkState) -> PyTree | None:
    """The moving average of the generator's parameters and batch statistics after an update.

    The decay at step t is min(max_decay, (1 + t) / (10 + t)), as in TensorFlow's
    ExponentialMovingAverage. This limits the weight of the initial parameters early in training.
    """
    if state.ema is None:
        return None
    t = state.step.astype(jnp.float32)
    decay = jnp.minimum(max_decay, (1 + t) / (10 + t))
    average = lambda old, new: (decay * old + (1 - decay) * new).astype(old.dtype)
    return jax.tree.map(average, state.ema, generator.variables)


def all_finite(state: GanState, metrics: Mapping[str, Array]) -> Array:
    """Whether all metrics of this and every earlier step are finite; () bool."""
    return (state.first_nonfinite_step < 0) & _finite(metrics)


def count_step(state: GanState, metrics: Mapping[str, Array]) -> GanState:
    """Increments the step and records the first step with a non-finite metric."""
    step = state.step + 1
    first = (state.first_nonfinite_step < 0) & ~_finite(metrics)
    return state.replace(
        step=step, first_nonfinite_step=jnp.where(first, step, state.first_nonfinite_step)
    )


def _finite(metrics: Mapping[str, Array]) -> Array:
    return jnp.stack([jnp.isfinite(value) for value in metrics.values()]).all()


@jax.jit
def checksum(state: PyTree) -> Array:
    """A () uint32 checksum of the bits of all leaves, independent of their sharding.

    The sum modulo 2**32 of each element's bits times an odd weight, 2 i + 1 for element i. Integer
    sums do not depend on the order of reduction, and no array is gathered.
    """
    total, counted = jnp.uint32(0), 0
    for leaf in jax.tree.leaves(state):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        unsigned = np.dtype(f'uint{8 * leaf.dtype.itemsize}')
        bits = lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)
        index, stride = jnp.uint32(counted), 1
        for axis in reversed(range(leaf.ndim)):
            index += lax.broadcasted_iota(jnp.uint32, leaf.shape, axis) * jnp.uint32(stride)
            stride *= leaf.shape[axis]
        total += jnp.sum(bits * (2 * index + 1), dtype=jnp.uint32)
        counted += leaf.size
    return total
