"""Training of one submodule, as in configs/hints.py."""

from functools import partial

import jax
import pytest

from chromagan_jax.errors import UserError
from chromagan_jax.gan import state as state_lib
from chromagan_jax.gan import steps
from chromagan_jax.gan.model import make_model
from chromagan_jax.models.lite_unet import LiteUNet
from chromagan_jax.models.patch import PatchGAN
from configs import hints
from tests.gan.test_steps import assert_same_bits, batch_of


@pytest.fixture(scope='module')
def config():
    config = hints.get_config()
    config.generator = LiteUNet(decoder_widths=(8, 8, 8, 8, 8), hints=True)
    config.discriminator = PatchGAN(width=4, layers=1)
    config.generator_optimizer.warmup_steps = 0
    config.data.size, config.batch_size = 32, 2
    return config


@pytest.mark.slow
def test_a_step_changes_the_submodule_for_hints_and_no_other_variable(config):
    model = make_model(config)
    shape = state_lib.target_shape(config)
    state = jax.jit(lambda key: state_lib.init_state(model, key, shape))(jax.random.key(0))
    new, _ = jax.jit(partial(steps.pretrain_step, model))(state, batch_of(config))
    before, after = state.generator, new.generator
    for name in before.params.keys() - {'hints'}:
        assert_same_bits(after.params[name], before.params[name])
    assert_same_bits(after.batch_stats, before.batch_stats)
    assert_same_bits(new.discriminator, state.discriminator)
    assert (after.params['hints']['refine_1']['kernel'] != 0).any()
    trained = jax.tree.leaves(after.params['hints'])
    assert len(jax.tree.leaves(after.opt_state)) < 3 * len(trained)  # two moments and some counts


def test_an_unknown_submodule_is_an_error_that_names_the_others(config):
    config.generator_optimizer.train_only = 'hint'
    with pytest.raises(UserError, match=r"train_only is 'hint', but .*encoder, hints, level_16"):
        state_lib.check_networks(make_model(config), config)
    config.generator_optimizer.train_only = 'hints'
