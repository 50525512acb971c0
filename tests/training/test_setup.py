import contextlib
import copy
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from chromagan_jax import sharding
from chromagan_jax.data.inputs import open_sources
from chromagan_jax.errors import UserError
from chromagan_jax.gan import checkpoints, released
from chromagan_jax.gan.model import load_pretrained, make_model
from chromagan_jax.models.chromagan import TwoBranch
from chromagan_jax.models.pretrained import squeezenet, vgg
from chromagan_jax.training import setup


@pytest.fixture
def chromagan(tiny):
    tiny.generator = TwoBranch(width=4, classes=10)
    tiny.loss.weights['classes'] = 0.003
    return tiny


def said_by(config, tmp_path, capfd):
    setup.log_run_info(config, tmp_path, *open_sources(config))
    return capfd.readouterr().err


@pytest.mark.parametrize(
    ('labels', 'file', 'sentence'),
    [
        (False, '', 'the class head and its loss are disabled: set pretrained.vgg16'),
        (True, '', 'the class head learns from the labels of the data'),
        (True, 'vgg16.npz', 'the class head learns from VGG16 in vgg16.npz'),
    ],
)
def test_a_run_says_what_its_class_head_learns(chromagan, tmp_path, capfd, labels, file, sentence):
    sources = open_sources(chromagan)
    chromagan.pretrained['vgg16'], chromagan.data.labels = file, labels
    setup.log_run_info(chromagan, tmp_path, *sources)
    assert sentence in capfd.readouterr().err


def test_a_run_without_a_class_term_does_not_speak_of_it(tiny, tmp_path, capfd):
    assert 'the class' not in said_by(tiny, tmp_path, capfd)


def started(config, tmp_path, **pretrained):
    mesh = sharding.make_mesh()
    model = make_model(config, mesh)
    said = []
    manager = checkpoints.open_checkpoints(tmp_path, 1)
    with checkpoints.finishing(manager):
        state = setup.starting_state(config, model, mesh, manager, pretrained, said.append)
        checkpoints.save(manager, int(state.step), state)
    return state, said


@pytest.mark.slow
def test_a_backbone_starts_from_vgg16_once_and_is_then_resumed(chromagan, tmp_path):
    chromagan.loss.weights['classes'] = 0.0
    seen = np.zeros((1, 32, 32, 3), np.float32)
    file = jax.jit(vgg.VGG16(width=4, classes=3).init)(jax.random.key(7), seen)['params']
    _, said = started(chromagan, tmp_path / 'scratch')
    assert said == [
        "the generator's VGG16 starts from random weights: set pretrained.vgg16 to a file"
    ]
    chromagan.pretrained['vgg16'] = 'vgg16.npz'
    state, said = started(chromagan, tmp_path / 'file', vgg16=file)
    assert said == ["the generator's VGG16 starts from vgg16.npz"]
    kernel = state.generator.params['backbone']['conv4_3']['kernel']
    np.testing.assert_array_equal(kernel, file['conv4_3']['kernel'])
    other = jax.tree.map(lambda leaf: leaf + 1, file)
    again, said = started(chromagan, tmp_path / 'file', vgg16=other)
    assert said == ['resumed from step 0']
    np.testing.assert_array_equal(again.generator.params['backbone']['conv4_3']['kernel'], kernel)


@pytest.mark.slow
def test_an_encoder_starts_from_squeezenet_in_the_weights_and_their_average(
    tiny, tmp_path, features
):
    tiny.generator = tiny.generator.clone(encoder='squeezenet')
    tiny.pretrained['squeezenet'] = str(features)
    state, said = started(tiny, tmp_path, **load_pretrained(tiny.pretrained))
    assert said == [f"the generator's SqueezeNet starts from {features}"]
    file = squeezenet.load(features)
    for params in (state.generator.params, state.ema['params']):
        assert set(params['squeezenet']) == set(file)
        jax.tree.map(np.testing.assert_array_equal, params['squeezenet'], file)


