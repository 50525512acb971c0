import json
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from chromagan_jax import config as config_lib
from chromagan_jax.errors import DivergedError, UserError
from chromagan_jax.gan import checkpoints
from chromagan_jax.models.projected import ProjectedDiscriminator
from chromagan_jax.training import loop, train_logger


@pytest.fixture
def folder(tmp_path):
    """A folder of eight photographs."""
    rng = np.random.default_rng(0)
    for number in range(8):
        path = tmp_path / f'data/{number}.png'
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(path)
    return tmp_path / 'data'


def quiet(config):
    config.eval_every = config.sample_every = 0
    config.checkpoint_every = 100
    return config


def metrics_of(workdir):
    return [json.loads(line) for line in (workdir / 'metrics.jsonl').open()]


def test_a_run_leaves_what_the_readme_says(small, trained):
    lines = metrics_of(trained)
    assert [line['step'] for line in lines if 'generator/loss' in line] == [1, 2, 3, 4]
    assert [line['step'] for line in lines if 'eval/psnr' in line] == [2, 4]
    assert set(lines[0]) >= {
        'generator/loss',
        'generator/adversarial',
        'generator/l1',
        'discriminator/loss',
        'discriminator/accuracy_real',
        'discriminator/accuracy_fake',
        'images_per_second',
    }
    described = json.loads((trained / 'config.json').read_text())
    assert described['config'] == json.loads(json.dumps(config_lib.to_dict(small)))
    assert described['data']['records'] == 6
    assert set(described['versions']) >= {'jax', 'flax', 'chromagan_jax', 'python'}
    assert sorted(p.name for p in (trained / 'samples').iterdir()) == [
        'step_00000002.png',
        'step_00000004.png',
    ]
    assert sorted(p.name for p in (trained / 'checkpoints').iterdir()) == ['2', '4']
    assert len(list((trained / 'best').iterdir())) == 1
    assert list((trained / 'tensorboard').rglob('events.*'))
    page = (trained / 'report.html').read_text()
    assert 'data-label="step 4"' in page  # the sample grid of the last step
    assert f'{lines[-1]["eval/psnr"]:.2f}' in page


def test_missing_weights_of_the_frozen_features_are_named_before_the_state_is_made(
    small, tmp_path, monkeypatch
):
    small.discriminator = ProjectedDiscriminator(head_width=8, patch_weight=0)
    small.data.size = small.eval.size = 32
    monkeypatch.setattr(loop, 'starting_state', lambda *_: pytest.fail('the state was made'))
    with pytest.raises(UserError, match=r'set pretrained\.efficientnet_lite to a file'):
        loop.train_and_evaluate(small, tmp_path / 'run')


def test_metrics_of_a_step_are_read_after_the_next_is_dispatched(small, tmp_path, monkeypatch):
    events = []
    compile_step = loop.compile_step

    def spied(*args):
        step = compile_step(*args)

        def dispatch(state, batch, frozen):
            events.append('dispatch')
            return step(state, batch, frozen)

        return dispatch

    device_get = jax.device_get

    def read(value):
        if isinstance(value, dict) and 'generator/loss' in value:
            events.append('read')
        return device_get(value)

    monkeypatch.setattr(loop, 'compile_step', spied)
    monkeypatch.setattr(jax, 'device_get', read)
    loop.train_and_evaluate(quiet(small), tmp_path)
    assert events == ['dispatch'] + ['dispatch', 'read'] * 3 + ['read']


@pytest.mark.slow
def test_nothing_is_compiled_after_the_first_step(small, tmp_path):
    compiled = []

    def count(event, seconds, **kwargs):
        if event.endswith('backend_compile_duration'):
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        quiet(small).log_every = 2
        counts = []
        for steps in (2, 10):
            small.steps = steps
            jax.clear_caches()
            compiled.clear()
            loop.train_and_evaluate(small, tmp_path / str(steps))
            counts.append(len(compiled))
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert counts[0] == counts[1] > 0


def test_lines_are_means_over_the_steps_since_the_last(small, trained, tmp_path):
    small.log_every = 2
    loop.train_and_evaluate(quiet(small), tmp_path)
    each = [line for line in metrics_of(trained) if 'generator/loss' in line]
    two = metrics_of(tmp_path)
    assert [line['step'] for line in two] == [2, 4]
    expected = np.mean([line['generator/loss'] for line in each[2:]])
    np.testing.assert_allclose(two[1]['generator/loss'], expected, rtol=1e-6)


def test_a_photograph_that_cannot_be_read_is_named_once_and_counted(small, folder, tmp_path, capfd):
    (folder / '3.png').write_bytes(b'no image')
    small.data.source = str(folder)
    loop.train_and_evaluate(quiet(small), tmp_path / 'run')  # four epochs
    assert capfd.readouterr().err.count('3.png cannot be read') == 1
    for name, count in {'unreadable': 1, 'no_image': 1, 'damaged': 0, 'no_file': 0}.items():
        assert [line[f'data/{name}'] for line in metrics_of(tmp_path / 'run')] == [count] * 4


