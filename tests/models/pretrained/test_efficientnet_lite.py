import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from chromagan_jax.errors import UserError
from chromagan_jax.models.pretrained import efficientnet_lite
from chromagan_jax.models.pretrained.efficientnet_lite import Encoder
from tests.models import lite

KEY = jax.random.key(0)
# Parameters of the published networks: with a scale and a shift for each norm, and a classifier.
PUBLISHED = {'lite0': 4_652_008, 'lite1': 5_416_680, 'lite2': 6_092_072}


@pytest.fixture
def shallow(monkeypatch):
    """Encoders of seven or ten small blocks."""
    monkeypatch.setattr(efficientnet_lite, '_STAGES', lite.SHALLOW)


@pytest.mark.parametrize('variant', PUBLISHED)
def test_a_variant_has_the_parameters_of_the_published_one(variant):
    shapes = jax.eval_shape(Encoder(variant).init, KEY, jnp.zeros((1, 32, 32, 1)))['params']
    leaves = jax.tree.leaves(shapes)
    scales = sum(leaf.size for leaf in leaves if leaf.ndim == 1)  # folded in, one a shift
    last = efficientnet_lite.stages(variant)[-1].features
    head = last * 1280 + 2 * 1280 + 1280 * 1000 + 1000
    assert sum(leaf.size for leaf in leaves) + scales + head == PUBLISHED[variant]


def test_a_wider_variant_scales_all_stages_and_a_deeper_one_all_but_the_first_and_the_last():
    stages = efficientnet_lite.stages
    assert [s.features for s in stages('lite2')] == [16, 24, 48, 88, 120, 208, 352]
    assert [s.features for s in stages('lite1')] == [16, 24, 40, 80, 112, 192, 320]
    assert [s.blocks for s in stages('lite0')] == [1, 2, 2, 3, 3, 4, 1]
    assert [s.blocks for s in stages('lite1')] == [1, 3, 3, 4, 4, 5, 1]


@pytest.mark.usefixtures('shallow')
@pytest.mark.parametrize('size', [(1, 2), (33, 70), (64, 95)])
def test_maps_have_the_size_divided_by_their_stride_rounded_up(size):
    maps, _ = jax.eval_shape(Encoder().init_with_output, KEY, jnp.zeros((2, *size, 1)))
    for x, stride, features in zip(maps, (2, 4, 8, 16, 32), (8, 8, 8, 16, 40), strict=True):
        assert x.shape == (2, -(-size[0] // stride), -(-size[1] // stride), features)


@pytest.mark.usefixtures('shallow')
def test_gray_has_the_maps_of_a_picture_with_three_such_channels():
    gray = jax.random.uniform(KEY, (2, 16, 19, 1))
    variables = lite.random_variables(Encoder(), gray)
    apply = jax.jit(Encoder().apply)
    for ours, expected in zip(
        apply(variables, gray), apply(variables, gray.repeat(3, axis=-1)), strict=True
    ):
        np.testing.assert_allclose(ours, expected, atol=1e-5 * jnp.abs(expected).max())


@pytest.mark.parametrize('size', [(8, 9), (1, 6)])
def test_the_stem_is_a_convolution_of_stride_2_with_the_padding_same(size):
    x = jax.random.normal(KEY, (2, *size, 3))
    stem = efficientnet_lite.Stem(5, jnp.float32)
    variables = lite.random_variables(stem, x)
    kernel, bias = variables['params']['kernel'], variables['params']['bias']
    dimensions = ('NHWC', 'HWIO', 'NHWC')
    plain = jax.lax.conv_general_dilated(x, kernel, (2, 2), 'SAME', dimension_numbers=dimensions)
    expected = jnp.clip(plain + bias, 0, 6)
    np.testing.assert_allclose(stem.apply(variables, x), expected, atol=1e-5)


def test_remat_changes_the_memory_and_not_the_gradient(monkeypatch):
    monkeypatch.setattr(efficientnet_lite, '_STAGES', lite.SHALLOW[:2])
    x = jax.random.uniform(KEY, (1, 8, 8, 1))
    params = lite.random_variables(Encoder(), x)['params']

    def gradient(remat):
        loss = lambda params: sum(
            jnp.square(y).sum() for y in Encoder(remat=remat).apply({'params': params}, x)
        )
        return jax.grad(loss)

    assert str(jax.make_jaxpr(gradient(True))(params)).count('remat') >= 2
    plain, remat = (jax.jit(gradient(r))(params) for r in (False, True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), plain, remat)


def test_new_kernels_keep_the_scale_of_their_inputs():
    depthwise = efficientnet_lite.Depthwise(5, 1, jnp.float32)
    kernel = depthwise.init(KEY, jnp.zeros((1, 4, 4, 400)))['params']['kernel']
    assert kernel.shape == (5, 5, 400)
    assert jnp.std(kernel) == pytest.approx((2 / 25) ** 0.5, rel=0.05)


@pytest.mark.usefixtures('shallow')
def test_a_file_holds_the_parameters_in_any_float_type(tmp_path):
    arrays = lite.encoder_arrays('lite0')
    path = tmp_path / 'lite0.safetensors'
    half = {name: array.astype(np.float16) for name, array in arrays.items()}
    safetensors.numpy.save_file(half, path)
    params = efficientnet_lite.load(str(path))
    expected = lite.random_variables(Encoder(), jnp.zeros((1, 32, 32, 1)))['params']
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype('float32')}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), params, expected)


def test_what_is_no_file_of_an_encoder_is_named(tmp_path):
    def mistake(name):
        with pytest.raises(UserError) as caught:
            efficientnet_lite.load(tmp_path / name)
        sentence = str(caught.value)
        assert name in sentence
        assert sentence.endswith('.')
        assert '. ' not in sentence.replace('python -m tools.encoder', '')
        return sentence

    (tmp_path / 'lite0.pth').touch()
    (tmp_path / 'folder.safetensors').mkdir()
    for name in ('gone.safetensors', 'lite0.pth', 'folder.safetensors'):
        assert 'is not a .safetensors file' in mistake(name)
    (tmp_path / 'cut.safetensors').write_bytes(b'\x10\0\0\0\0\0\0\0{"stem/kernel"')
    assert 'cannot be read: it is damaged' in mistake('cut.safetensors')
    safetensors.numpy.save_file({'out/kernel': np.ones(3)}, tmp_path / 'other.safetensors')
    assert 'contains no EfficientNet-Lite encoder' in mistake('other.safetensors')
