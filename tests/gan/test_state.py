import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chromagan_jax import sharding
from chromagan_jax.errors import UserError
from chromagan_jax.gan import state as state_lib
from chromagan_jax.gan.model import make_model
from chromagan_jax.models.chromagan import TwoBranch
from chromagan_jax.models.lite_unet import LiteUNet
from chromagan_jax.models.pretrained import vgg


def test_a_new_state_has_the_shapes_types_and_places_of_the_abstract_one(small):
    mesh = sharding.make_mesh(2)
    model = make_model(small, mesh)
    abstract = state_lib.abstract_state(model, small, mesh)
    state = state_lib.create_state(model, small, mesh)
    assert jax.tree.structure(state) == jax.tree.structure(abstract)
    for leaf, shape in zip(jax.tree.leaves(state), jax.tree.leaves(abstract), strict=True):
        assert (leaf.shape, leaf.dtype) == (shape.shape, shape.dtype)
        assert leaf.sharding.is_equivalent_to(shape.sharding, leaf.ndim)


@pytest.mark.slow
def test_the_seed_decides_the_weights_and_the_mesh_does_not(small):
    def weights(seed, devices, fsdp=1):
        mesh = sharding.make_mesh(fsdp, devices)
        small.seed = seed
        state = state_lib.create_state(make_model(small, mesh), small, mesh)
        return np.concatenate([np.ravel(x) for x in jax.tree.leaves(state.generator.params)])

    alone = weights(0, jax.devices()[:1])
    np.testing.assert_array_equal(alone, weights(0, jax.devices(), 4))
    assert not np.array_equal(alone, weights(1, jax.devices()[:1]))


def test_a_new_state_starts_finite_and_at_step_0(small):
    mesh = sharding.make_mesh()
    state = state_lib.create_state(make_model(small, mesh), small, mesh)
    assert (state.step, state.first_nonfinite_step, state.plateau.scale) == (0, -1, 1.0)
    average = state_lib.generator_variables(state)
    assert jnp.array_equal(
        average['params']['out']['kernel'], state.generator.params['out']['kernel']
    )


def test_a_state_can_be_donated(small):
    mesh = sharding.make_mesh()
    state = state_lib.create_state(make_model(small, mesh), small, mesh)
    pointers = [leaf.unsafe_buffer_pointer() for leaf in _first_shards(state)]
    assert len(pointers) == len(set(pointers))  # no buffer stands in it twice


def _first_shards(state):
    leaves = [x for x in jax.tree.leaves(state) if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)]
    return [leaf.addressable_shards[0].data for leaf in leaves]


def test_abstract_batches_carry_micro_batches_and_labels(small):
    small.grad_accum_steps = 2
    small.batch_size = 32
    small.data.labels = True
    batch = state_lib.abstract_batch(small, sharding.make_mesh())
    assert {name: leaf.shape for name, leaf in batch.items()} == {
        'condition': (2, 16, 16, 16, 1),
        'target': (2, 16, 16, 16, 2),
        'label': (2, 16),
    }
    assert batch['label'].dtype == jnp.int32


def test_sizes_of_training_and_evaluation_are_checked_before_anything_is_computed(small):
    model = make_model(small)
    state_lib.check_networks(model, small)
    small.eval.size = 18
    with pytest.raises(UserError, match='takes sides that 4 divides, not 18 x 18'):
        state_lib.check_networks(model, small)
    small.eval.size, small.data.size = 16, 4
    with pytest.raises(UserError, match='PatchGAN of 1 layers needs pictures of 6 px'):
        state_lib.check_networks(model, small)


def test_a_class_loss_needs_a_class_head(small):
    small.loss.weights['classes'] = 1.0
    small.data.labels = True
    with pytest.raises(UserError, match=r'loss\.weights\.classes .* UNet has no class head'):
        state_lib.check_networks(make_model(small), small)


def test_weights_of_vgg16_need_a_generator_that_is_built_on_them(small):
    small.pretrained['vgg16'] = 'vgg16.npz'
    with pytest.raises(UserError, match=r'^pretrained\.vgg16 .* UNet is not built on VGG16'):
        state_lib.check_networks(make_model(small), small)
    small.pretrained['vgg16'], small.pretrained['squeezenet'] = '', 'squeezenet.npz'
    with pytest.raises(UserError, match=r'^pretrained\.squeezenet .* not built on SqueezeNet'):
        state_lib.check_networks(make_model(small), small)


def test_the_perceptual_loss_takes_its_file_beside_any_generator(small):
    small.loss.weights['perceptual'] = 1.0
    small.pretrained['efficientnet_lite'] = 'lite0.safetensors'
    model = make_model(small)
    state_lib.check_networks(model, small)
    assert model.features.encoder == 'lite0'
    small.generator = LiteUNet(encoder='lite2')
    assert make_model(small).features.encoder == 'lite2'  # of the same file


def test_hints_need_colours_in_lab(small):
    small.generator = LiteUNet(hints=True, output_stride=1, decoder_widths=(8,) * 6)
    small.color_space = 'rgb'
    with pytest.raises(UserError, match=r'generator\.hints needs color_space lab'):
        state_lib.check_networks(make_model(small), small)


def test_the_class_head_and_its_term_are_there_if_something_teaches_them(small):
    small.generator = TwoBranch(width=4)
    small.data.size = 32
    small.loss.weights['classes'] = 0.003

    def layout():
        model = make_model(small)
        shapes = jax.eval_shape(lambda: state_lib.init_state(model, jax.random.key(0), (32, 32, 2)))
        assert ('class_0' in shapes.generator.params) == (model.loss.weights['classes'] > 0)
        return model.loss.weights['classes'], model.teacher is not None

    assert layout() == (0.0, False)
    small.data.labels = True
    assert layout() == (0.003, False)
    small.pretrained['vgg16'] = 'vgg16.npz'
    assert layout() == (0.003, True)


@pytest.mark.slow
def test_the_backbone_and_its_average_start_from_vgg16(small):
    small.generator = TwoBranch(width=4, classes=0)
    small.data.size = 32
    mesh = sharding.make_mesh()
    state = state_lib.create_state(make_model(small, mesh), small, mesh)
    seen = jnp.zeros((1, 32, 32, 3))
    teacher = jax.jit(vgg.VGG16(width=4, classes=3).init)(jax.random.key(5), seen)['params']
    started = state_lib.with_backbone(state, 'vgg16', teacher)
    for params in (started.generator.params, started.ema['params']):
        backbone = params['backbone']
        assert 'conv4_3' in backbone
        assert 'fc6' not in backbone
        for name in backbone:
            np.testing.assert_array_equal(backbone[name]['kernel'], teacher[name]['kernel'])
    others = [k for k in state.generator.params if k != 'backbone']
    for name in others:
        jax.tree.map(
            np.testing.assert_array_equal,
            started.generator.params[name],
            state.generator.params[name],
        )
    pointers = [leaf.unsafe_buffer_pointer() for leaf in _first_shards(started)]
    assert len(pointers) == len(set(pointers))  # it can be donated
    wider = jax.tree.map(lambda leaf: np.ones((*leaf.shape, 2)), teacher)
    with pytest.raises(UserError, match=r'set generator\.width to 64'):
        state_lib.with_backbone(state, 'vgg16', wider)
