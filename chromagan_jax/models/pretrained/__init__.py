"""The registry of pretrained networks that a generator may start from."""

from collections.abc import Callable
from typing import Any, NamedTuple

from chromagan_jax.models.pretrained import efficientnet_lite, squeezenet, vgg


class Pretrained(NamedTuple):
    """A network and the loader of its weights."""

    title: str  # in messages
    backbone: str  # name of the submodule in a generator that contains the network
    load: Callable[[str], Any]  # path of a weight file -> parameters; raises UserError
    fix: str  # in messages: what to change if the parameters do not match the generator


# Keys are the config fields under `pretrained` that hold the paths of the weight files.
PRETRAINED = {
    'vgg16': Pretrained('VGG16', vgg.BACKBONE, vgg.load, 'set generator.width to 64'),
    'squeezenet': Pretrained(
        'SqueezeNet', squeezenet.BACKBONE, squeezenet.load, 'choose another file'
    ),
    'efficientnet_lite': Pretrained(
        'EfficientNet-Lite',
        efficientnet_lite.BACKBONE,
        efficientnet_lite.load,
        'set generator.encoder to the network whose weights the file holds',
    ),
}
