"""The GAN model that a config describes: networks, losses and optimizers."""

import dataclasses
import functools
import math
from collections.abc import Collection, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from chromagan_jax.color import TARGET_CHANNELS
from chromagan_jax.config.schema import AugmentConfig, Config, HintsConfig, LossConfig
from chromagan_jax.errors import UserError
from chromagan_jax.gan import losses, optimizers
from chromagan_jax.gan.data_parallel import PerDevice
from chromagan_jax.models import Classified
from chromagan_jax.models.pretrained import PRETRAINED, efficientnet_lite, vgg
from chromagan_jax.models.projected import ProjectedFeatures

PyTree = Any


class GanModel(NamedTuple):
    """Networks, optimizers, loss settings and sharding: everything static in a train step."""

    generator: nn.Module
    discriminator: nn.Module
    generator_optimizer: optimizers.Optimizer
    discriminator_optimizer: optimizers.Optimizer
    loss: LossConfig
    discriminator_steps: int  # discriminator updates per step
    discriminator_max_accuracy: float  # above it the next update is skipped
    grad_accum_steps: int  # micro-batches per step
    ema_decay: float  # of the generator's moving average; 0: no average
    augment: AugmentConfig  # random changes of the condition
    hints: HintsConfig | None = None  # random hints; None: training has none
    encoder_frozen: bool = False  # whether the generator's backbone gets no gradient
    train_only: str = ''  # the generator's only submodule with a gradient; '': all
    teacher: nn.Module | None = None  # frozen; class head learns its probabilities
    features: nn.Module | None = None  # frozen; maps of RGB images
    replicated: NamedSharding | None = None  # of gathered parameters; None: nothing to gather
    per_device: PerDevice | None = None  # averages gradients of each device; None: global batch


def make_model(config: Config, mesh: Mesh | None = None) -> GanModel:
    """Builds the model that a config describes.

    Raises:
        UserError: for an unknown loss or a contradictory network option.
    """
    losses.check_names(config.loss.adversarial, config.loss.weights)
    targets, weights = class_targets(config), dict(config.loss.weights)
    if targets == 'none':
        weights['classes'] = 0.0
    discriminator: Any = make_discriminator(config)
    features = discriminator.features() if hasattr(discriminator, 'features') else None
    if weights.get('perceptual') and features is None:
        encoder = getattr(config.generator, 'encoder', 'none')  # one file serves both
        encoder = encoder if encoder in efficientnet_lite.VARIANTS else 'lite0'
        features = ProjectedFeatures(encoder, config.dtype)
    if hasattr(discriminator, 'features') and config.loss.gradient_penalty_weight:
        raise UserError(
            'loss.gradient_penalty_weight needs a discriminator of images: set it to 0, or choose '
            'another discriminator.name.'
        )
    per_device = make_per_device(config, mesh)
    return GanModel(
        generator=make_generator(config),
        discriminator=discriminator,
        generator_optimizer=optimizers.make_optimizer(
            config.generator_optimizer,
            config.steps,
            encoder_lr_ratio=config.generator_optimizer.encoder_lr_ratio,
            train_only=config.generator_optimizer.train_only,
        ),
        discriminator_optimizer=optimizers.make_optimizer(
            config.discriminator_optimizer, config.steps
        ),
        loss=dataclasses.replace(config.loss, weights=weights),  # a copy: configs are mutable
        discriminator_steps=config.discriminator_steps,
        discriminator_max_accuracy=config.discriminator_max_accuracy,
        grad_accum_steps=config.grad_accum_steps,
        ema_decay=config.ema_decay,
        augment=dataclasses.replace(config.augment),
        hints=dataclasses.replace(config.hints) if draws_hints(config) else None,
        encoder_frozen=config.generator_optimizer.encoder_lr_ratio == 0,
        train_only=config.generator_optimizer.train_only,
        teacher=vgg.VGG16(dtype=config.dtype) if targets == 'teacher' else None,
        features=features,
        replicated=None if per_device else replicated(mesh),
        per_device=per_device,
    )


def make_per_device(config: Config, mesh: Mesh | None) -> PerDevice | None:
    """The averaging of `mesh.gradients`; None for global batches.

    Raises:
        UserError: for per_device with parameters that are spread over devices.
    """
    if mesh is None or config.mesh.gradients == 'global':
        return None
    if config.mesh.fsdp > 1:
        raise UserError(
            f'mesh.gradients=per_device needs all parameters on each device, but mesh.fsdp is '
            f'{config.mesh.fsdp}: set mesh.fsdp to 1, or mesh.gradients to global.'
        )
    return PerDevice(mesh, config.mesh.gradient_dtype, config.grad_accum_steps)


def draws_hints(config: Config) -> bool:
    """Whether training shows random colour hints to the generator."""
    return bool(getattr(config.generator, 'hints', False)) and config.hints.none < 1


def replicated(mesh: Mesh | None) -> NamedSharding | None:
    """Sharding that replicates an array on every device of the mesh; None without a mesh."""
    return None if mesh is None else NamedSharding(mesh, PartitionSpec())


def make_generator(config: Config) -> nn.Module:
    """The generator of a config: condition (B, H, W, 1) -> target (B, H, W, C).

    Raises:
        UserError: for a network option that contradicts the rest of the config.
    """
    network = _with_derived_fields('generator', config.generator, config)
    targets, classes = class_targets(config), getattr(network, 'classes', None)
    if classes is None:
        return network
    if targets == 'none':
        return network.clone(classes=0)  # an untrained head would waste memory
    if targets == 'teacher' and classes != 1000:
        raise UserError(f'generator.classes is {classes}, but VGG16 has 1000: set it to 1000.')
    return network


