import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chromagan_jax.errors import UserError
from chromagan_jax.models.patch import PatchGAN

KEY = jax.random.key(0)


def pair(size, seed=0):
    keys = jax.random.split(jax.random.key(seed))
    return jax.random.normal(keys[0], (1, size, size, 1)), jax.random.normal(
        keys[1], (1, size, size, 2)
    )


def test_patch_gan_has_the_parameters_and_logits_of_pix2pix():
    inputs = [jax.ShapeDtypeStruct((1, 256, 256, c), jnp.float32) for c in (1, 2)]
    out, variables = jax.eval_shape(
        lambda *x: PatchGAN().init_with_output(KEY, *x, train=True), *inputs
    )
    assert out.shape == (1, 30, 30, 1)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables['params'])) == 2_765_633


@pytest.mark.parametrize(('layers', 'pixels'), [(3, 70), (2, 34), (1, 16)])
def test_a_logit_sees_one_patch(layers, pixels):
    module = PatchGAN(width=4, layers=layers, norm='none')
    condition, target = pair(96)
    variables = module.init(KEY, condition, target, train=True)

    def logit(target):
        out = module.apply(variables, condition, target, train=True)
        return out[0, out.shape[1] // 2, out.shape[2] // 2, 0]

    rows = np.flatnonzero(np.abs(jax.grad(logit)(target)[0]).sum((1, 2)))
    assert rows[-1] - rows[0] + 1 == pixels


@pytest.mark.parametrize('conditional', [True, False])
def test_conditional_says_whether_the_condition_matters(conditional):
    module = PatchGAN(width=4, layers=1, norm='none', conditional=conditional)
    condition, target = pair(16)
    variables = module.init(KEY, condition, target, train=True)
    judge = lambda condition: module.apply(variables, condition, target, train=True)
    assert jnp.array_equal(judge(condition), judge(-condition)) is not conditional


def test_too_small_a_picture_is_named():
    with pytest.raises(UserError, match='24 px or more, not 16 x 16'):
        PatchGAN().init(KEY, *pair(16), train=True)
    out, _ = PatchGAN(width=2).init_with_output(KEY, *pair(24), train=True)
    assert out.shape == (1, 1, 1, 1)