@pytest.mark.slow
def test_a_run_whose_records_are_mostly_unreadable_ends_and_says_so(
    small, folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(train_logger, 'MIN_RECORDS', 16)
    for name in ('3.png', '5.png'):
        (folder / name).write_bytes(b'no image')
    small.data.source = str(folder)
    small.data.max_unreadable = 0.25  # and no more than that are
    loop.train_and_evaluate(quiet(small), tmp_path / 'good')
    small.data.max_unreadable = 0.2
    with pytest.raises(UserError, match=r'^4 of the last 16 records cannot be read, more than'):
        loop.train_and_evaluate(small, tmp_path / 'bad')


@pytest.mark.slow
def test_a_resume_on_other_data_is_refused_and_on_moved_data_is_not(small, folder, tmp_path):
    small.data.source = str(folder)
    quiet(small).steps = 1
    loop.train_and_evaluate(small, tmp_path / 'run')
    small.steps = 2
    moved = folder.rename(tmp_path / 'moved')
    small.data.source = str(moved)
    assert loop.train_and_evaluate(small, tmp_path / 'run').step == 2
    (moved / '7.png').unlink()
    small.steps = 3
    with pytest.raises(UserError, match=r'has other files .* \(7 records; 8 then\)'):
        loop.train_and_evaluate(small, tmp_path / 'run')


def test_a_finished_run_started_again_says_so_and_does_nothing(small, trained, tmp_path, capfd):
    workdir = shutil.copytree(trained, tmp_path / 'run')
    before = (workdir / 'metrics.jsonl').read_bytes()
    state = loop.train_and_evaluate(small, workdir)
    assert state.step == 4
    assert 'step 4 is the last one: nothing is left to do' in capfd.readouterr().err
    assert (workdir / 'metrics.jsonl').read_bytes() == before


@pytest.mark.slow
def test_init_from_starts_a_new_run_where_the_other_ended(small, trained, tmp_path, capfd):
    old = checkpoints.load(trained).state
    small.init_from = str(trained)
    small.generator_optimizer.learning_rate = 0.0  # so that the weights stay
    small.seed = 3
    new = loop.train_and_evaluate(quiet(small), tmp_path)
    assert 'starts from the weights in' in capfd.readouterr().err
    assert new.step == 4
    assert_same_bits(new.generator.params, old.ema['params'])
    # Its moving average began as that of the old run.
    same = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-8)
    jax.tree.map(same, new.ema['params'], old.ema['params'])


def test_the_best_state_of_a_run_whose_newest_states_are_gone_is_put_away(
    small, trained, tmp_path, capfd
):
    workdir = tmp_path / 'run'
    shutil.copytree(trained, workdir)
    shutil.rmtree(workdir / 'checkpoints')
    (before,) = (path.name for path in (workdir / 'best').iterdir())
    small.steps = 1
    small.eval_every = small.sample_every = 0
    loop.train_and_evaluate(small, workdir)
    assert f'best/{before} is of an earlier run and moved to replaced/' in capfd.readouterr().err
    assert (workdir / 'replaced' / before).is_dir()
    assert not any((workdir / 'best').iterdir())


def assert_same_bits(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.slow
def test_pretraining_comes_first_and_a_resume_knows_where_it_ends(small, tmp_path, capfd):
    small.pretrain_steps = 3
    small.sample_every = small.eval_every = 0
    whole = loop.train_and_evaluate(small, tmp_path / 'whole')
    lines = metrics_of(tmp_path / 'whole')
    assert ['discriminator/loss' in line for line in lines] == [False, False, False, True]
    assert optax.tree_utils.tree_get(whole.discriminator.opt_state, 'count') == 2
    assert 'compiled the pretrain step' in capfd.readouterr().err
    small.steps = 2
    loop.train_and_evaluate(small, tmp_path / 'parts')
    small.steps = 4
    assert_same_bits(loop.train_and_evaluate(small, tmp_path / 'parts'), whole)
    assert metrics_of(tmp_path / 'parts')[-1]['generator/loss'] == lines[-1]['generator/loss']


@pytest.mark.slow
def test_learning_rates_fall_where_evaluations_stop_improving(small, tmp_path, capfd):
    small.steps, small.eval_every, small.sample_every = 6, 1, 0
    small.reduce_lr_on_plateau.patience, small.reduce_lr_on_plateau.factor = 2, 0.5
    small.generator_optimizer.learning_rate = 1e-12  # nothing can improve
    small.ema_decay = 0.0
    small.generator = small.generator.clone(test_mode='batch')
    whole = loop.train_and_evaluate(small, tmp_path / 'whole')
    rates = [
        line['discriminator/learning_rate'] / small.discriminator_optimizer.learning_rate
        for line in metrics_of(tmp_path / 'whole')
        if 'generator/loss' in line
    ]
    np.testing.assert_allclose(rates, [1, 1, 1, 0.5, 0.5, 0.25], rtol=1e-6)
    said = 'ab_mae has not improved for 2 evaluations: the learning rates are now multiplied by 0.5'
    assert said in capfd.readouterr().err
    small.steps = 4
    loop.train_and_evaluate(small, tmp_path / 'parts')
    small.steps = 6
    assert_same_bits(loop.train_and_evaluate(small, tmp_path / 'parts'), whole)


def test_divergence_ends_the_run_and_saves_nothing_bad(small, tmp_path):
    small.generator_optimizer.learning_rate = 1e30
    small.checkpoint_every = 1
    small.steps = 20
    with pytest.raises(DivergedError, match=r'\w+/\w+ was not finite at step \d+') as error:
        loop.train_and_evaluate(small, tmp_path)
    step = int(str(error.value).split('at step ')[1].split(':')[0])
    saved = [int(path.name) for path in (tmp_path / 'checkpoints').iterdir()]
    assert max(saved) == step - 1


@pytest.mark.slow
def test_a_run_of_one_step_ends_with_the_flag_for_a_profile(small, tmp_path):
    small.steps = 1
    assert loop.train_and_evaluate(quiet(small), tmp_path, profile=True).step == 1
    assert not (tmp_path / 'profile').exists()


@pytest.mark.slow
def test_the_profile_holds_a_trace(small, tmp_path):
    quiet(small).steps = 6
    loop.train_and_evaluate(small, tmp_path, profile=True)
    (trace,) = (tmp_path / 'profile').rglob('*.xplane.pb')
    assert trace.stat().st_size > 1000
