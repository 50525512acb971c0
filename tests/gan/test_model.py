import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from chromagan_jax import config as config_lib
from chromagan_jax import models, sharding
from chromagan_jax.config import Config
from chromagan_jax.errors import UserError
from chromagan_jax.gan import model as model_lib
from chromagan_jax.gan import state as state_lib
from chromagan_jax.models.chromagan import TwoBranch
from chromagan_jax.models.pretrained import PRETRAINED
from chromagan_jax.models.projected import ProjectedDiscriminator


class OneConv(nn.Module):
    """The smallest generator there is."""

    channels: int = 2
    gain: float = 1.0

    @nn.compact
    def __call__(self, condition, train):
        return self.gain * nn.Conv(self.channels, (1, 1))(condition)


def test_a_config_becomes_a_network_with_its_fields(tiny):
    tiny.generator = tiny.generator.clone(dropout=0.25)
    tiny.color_space = 'rgb'
    generator = model_lib.make_generator(tiny)
    assert (generator.width, generator.dropout, generator.channels) == (4, 0.25, 3)
    assert generator.size == tiny.data.size
    assert model_lib.make_discriminator(tiny).layers == 3


def test_types_of_the_config_reach_the_network(tiny):
    tiny.dtype = 'bfloat16'
    assert jnp.dtype(model_lib.make_generator(tiny).dtype) == jnp.bfloat16


def test_a_generator_is_added_by_naming_it(tiny, monkeypatch):
    monkeypatch.setitem(models.GENERATORS, 'one_conv', OneConv)
    config_lib.set_field(tiny, 'generator.name', 'one_conv')
    config_lib.set_field(tiny, 'generator.gain', 2.0)
    tiny.color_space = 'rgb'
    assert model_lib.make_generator(tiny) == OneConv(channels=3, gain=2.0)


def test_a_network_from_a_saved_config_is_the_same(tiny):
    tiny.generator = tiny.generator.clone(widths=(4, 8, 8))
    saved = config_lib.from_dict(Config, json.loads(json.dumps(config_lib.to_dict(tiny))))
    assert model_lib.make_generator(saved) == model_lib.make_generator(tiny)
    hash(model_lib.make_generator(saved))


def test_a_model_does_not_change_with_the_config_that_it_was_made_from(tiny):
    model = model_lib.make_model(tiny)
    tiny.loss.adversarial = 'lsgan'
    tiny.loss.weights['l1'] = 3.0
    assert model.loss.adversarial == 'bce'
    assert model.loss.weights['l1'] == 100.0


def test_a_field_that_the_network_lacks_is_an_error_that_says_so(tiny, monkeypatch):
    monkeypatch.setitem(models.GENERATORS, 'one_conv', OneConv)
    config_lib.set_field(tiny, 'generator.name', 'one_conv')
    with pytest.raises(UserError, match=r"^There is no field 'generator\.width' in the config"):
        config_lib.set_field(tiny, 'generator.width', 8)


def test_a_misspelt_field_is_met_with_the_right_one(tiny):
    with pytest.raises(UserError, match=r"'generator\.widht' .*: did you mean 'generator\.width'"):
        config_lib.set_field(tiny, 'generator.widht', 8)


def test_an_unknown_network_is_met_with_the_known_ones(tiny):
    with pytest.raises(UserError, match=r"discriminator.name is 'pitch'; choose one of patch"):
        config_lib.set_field(tiny, 'discriminator.name', 'pitch')


def test_remat_is_refused_by_a_network_that_cannot(tiny):
    tiny.generator = OneConv()
    tiny.remat = True
    with pytest.raises(UserError, match='generator OneConv cannot rematerialise'):
        model_lib.make_generator(tiny)


def test_a_class_head_that_the_teacher_does_not_fit_is_an_error(tiny):
    tiny.generator = TwoBranch(classes=10)
    tiny.loss.weights['classes'] = 0.003
    tiny.pretrained['vgg16'] = 'vgg16.npz'
    with pytest.raises(UserError, match=r'generator\.classes is 10, but VGG16 has 1000'):
        model_lib.make_generator(tiny)


@pytest.mark.parametrize('name', PRETRAINED)
def test_a_file_of_weights_that_is_missing_is_named_with_its_field(name):
    with pytest.raises(UserError, match=rf'^pretrained\.{name}: .*nowhere\.npz'):
        model_lib.load_pretrained({name: 'nowhere.npz'})


def test_only_the_files_asked_for_are_read(tiny):
    tiny.pretrained['squeezenet'] = 'nowhere.npz'
    assert model_lib.load_pretrained(tiny.pretrained, ['vgg16']) == {}


def test_abstract_variables_are_those_of_a_new_state(small):
    mesh = sharding.make_mesh()
    state = state_lib.abstract_state(model_lib.make_model(small, mesh), small, mesh)
    made = state_lib.generator_variables(state)
    abstract = model_lib.abstract_variables(model_lib.make_generator(small), small.data.size)
    shapes = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, np.dtype(leaf.dtype)), tree)
    assert shapes(abstract) == shapes(made)
    assert abstract['batch_stats']


def test_a_gradient_penalty_goes_with_perceptual_features_of_a_patch_discriminator(tiny):
    tiny.loss.weights['perceptual'] = 1.0
    tiny.loss.gradient_penalty_weight = 10.0
    tiny.discriminator = tiny.discriminator.clone(norm='none')
    model = model_lib.make_model(tiny)
    assert model.features is not None
    tiny.discriminator = ProjectedDiscriminator()
    with pytest.raises(UserError, match='gradient_penalty_weight needs a discriminator of images'):
        model_lib.make_model(tiny)


def test_a_rate_of_the_encoder_is_refused_without_an_encoder(tiny):
    tiny.generator_optimizer.encoder_lr_ratio = 0.1
    with pytest.raises(UserError, match='the generator UNet has no pretrained encoder'):
        state_lib.check_networks(model_lib.make_model(tiny), tiny)