def test_a_network_without_a_backbone_says_nothing_of_one(small, tmp_path):
    assert started(small, tmp_path)[1] == []


@pytest.mark.slow
def test_a_run_starts_from_the_released_generator_and_a_new_discriminator(
    small, tmp_path, monkeypatch
):
    plain, _ = started(small, tmp_path / 'plain')
    variables = jax.tree.map(
        lambda x: np.asarray(x) + 1,
        {'params': plain.generator.params, 'batch_stats': plain.generator.batch_stats},
    )
    trained = released.Trained('the release', small, small.generator, variables, 7)
    monkeypatch.setattr(released, 'load', lambda mesh: trained)
    config = copy.deepcopy(small)
    config.init_from = 'released'
    config.discriminator = config.discriminator.clone(width=6)
    state, said = started(config, tmp_path / 'new')
    assert said == ['starts from the released weights of the generator']
    for found in (state.generator.params, state.ema['params']):
        jax.tree.map(np.testing.assert_array_equal, found, variables['params'])
    assert int(state.step) == 0
    config.generator = config.generator.clone(width=6)
    with pytest.raises(UserError, match=r'weights in the release .* generator\.width='):
        started(config, tmp_path / 'other')


def test_a_teacher_is_placed_whole_and_only_where_the_model_has_one(chromagan):
    mesh = sharding.make_mesh()
    model = make_model(chromagan, mesh)
    weights = {'vgg16': {'fc8': {'bias': np.ones(3)}}}
    assert setup.place_frozen(model, weights, 32, mesh) == {}
    model = model._replace(teacher=vgg.VGG16())
    placed = setup.place_frozen(model, weights, 32, mesh)['teacher']
    assert len(placed['fc8']['bias'].sharding.device_set) == 8
    np.testing.assert_array_equal(placed['fc8']['bias'], np.ones(3))


def test_the_cpu_computes_in_the_thread_that_asks_and_not_without_being_told():
    """In processes of their own: JAX wants to know before it is used."""
    program = """
import time
import jax
from chromagan_jax import sharding
{told}
ones = jax.numpy.ones(4096)
work = jax.jit(lambda x: jax.lax.fori_loop(0, 3000, lambda i, y: jax.numpy.sin(y) + x, x))
jax.block_until_ready(work(ones))
thread, process = time.thread_time(), time.process_time()
jax.block_until_ready(work(ones))
print(round((time.thread_time() - thread) / (time.process_time() - process)))
"""
    environment = {**os.environ, 'XLA_FLAGS': ''}
    for told, expected in (('sharding.disable_async_cpu_dispatch()', '1'), ('', '0')):
        command = [sys.executable, '-c', program.format(told=told)]
        answer = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        )
        assert answer.stdout.strip() == expected


def test_more_classes_than_the_class_head_has_are_refused(chromagan, tmp_path):
    for name in range(11):
        (tmp_path / f'{name:02d}').mkdir()
        Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / f'{name:02d}/a.png')
    chromagan.data.source, chromagan.data.labels = str(tmp_path), True
    with (
        contextlib.ExitStack() as stack,
        pytest.raises(UserError, match=r'11 classes and the class head 10: set generator\.classes'),
    ):
        setup.open_run(chromagan, tmp_path / 'run', stack)
    assert not (tmp_path / 'run').exists()


def test_processes_that_see_different_photographs_are_refused(tiny, monkeypatch):
    sources = open_sources(tiny)

    def two_processes(own):
        other = own.copy()
        other[0] -= 2
        return np.stack([own, other])

    setup._check_same_data(tiny, *sources)
    monkeypatch.setattr(setup.multihost_utils, 'process_allgather', two_processes)
    with pytest.raises(UserError, match=r'different photographs in sample \(4 to 6\)'):
        setup._check_same_data(tiny, *sources)
