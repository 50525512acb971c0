"""Networks whose weights come from a file, by the field of the config that names it."""

from chromagan_jax.models.pretrained import squeezenet, vgg

# Networks that a generator may start from: modules with `TITLE`, `BACKBONE` (their name in the
# generator's parameters) and `load`.
PRETRAINED = {'vgg16': vgg, 'squeezenet': squeezenet}
