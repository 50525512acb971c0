import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.measure

from chromagan_jax.errors import UserError
from chromagan_jax.gan import losses
from chromagan_jax.models import layers as layers_lib
from chromagan_jax.models.patch import PatchGAN

KEY = jax.random.key(0)


def pair(size, seed=0):
    keys = jax.random.split(jax.random.key(seed))
    return jax.random.normal(keys[0], (1, size, size, 1)), jax.random.normal(
        keys[1], (1, size, size, 2)
    )


def shapes(module, size):
    inputs = [jax.ShapeDtypeStruct((1, size, size, c), jnp.float32) for c in (1, 2)]
    return jax.eval_shape(lambda *x: module.init_with_output(KEY, *x, train=True), *inputs)


@pytest.mark.parametrize(
    ('fields', 'size', 'logits', 'parameters'),
    [
        ({}, 256, 30, 2_765_633),  # pix2pix
        ({'norm': 'none', 'slope': 0.3, 'same': True}, 224, 28, 2_764_737),  # ChromaGAN
        ({'norm': 'none', 'spectral_norm': True}, 256, 30, 2_764_737),
    ],
)
def test_patch_gan_has_the_parameters_and_logits_of_its_reference(fields, size, logits, parameters):
    out, variables = shapes(PatchGAN(**fields), size)
    assert out.shape == (1, logits, logits, 1)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables['params'])) == parameters


def test_checkpoints_of_the_plain_network_keep_their_names():
    _, variables = shapes(PatchGAN(width=4, layers=1), 16)
    names = jax.tree.map(jnp.shape, variables['params'])
    assert names == {
        'conv_0': {'conv': {'kernel': (2, 2, 12, 4), 'bias': (4,)}},
        'conv_1': {'conv': {'kernel': (4, 4, 4, 8)}, 'norm': {'scale': (8,), 'bias': (8,)}},
        'out': {'kernel': (4, 4, 8, 1), 'bias': (1,)},
    }
    assert set(variables['batch_stats']) == {'conv_1'}


@pytest.mark.parametrize(
    ('layers', 'stride', 'pixels'), [(3, 1, 70), (2, 1, 34), (1, 1, 16), (2, 2, 68)]
)
def test_a_logit_sees_one_patch(layers, stride, pixels):
    module = PatchGAN(width=4, layers=layers, norm='none', target_stride=stride)
    condition, target = pair(96)
    variables = jax.jit(lambda: module.init(KEY, condition, target, train=True))()

    def logit(target):
        out = module.apply(variables, condition, target, train=True)
        return out[0, out.shape[1] // 2, out.shape[2] // 2, 0]

    rows = np.flatnonzero(np.abs(jax.jit(jax.grad(logit))(target)[0]).sum((1, 2)))
    assert rows[-1] - rows[0] + 1 == pixels


@pytest.mark.slow
def test_colours_of_a_stride_are_judged_by_their_means_beside_all_of_the_lightness():
    module = PatchGAN(width=4, layers=1, norm='none', target_stride=4)
    condition, target = pair(48)
    variables = module.init(KEY, condition, target, train=True)
    judge = jax.jit(lambda *pictures: module.apply(variables, *pictures, train=True))
    logits = judge(condition, target)
    assert logits.shape == (1, 4, 4, 1)
    pooled = skimage.measure.block_reduce(np.asarray(target), (1, 4, 4, 1), np.mean)
    flat = pooled.repeat(4, axis=1).repeat(4, axis=2)
    np.testing.assert_allclose(judge(condition, flat), logits, atol=1e-6)
    assert jnp.abs(judge(condition, jnp.roll(target, 2, 1)) - logits).max() > 1e-4
    for pixel in np.ndindex(4, 4):
        changed = condition.at[0, 16 + pixel[0], 16 + pixel[1]].add(1)
        assert jnp.abs(judge(changed, target) - logits).max() > 1e-5


@pytest.mark.parametrize(
    ('fields', 'size', 'channels', 'sentence'),
    [
        ({'target_stride': 3}, 48, 2, 'discriminator.target_stride must be 1, 2, 4'),
        ({'target_stride': 2}, 48, 3, "must be 1 unless color_space is 'lab', not 2"),
        ({'target_stride': 4, 'layers': 1}, 50, 2, 'which does not divide 50 x 50 px'),
        ({'target_stride': 2}, 32, 2, 'A PatchGAN of 3 layers needs pictures of 48 px or more'),
    ],
)
def test_an_impossible_target_stride_is_named(fields, size, channels, sentence):
    inputs = [jax.ShapeDtypeStruct((1, size, size, c), jnp.float32) for c in (1, channels)]
    with pytest.raises(UserError, match=sentence):
        jax.eval_shape(lambda *x: PatchGAN(**fields).init(KEY, *x, train=True), *inputs)


@pytest.mark.parametrize('conditional', [True, False])
def test_conditional_says_whether_the_condition_matters(conditional):
    module = PatchGAN(width=4, layers=1, norm='none', conditional=conditional)
    condition, target = pair(16)
    variables = module.init(KEY, condition, target, train=True)
    judge = lambda condition: module.apply(variables, condition, target, train=True)
    assert jnp.array_equal(judge(condition), judge(-condition)) is not conditional


def test_too_small_a_picture_is_named():
    with pytest.raises(UserError, match='24 px or more, not 16 x 16'):
        shapes(PatchGAN(), 16)
    assert shapes(PatchGAN(), 24)[0].shape == (1, 1, 1, 1)
    with pytest.raises(UserError, match='8 px or more, not 7 x 7'):
        shapes(PatchGAN(same=True), 7)
    assert shapes(PatchGAN(same=True), 8)[0].shape == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ('module', 'sentence'),
    [
        (PatchGAN(slope=1.0), 'discriminator.slope must be 0 <= x < 1, not 1.0'),
        (PatchGAN(norm='layer'), "discriminator.norm is 'layer'"),
    ],
)
def test_impossible_fields_are_named(module, sentence):
    with pytest.raises(UserError, match=sentence):
        shapes(module, 64)


