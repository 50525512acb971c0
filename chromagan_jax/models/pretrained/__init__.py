"""Networks whose weights come from a file, by the field of the config that names it."""

from chromagan_jax.models.pretrained import efficientnet_lite, squeezenet, vgg

# Networks that a generator may start from. Each is a module with `TITLE`, `load`, `BACKBONE` (the
# name in the generator's parameters) and `FIT` (what to change where the generator has another
# shape).
PRETRAINED = {'vgg16': vgg, 'squeezenet': squeezenet, 'efficientnet_lite': efficientnet_lite}
