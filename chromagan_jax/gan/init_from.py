"""Fine-tuning: start a new run from the weights of another (config field `init_from`)."""

from pathlib import Path

import jax
from jax.sharding import Mesh

from chromagan_jax.config import Config, check_same_networks
from chromagan_jax.errors import UserError
from chromagan_jax.gan import released
from chromagan_jax.gan import state as state_lib
from chromagan_jax.gan.checkpoints import load
from chromagan_jax.gan.state import GanState
from chromagan_jax.gan.workdir import read_run
from chromagan_jax.utils import paths

RELEASED = 'released'  # value of init_from for the weights in the package


def load_weights(config: Config, state: GanState, mesh: Mesh) -> GanState:
    """Replaces the weights in `state` by those that `config.init_from` names.

    These are the newest checkpoint of a workdir, or the released generator; the discriminator then
    stays new. The generator and its moving average start from the average of that run, or from its
    raw weights if it has none. Optimizer states, step and random key stay those of `state`.

    Raises:
        UserError: if the run or its checkpoint is missing, or its networks differ from `config`'s.
    """
    if config.init_from == RELEASED:
        trained = released.load(mesh)
        check_same_networks(config, trained.config, 'the release', ('generator',))
        return state_lib.with_generator(state, trained.variables)
    workdir = paths.as_path(config.init_from)
    check_same_networks(config, read_run(workdir)['config'], workdir)
    old = load(workdir, 'newest', mesh).state

    _check_fit(old, state, workdir)
    state = state_lib.with_generator(state, state_lib.generator_variables(old))
    return state.replace(discriminator=state.discriminator.replace(**old.discriminator.variables))


def _check_fit(old: GanState, new: GanState, workdir: Path) -> None:
    """Raises UserError if shapes or dtypes of the weights differ between `old` and `new`."""
    for name in ('generator', 'discriminator'):
        before, now = getattr(old, name), getattr(new, name)
        known = {module: now.params.get(module) for module in before.params}
        weights = [(before.params, before.batch_stats), (known, now.batch_stats)]
        layouts = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), w) for w in weights]
        if layouts[0] != layouts[1]:
            raise UserError(
                f'init_from: the weights of the {name} in {workdir} have other shapes or dtypes: '
                'set data.size and generator.depth to the values of that run.'
            )
