"""The networks by name, and how a config becomes one.

To add a generator: write a Linen module that maps a condition (B, H, W, 1) to a target (B, H, W,
channels), `__call__(self, condition, train)`, and name it in `GENERATORS`. Its fields are what a
config may set under `generator`; those in `_COMMON` come from elsewhere in the config.
"""

import dataclasses
import difflib
from collections.abc import Collection
from typing import Any

from flax import linen as nn

from chromagan_jax.color import TARGET_CHANNELS
from chromagan_jax.errors import UserError
from chromagan_jax.models import chromagan, dense, encoder_decoder, lite_unet, patch, unet
from chromagan_jax.models.chromagan import Classified as Classified
from chromagan_jax.models.pretrained import PRETRAINED

PyTree = Any

GENERATORS: dict[str, type[nn.Module]] = {
    'unet': unet.UNet,
    'lite_unet': lite_unet.LiteUNet,
    'encoder_decoder': encoder_decoder.EncoderDecoder,
    'chromagan': chromagan.TwoBranch,
}
DISCRIMINATORS: dict[str, type[nn.Module]] = {
    'patch': patch.PatchGAN,
    'dense': dense.DenseDiscriminator,
}

_COMMON = ('channels', 'size', 'dtype', 'param_dtype', 'remat')


def make_generator(config: Any) -> nn.Module:
    """The generator that `config.generator` names and describes.

    Raises:
        UserError: for an unknown name or a field that the network does not have.
    """
    return _make('generator', GENERATORS, config)


def make_discriminator(config: Any) -> nn.Module:
    """The discriminator that `config.discriminator` names and describes.

    It maps a condition (B, H, W, 1) and a target (B, H, W, C) to logits of any shape.

    Raises:
        UserError: for an unknown name or a field that the network does not have.
    """
    return _make('discriminator', DISCRIMINATORS, config)


def load_pretrained(config: Any, fields: Collection[str] = tuple(PRETRAINED)) -> dict[str, PyTree]:
    """Parameters from the files that `config` names, by those of the `fields` that name one.

    Raises:
        UserError: for a file that is missing, damaged or of another network.
    """
    loaded = {}
    for field in filter(lambda field: config[field], fields):
        try:
            loaded[field] = PRETRAINED[field].load(config[field])
        except UserError as error:
            raise UserError(f'{field}: {error}') from error
    return loaded


def class_targets(config: Any) -> str:
    """What a class head learns: of the 'teacher' (VGG16), the 'labels' of the data, or 'none'."""
    if not config.objective.classes:
        return 'none'
    if config.vgg16:
        return 'teacher'
    return 'labels' if config.data.labels else 'none'


def _make(kind: str, networks: dict[str, type[nn.Module]], config: Any) -> nn.Module:
    # Tuples come back from config.json as lists.
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in config[kind].items()}
    name = fields.pop('name')
    if name not in networks:
        raise UserError(f'{kind}.name is {name!r}; choose one of {", ".join(networks)}.')
    declared = {f.name for f in dataclasses.fields(networks[name])} - {'parent', 'name'}
    own = declared - set(_COMMON)
    if unknown := sorted(set(fields) - own):
        close = difflib.get_close_matches(unknown[0], own, 1) if len(unknown) == 1 else []
        hint = f'did you mean {kind}.{close[0]}?' if close else f'it has {_listed(own)}.'
        raise UserError(f'The {kind} {name!r} has no {_listed(set(unknown))}; {hint}')
    if config.remat and 'remat' not in declared:
        raise UserError(f'The {kind} {name!r} cannot rematerialise: set remat to False.')
    if 'classes' in declared:
        targets = class_targets(config)
        if targets == 'none':
            fields['classes'] = 0  # a head that nothing teaches would only take memory
        elif targets == 'teacher' and fields.get('classes', 1000) != 1000:
            raise UserError(
                f'{kind}.classes is {fields["classes"]}, and vgg16 knows 1000: leave it at 1000.'
            )
    common = {
        'channels': TARGET_CHANNELS[config.color_space],
        'size': config.data.size,
        'dtype': config.dtype,
        'param_dtype': config.param_dtype,
        'remat': config.remat,
    }
    return networks[name](**fields, **{k: v for k, v in common.items() if k in declared})


def _listed(names: set[str]) -> str:
    return ', '.join(sorted(names)) if names else 'none'
