"""A generator whose encoder starts from a file of EfficientNet-Lite weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from chromagan_jax import sharding
from chromagan_jax.errors import UserError
from chromagan_jax.gan import state as state_lib
from chromagan_jax.gan.model import load_pretrained, make_model
from chromagan_jax.models.pretrained import efficientnet_lite
from configs import lite_unet as recipe
from tests.models import lite


@pytest.fixture(autouse=True)
def _shallow(monkeypatch):
    monkeypatch.setattr(efficientnet_lite, '_STAGES', lite.SHALLOW)


@pytest.fixture
def config():
    """As few layers as a lite_unet can have."""
    config = recipe.get_config()
    config.generator = config.generator.clone(decoder_widths=(8, 8, 8), output_stride=8)
    config.discriminator = config.discriminator.clone(width=4, layers=1, target_stride=1)
    config.data.size = 32
    return config


@pytest.fixture
def save(tmp_path):
    """Saves a random encoder; returns the path and the arrays."""

    def save_(variant):
        path, arrays = tmp_path / f'{variant}.safetensors', lite.encoder_arrays(variant, seed=1)
        safetensors.numpy.save_file(arrays, path)
        return str(path), arrays

    return save_


def new_state(config):
    """A state of arrays that are all 0, which no initialiser has to compute."""
    mesh = sharding.make_mesh()
    abstract = state_lib.abstract_state(make_model(config, mesh), config, mesh)
    zeros = lambda leaf: jax.device_put(jnp.zeros(leaf.shape, leaf.dtype), leaf.sharding)
    generator, ema = jax.tree.map(zeros, (abstract.generator, abstract.ema))
    return abstract.replace(generator=generator, ema=ema)


def started(config):
    weights = load_pretrained(config.pretrained)['efficientnet_lite']
    return state_lib.with_backbone(new_state(config), 'efficientnet_lite', weights)


def test_the_encoder_and_its_average_start_from_the_file(config, save):
    config.pretrained['efficientnet_lite'], arrays = save('lite0')
    state = started(config)
    for params in (state.generator.params, state.ema['params']):
        encoder = traverse_util.flatten_dict(params['encoder'], sep='/')
        assert encoder.keys() == arrays.keys()
        for name, array in arrays.items():
            assert encoder[name].dtype == jnp.float32
            np.testing.assert_array_equal(encoder[name], array)
        others = [
            leaf
            for name, part in params.items()
            if name != 'encoder'
            for leaf in jax.tree.leaves(part)
        ]
        assert others
        assert not any(jnp.any(leaf) for leaf in others)


@pytest.mark.parametrize(
    ('encoder', 'file'), [('lite0', 'lite1'), ('lite1', 'lite0'), ('lite2', 'lite1')]
)
def test_a_file_of_another_variant_is_named_with_the_fix(config, save, encoder, file):
    config.generator = config.generator.clone(encoder=encoder)
    config.pretrained['efficientnet_lite'], _ = save(file)
    with pytest.raises(UserError) as caught:
        started(config)
    assert str(caught.value) == (
        'pretrained.efficientnet_lite names a file of another shape than the EfficientNet-Lite of '
        'the generator: set generator.encoder to the network whose weights the file holds.'
    )


def test_a_file_needs_a_generator_that_is_built_on_it(tiny):
    tiny.pretrained['efficientnet_lite'] = 'lite0.safetensors'
    with pytest.raises(UserError, match="UNet is not built on EfficientNet-Lite: set it to ''"):
        state_lib.check_networks(make_model(tiny), tiny)