def make_discriminator(config: Config) -> nn.Module:
    """The discriminator of a config: condition (B, H, W, 1), target (B, H, W, C) -> logits.

    Raises:
        UserError: for a network option that contradicts the rest of the config.
    """
    return _with_derived_fields('discriminator', config.discriminator, config)


def _with_derived_fields(kind: str, network: nn.Module, config: Config) -> nn.Module:
    declared = {field.name for field in dataclasses.fields(network)}
    if config.remat and 'remat' not in declared:
        raise UserError(
            f'The {kind} {type(network).__name__} cannot rematerialise: set remat to False.'
        )
    values: dict[str, Any] = {
        'channels': TARGET_CHANNELS[config.color_space],
        'size': config.data.size,
        'dtype': config.dtype,
        'remat': config.remat,
    }
    return network.clone(**{name: value for name, value in values.items() if name in declared})


def abstract_variables(generator: nn.Module, size: int) -> dict[str, PyTree]:
    """Shapes and dtypes of a generator's 'params' and 'batch_stats'; `size` of the crop in px."""
    condition = jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32)
    rngs = {'params': jax.random.key(0), 'noise': jax.random.key(0)}
    init = functools.partial(generator.init, train=True)
    shapes = jax.eval_shape(init, rngs, condition)
    return {'params': shapes['params'], 'batch_stats': shapes.get('batch_stats', {})}


def class_targets(config: Config) -> Literal['teacher', 'labels', 'none']:
    """Source of the class head's targets: VGG16 as a teacher, labels of the data, or none."""
    if not config.loss.weights.get('classes'):
        return 'none'
    if config.pretrained.get('vgg16'):
        return 'teacher'
    return 'labels' if config.data.labels else 'none'


def load_pretrained(
    paths: Mapping[str, str], names: Collection[str] = tuple(PRETRAINED)
) -> dict[str, PyTree]:
    """Loads the parameters of pretrained networks from the files of `config.pretrained`.

    Args:
        paths: weight file of each network, by name; '' for none.
        names: networks to load; those without a file are skipped.

    Returns:
        Parameters by network name.

    Raises:
        UserError: if a file is missing, damaged, or belongs to another network.
    """
    loaded = {}
    for name in names:
        if not paths.get(name):
            continue
        try:
            loaded[name] = PRETRAINED[name].load(paths[name])
        except UserError as error:
            raise UserError(f'pretrained.{name}: {error}') from error
    return loaded


def abstract_frozen(model: GanModel, size: int) -> dict[str, PyTree]:
    """Shapes and dtypes of the parameters of the frozen networks, 'teacher' and 'features'."""
    seen = jnp.zeros((1, size, size, 3))
    networks = {'teacher': model.teacher, 'features': model.features}
    return {
        name: jax.eval_shape(network.init, jax.random.key(0), seen)['params']
        for name, network in networks.items()
        if network is not None
    }


def make_frozen(model: GanModel, pretrained: Mapping[str, PyTree], size: int) -> dict[str, PyTree]:
    """The parameters of the frozen networks, 'teacher' and 'features', on the host.

    The mixing layers of the features are random (He et al. 2015) and the same in every run.

    Args:
        model: the networks.
        pretrained: weights by name, from `load_pretrained`.
        size: training size, px.

    Raises:
        UserError: if weights are missing or belong to another network.
    """
    abstract = abstract_frozen(model, size)
    made: dict[str, PyTree] = {}
    if 'teacher' in abstract:
        made['teacher'] = pretrained['vgg16']
    if 'features' in abstract:
        encoder = getattr(model.features, 'encoder', '')
        made['features'] = _make_features(encoder, abstract['features'], pretrained)
    return made


def _make_features(encoder: str, abstract: PyTree, pretrained: Mapping[str, PyTree]) -> PyTree:
    if 'efficientnet_lite' not in pretrained:
        raise UserError(
            'The projected discriminator and the perceptual loss need features of '
            'EfficientNet-Lite: set pretrained.efficientnet_lite to a file that '
            '`python -m tools.encoder` made.'
        )
    params = pretrained['efficientnet_lite']
    if jax.tree.map(jnp.shape, abstract['encoder']) != jax.tree.map(jnp.shape, params):
        raise UserError(
            f'pretrained.efficientnet_lite holds another network than {encoder}, which the frozen '
            'features use: name a file of that network, or set discriminator.encoder to lite0, '
            'lite1 or lite2.'
        )
    rng, made = np.random.default_rng(0), {'encoder': params}
    for name in sorted(abstract.keys() - {'encoder'}):
        shape = abstract[name]['kernel'].shape
        kernel = rng.normal(0, (2 / math.prod(shape[:-1])) ** 0.5, shape)
        made[name] = {'kernel': kernel.astype(np.float32), 'bias': np.zeros(shape[-1], np.float32)}
    return made


def predict(
    generator: nn.Module, variables: PyTree, condition: jax.Array, noise: jax.Array | None = None
) -> jax.Array:
    """Runs the generator in inference mode: condition (B, H, W, 1) -> target (B, H, W, C), float32.

    Dropout stays active if `noise` is a PRNG key.
    """
    rngs = {} if noise is None else {'noise': noise}
    output: Any = generator.apply(variables, condition, train=False, rngs=rngs)
    return output.target if isinstance(output, Classified) else output


def gathered(sharding: NamedSharding | None, variables: PyTree) -> PyTree:
    """All-gathers FSDP-sharded variables; returns them unchanged without a sharding."""
    if sharding is None:
        return variables
    return jax.lax.with_sharding_constraint(variables, sharding)
