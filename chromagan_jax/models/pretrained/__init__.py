"""Networks with published weights that a generator may start from."""

from collections.abc import Callable
from typing import Any, NamedTuple

from chromagan_jax.models.pretrained import efficientnet_lite, squeezenet, vgg


class Pretrained(NamedTuple):
    """A network and how its weights are read."""

    title: str  # in messages
    backbone: str  # name of the network in the parameters of a generator that is built on it
    load: Callable[[str], Any]  # path of a file of weights -> parameters; raises UserError
    fix: str  # what to change if the parameters do not fit the generator, for messages


# By the name of the field that names the file of weights: `pretrained.NAME` in a config.
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
