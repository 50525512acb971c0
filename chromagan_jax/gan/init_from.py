"""A new run that starts from the weights of another: the field `init_from` of a config."""

from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from chromagan_jax.config import Config, check_same_networks
from chromagan_jax.errors import UserError
from chromagan_jax.gan import state as state_lib
from chromagan_jax.gan.checkpoints import load, read_run
from chromagan_jax.gan.state import GanState, NetworkState


def load_weights(config: Config, workdir: Path, state: GanState, mesh: Mesh) -> GanState:
    """`state` with the weights of the newest checkpoint of another run, for fine-tuning.

    Parameters, batch statistics and moving average come from there; optimizer states, step and
    random key stay new.

    Raises:
        UserError: if there is no such run, no checkpoint, or its networks are others.
    """
    check_same_networks(config, read_run(workdir)['config'], workdir)
    old = load(workdir, 'newest', mesh).state

    def weights(new: NetworkState, old: NetworkState) -> NetworkState:
        return new.replace(params=old.params, batch_stats=old.batch_stats)

    _check_fit(old, state, workdir)
    ema = state.ema
    if ema is not None:  # copied: a buffer that stands twice in the state could not be donated
        ema = jax.tree.map(jnp.copy, state_lib.generator_variables(old))
    return state.replace(
        generator=weights(state.generator, old.generator),
        discriminator=weights(state.discriminator, old.discriminator),
        ema=ema,
    )


def _check_fit(old: GanState, new: GanState, workdir: Path) -> None:
    """Raises UserError if the weights of `old` have other shapes or types than those of `new`."""
    for name in ('generator', 'discriminator'):
        weights = [
            (getattr(state, name).params, getattr(state, name).batch_stats) for state in (old, new)
        ]
        layouts = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), w) for w in weights]
        if layouts[0] != layouts[1]:
            raise UserError(
                f'init_from: the weights of the {name} in {workdir} have other shapes or types: '
                'set data.size, generator.depth and param_dtype as they were there.'
            )
