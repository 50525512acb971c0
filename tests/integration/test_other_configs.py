"""The contract holds for more than the base config: two others through the same loop."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

from chromagan_jax import models
from chromagan_jax.config.schema import LossConfig
from chromagan_jax.models.layers import output_activation
from chromagan_jax.training import loop

pytestmark = pytest.mark.slow


class TwoHeads(nn.Module):
    """A generator with a class head, as ChromaGAN's, in three layers."""

    channels: int = 2
    classes: int = 2

    @nn.compact
    def __call__(self, condition, train):
        features = nn.relu(nn.Conv(8, (3, 3))(condition))
        target = output_activation(nn.Conv(self.channels, (3, 3))(features), self.channels)
        return models.Classified(target, nn.Dense(self.classes)(features.mean((1, 2))))


@pytest.fixture
def photographs(tmp_path):
    """Four photographs in two sub-folders, which are their classes."""
    rng = np.random.default_rng(0)
    for number in range(4):
        path = tmp_path / 'data' / ('cats', 'dogs')[number % 2] / f'{number}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), np.uint8)).save(path)
    return str(tmp_path / 'data')


@pytest.fixture
def rgb(tiny):
    """Gray -> RGB with a discriminator that sees the picture alone."""
    tiny.color_space = 'rgb'
    tiny.generator = tiny.generator.clone(depth=2)
    tiny.discriminator = tiny.discriminator.clone(layers=1, conditional=False)
    tiny.loss.weights = {'adversarial': 0.1, 'mse': 1.0}
    tiny.ema_decay = 0.0
    return tiny


@pytest.fixture
def wgan(tiny, photographs, monkeypatch):
    """WGAN-GP with a class head that learns from labels."""
    monkeypatch.setitem(models.GENERATORS, 'two_heads', TwoHeads)
    tiny.generator = TwoHeads(classes=2)
    tiny.discriminator = tiny.discriminator.clone(layers=1, norm='none')
    tiny.loss = LossConfig(
        adversarial='wgan',
        weights={'adversarial': 0.1, 'mse': 1.0, 'classes': 0.003},
        label_smoothing=0.0,
        gradient_penalty_weight=10.0,
    )
    tiny.discriminator_steps = 1
    tiny.data.source = photographs
    tiny.data.labels = True
    return tiny


@pytest.mark.parametrize('name', ['rgb', 'wgan'])
def test_the_config_trains_resumes_and_evaluates_like_base(name, request, tmp_path):
    config = request.getfixturevalue(name)
    whole = loop.train_and_evaluate(config, tmp_path / 'whole')
    config.steps = 2
    loop.train_and_evaluate(config, tmp_path / 'parts')
    config.steps = 4
    resumed = loop.train_and_evaluate(config, tmp_path / 'parts')
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    lines = [json.loads(line) for line in (tmp_path / 'parts/metrics.jsonl').open()]
    assert [line['step'] for line in lines if 'generator/loss' in line] == [1, 2, 3, 4]
    assert all(line['eval/images'] > 0 for line in lines if 'eval/psnr' in line)
    assert (tmp_path / 'parts/samples/step_00000004.png').exists()


def test_the_class_head_learns_from_the_labels_and_the_critic_pays_the_penalty(wgan, tmp_path):
    wgan.loss.weights['classes'] = 1.0
    wgan.generator_optimizer.learning_rate = 0.01
    wgan.steps = 30
    wgan.eval_every = wgan.sample_every = 0
    loop.train_and_evaluate(wgan, tmp_path / 'run')
    lines = [json.loads(line) for line in (tmp_path / 'run/metrics.jsonl').open()]
    classes = [line['generator/classes'] for line in lines]
    np.testing.assert_allclose(classes[0], np.log(2), atol=0.1)
    assert np.mean(classes[-5:]) < classes[0]
    assert all(line['discriminator/gradient_penalty'] > 0 for line in lines)


def test_targets_of_an_rgb_config_are_pictures(rgb, tmp_path):
    loop.train_and_evaluate(rgb, tmp_path / 'run')
    with Image.open(tmp_path / 'run/samples/step_00000004.png') as grid:
        assert np.asarray(grid).std() > 10
