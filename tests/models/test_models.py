import json

import jax.numpy as jnp
import pytest
from flax import linen as nn
from ml_collections import ConfigDict

from chromagan_jax import models
from chromagan_jax.errors import UserError


class OneConv(nn.Module):
    """The smallest generator there is."""

    channels: int
    gain: float = 1.0

    @nn.compact
    def __call__(self, condition, train):
        return self.gain * nn.Conv(self.channels, (1, 1))(condition)


def test_a_config_becomes_a_network_with_its_fields(tiny):
    tiny.generator.dropout = 0.25
    tiny.color_space = 'rgb'
    generator = models.make_generator(tiny)
    assert (generator.width, generator.dropout, generator.channels) == (4, 0.25, 3)
    assert models.make_discriminator(tiny).layers == 3


def test_types_of_the_config_reach_the_network(tiny):
    tiny.dtype = 'bfloat16'
    assert jnp.dtype(models.make_generator(tiny).dtype) == jnp.bfloat16


def test_a_generator_is_added_by_naming_it(tiny, monkeypatch):
    monkeypatch.setitem(models.GENERATORS, 'one_conv', OneConv)
    tiny.generator = {'name': 'one_conv', 'gain': 2.0}
    assert models.make_generator(tiny) == OneConv(channels=2, gain=2.0)


def test_a_network_from_a_saved_config_is_the_same(tiny):
    tiny.generator.widths = (4, 8, 8)
    saved = ConfigDict(json.loads(json.dumps(tiny.to_dict())))
    assert models.make_generator(saved) == models.make_generator(tiny)
    hash(models.make_generator(saved))


def test_a_field_that_the_network_lacks_is_an_error_that_says_so(tiny, monkeypatch):
    monkeypatch.setitem(models.GENERATORS, 'one_conv', OneConv)
    tiny.generator.name = 'one_conv'
    with pytest.raises(UserError, match=r"'one_conv' has no .*, width; it has gain"):
        models.make_generator(tiny)


def test_a_misspelt_field_is_met_with_the_right_one(tiny):
    tiny.generator = {'name': 'unet', 'widht': 8}
    with pytest.raises(UserError, match=r'no widht; did you mean generator\.width\?'):
        models.make_generator(tiny)


def test_an_unknown_network_is_met_with_the_known_ones(tiny):
    tiny.discriminator.name = 'pitch'
    with pytest.raises(UserError, match=r"discriminator.name is 'pitch'; choose one of patch"):
        models.make_discriminator(tiny)


def test_remat_is_refused_by_a_network_that_cannot(tiny, monkeypatch):
    monkeypatch.setitem(models.GENERATORS, 'one_conv', OneConv)
    tiny.generator = {'name': 'one_conv'}
    tiny.remat = True
    with pytest.raises(UserError, match='cannot rematerialise'):
        models.make_generator(tiny)


def test_a_class_head_that_the_teacher_does_not_fit_is_an_error(tiny):
    tiny.generator = {'name': 'chromagan', 'classes': 10}
    tiny.objective.classes = 0.003
    tiny.vgg16 = 'vgg16.npz'
    with pytest.raises(UserError, match=r'generator\.classes is 10, and vgg16 knows 1000'):
        models.make_generator(tiny)


@pytest.mark.parametrize('field', models.PRETRAINED)
def test_a_file_of_weights_that_is_missing_is_named_with_its_field(tiny, field):
    tiny[field] = 'nowhere.npz'
    with pytest.raises(UserError, match=rf'^{field}: .*nowhere\.npz'):
        models.load_pretrained(tiny)


def test_only_the_files_asked_for_are_read(tiny):
    tiny.squeezenet = 'nowhere.npz'
    assert models.load_pretrained(tiny, ['vgg16']) == {}