def spectral(passes=300, **fields):
    """A network with spectral norm, its variables after `passes` training passes, and inputs."""
    module = PatchGAN(width=4, layers=2, norm='none', spectral_norm=True, **fields)
    inputs = pair(16)

    @jax.jit
    def train():
        variables = module.init(KEY, *inputs, train=True)

        def one(stats, _):
            full = variables | {'batch_stats': stats}
            _, new = module.apply(full, *inputs, train=True, mutable=['batch_stats'])
            return new['batch_stats'], None

        stats, _ = jax.lax.scan(one, variables['batch_stats'], length=passes)
        return variables | {'batch_stats': stats}

    return module, train(), inputs


def test_spectral_norm_divides_every_kernel_by_its_largest_singular_value():
    module, variables, inputs = spectral()

    def divided(path, leaf):
        if path[-1].key != 'kernel':
            return leaf
        plain = layers_lib.down_kernel_to_hwio(leaf) if leaf.shape[0] == 2 else leaf
        return leaf / np.linalg.svd(plain.reshape(-1, leaf.shape[-1]), compute_uv=False)[0]

    params = jax.tree.map_with_path(divided, variables['params'])
    plain = PatchGAN(width=4, layers=2, norm='none')
    expected = jax.jit(lambda: plain.apply({'params': params}, *inputs, False))()
    for train in (False, True):
        apply = lambda train=train: module.apply(variables, *inputs, train, mutable=['batch_stats'])
        np.testing.assert_allclose(jax.jit(apply)()[0], expected, rtol=1e-4)


def test_the_power_iteration_goes_on_in_training_only():
    module, variables, inputs = spectral(passes=0)
    apply = jax.jit(
        lambda train: module.apply(variables, *inputs, train, mutable=['batch_stats']),
        static_argnums=0,
    )
    before, at_test, trained = variables['batch_stats'], apply(False)[1], apply(True)[1]
    assert jax.tree.all(jax.tree.map(jnp.array_equal, at_test['batch_stats'], before))
    assert jax.tree.structure(trained['batch_stats']) == jax.tree.structure(before)
    moved = trained['batch_stats']['conv_1']['spectral_norm']
    assert not jnp.array_equal(
        moved['conv/kernel/u'], before['conv_1']['spectral_norm']['conv/kernel/u']
    )


@pytest.mark.slow
def test_remat_changes_no_gradient_under_spectral_norm():
    _, variables, inputs = spectral(passes=3)
    gradients = []
    for remat in (False, True):
        module = PatchGAN(width=4, layers=2, norm='none', spectral_norm=True, remat=remat)

        def loss(params, module=module):
            full = variables | {'params': params}
            out, _ = module.apply(full, *inputs, True, mutable=['batch_stats'])
            return jnp.square(out).sum()

        gradients.append(jax.jit(jax.grad(loss))(variables['params']))
    for a, b in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_the_gradient_penalty_differentiates_through_spectral_norm():
    # Nearly linear, lest finite differences step over the kinks of LeakyReLU.
    module, variables, (condition, real) = spectral(slope=0.999)
    fake = pair(16, seed=1)[1]

    @jax.jit
    def penalty(params):
        full = variables | {'params': params}

        def critic(target):
            return module.apply(full, condition, target, True, mutable=['batch_stats'])[0]

        return losses.gradient_penalty(critic, real, fake, KEY)

    gradient = jax.jit(jax.grad(penalty))(variables['params'])
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    for name in ('conv_0', 'conv_1', 'conv_2', 'out'):
        direction = jax.tree.map_with_path(
            lambda path, leaf, name=name: (
                leaf.std() * jax.random.normal(KEY, leaf.shape) * (path[0].key == name)
            ),
            variables['params'],
        )
        moved = lambda e, d=direction: jax.tree.map(lambda p, d: p + e * d, variables['params'], d)
        slope = (penalty(moved(1e-2)) - penalty(moved(-1e-2))) / 2e-2
        expected = sum(
            jnp.vdot(a, b)
            for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
        )
        np.testing.assert_allclose(slope, expected, rtol=0.02, atol=1e-4)
