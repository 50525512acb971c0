import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chromagan_jax import config as config_lib
from chromagan_jax import sharding
from chromagan_jax.errors import UserError
from chromagan_jax.gan import checkpoints
from chromagan_jax.gan import state as state_lib
from chromagan_jax.gan.init_from import load_weights
from chromagan_jax.gan.model import make_model
from chromagan_jax.gan.workdir import read_run
from chromagan_jax.utils import files


@pytest.fixture
def small(tiny):
    tiny.generator = tiny.generator.clone(depth=2, width=16)
    tiny.discriminator = tiny.discriminator.clone(layers=1)
    tiny.data.size = 16
    return tiny


MADE = {}  # compiling a state takes longer than any test of it


def state_of(config, mesh, step=0):
    """The first state of a config on a mesh, with another step, and its abstract state."""
    key = json.dumps(config_lib.to_dict(config))
    if key not in MADE:
        one = sharding.make_mesh(devices=jax.devices()[:1])
        MADE[key] = state_lib.create_state(make_model(config, one), config, one)
    abstract = state_lib.abstract_state(make_model(config, mesh), config, mesh)
    state = jax.device_put(MADE[key], jax.tree.map(lambda leaf: leaf.sharding, abstract))
    return state.replace(step=state.step + step), abstract


def write_config(workdir, config):
    described = {
        'schema_version': config_lib.SCHEMA_VERSION,
        'config': config_lib.to_dict(config),
    }
    files.write_json(workdir / 'config.json', described)


def leaves(state):
    return [
        np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
        for x in jax.tree.leaves(state)
    ]


def assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(leaves(a), leaves(b), strict=True):
        assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())


def silent(text):
    raise AssertionError(text)


def test_the_checksum_is_the_same_on_every_mesh_and_another_with_any_bit(small):
    state, _ = state_of(small, sharding.make_mesh(4))
    alone, _ = state_of(small, sharding.make_mesh(1, jax.devices()[:1]))
    assert int(state_lib.checksum(state)) == int(state_lib.checksum(alone))
    whole = {'a': np.arange(12, dtype=np.float32).reshape(3, 4), 'b': np.ones(5, np.int8)}
    expected = int(state_lib.checksum(whole))
    for name, leaf in whole.items():
        for byte in range(leaf.nbytes):
            for bit in range(8):
                flipped = leaf.copy()
                flipped.reshape(-1).view(np.uint8)[byte] ^= 1 << bit
                assert int(state_lib.checksum(whole | {name: flipped})) != expected
    swapped = whole | {'a': whole['a'][::-1]}
    assert int(state_lib.checksum(swapped)) != expected


def test_a_flipped_bit_is_noticed_and_the_checkpoint_before_it_taken(small, tmp_path):
    mesh = sharding.make_mesh()
    state, abstract = state_of(small, mesh)
    manager = checkpoints.open_checkpoints(tmp_path, 2)
    with checkpoints.finishing(manager):
        for step in (1, 2):
            checkpoints.save(manager, step, state.replace(step=state.step + step))
    files_ = [path for path in (tmp_path / 'checkpoints/2').rglob('d/*') if path.is_file()]
    largest = max(files_, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 4
    largest.write_bytes(content)
    said: list[str] = []
    manager = checkpoints.open_checkpoints(tmp_path, 2)
    with checkpoints.finishing(manager):
        restored = checkpoints.restore_newest(manager, abstract, said.append)
    assert restored.step == 1
    assert said == [
        'checkpoint 2 cannot be read and is skipped: its checksum does not match the saved one'
    ]


@pytest.mark.parametrize(
    ('before', 'after'),
    [
        pytest.param((8, 1), (8, 4), marks=pytest.mark.slow),
        ((8, 8), (1, 1)),
        pytest.param((2, 2), (4, 1), marks=pytest.mark.slow),
    ],
)
def test_a_state_comes_back_bit_for_bit_on_another_mesh(small, tmp_path, before, after):
    meshes = [sharding.make_mesh(fsdp, jax.devices()[:n]) for n, fsdp in (before, after)]
    state, _ = state_of(small, meshes[0], 3)
    manager = checkpoints.open_checkpoints(tmp_path, 2)
    with checkpoints.finishing(manager):
        checkpoints.save(manager, 3, state)
    _, abstract = state_of(small, meshes[1])
    manager = checkpoints.open_checkpoints(tmp_path, 2)
    with checkpoints.finishing(manager):
        restored = checkpoints.restore_newest(manager, abstract, silent)
    assert_same_bits(restored, state)
    for leaf, wanted in zip(jax.tree.leaves(restored), jax.tree.leaves(abstract), strict=True):
        assert leaf.sharding.is_equivalent_to(wanted.sharding, leaf.ndim)


def test_only_the_newest_are_kept_and_a_step_is_saved_once(small, tmp_path):
    state, _ = state_of(small, sharding.make_mesh())
    manager = checkpoints.open_checkpoints(tmp_path, 2)
    with checkpoints.finishing(manager):
        for step in (1, 2, 2, 3):
            checkpoints.save(manager, step, state)
        manager.wait_until_finished()
        assert sorted(manager.all_steps()) == [2, 3]


def test_the_best_is_the_one_with_the_lowest_score_and_survives_a_restart(small, tmp_path):
    state, abstract = state_of(small, sharding.make_mesh())
    manager = checkpoints.open_best(tmp_path)
    with checkpoints.finishing(manager):
        assert checkpoints.save_if_best(manager, 1, state.replace(step=state.step + 1), 5.0)
        assert checkpoints.save_if_best(manager, 2, state.replace(step=state.step + 2), 4.0)
        assert not checkpoints.save_if_best(manager, 3, state.replace(step=state.step + 3), 4.0)
    manager = checkpoints.open_best(tmp_path)
    with checkpoints.finishing(manager):
        assert manager.all_steps() == [2]
        assert not checkpoints.save_if_best(manager, 4, state, 4.5)
        assert checkpoints.restore_newest(manager, abstract, silent).step == 2
        assert checkpoints.save_if_best(manager, 5, state, 3.0)


def test_a_score_on_other_photographs_replaces_the_best(small, tmp_path):
    state, _ = state_of(small, sharding.make_mesh())
    manager = checkpoints.open_best(tmp_path, 'easy')
    with checkpoints.finishing(manager):
        assert checkpoints.save_if_best(manager, 1, state, 4.0, 'easy')
        assert not checkpoints.save_if_best(manager, 2, state, 5.0, 'easy')
    manager = checkpoints.open_best(tmp_path, 'hard')
    with checkpoints.finishing(manager):
        assert checkpoints.save_if_best(manager, 3, state, 5.0, 'hard')
        assert not checkpoints.save_if_best(manager, 4, state, 6.0, 'hard')
        assert manager.all_steps() == [3]


def test_nothing_saved_is_none(small, tmp_path):
    _, abstract = state_of(small, sharding.make_mesh())
    manager = checkpoints.open_checkpoints(tmp_path, 2)
    with checkpoints.finishing(manager):
        assert checkpoints.restore_newest(manager, abstract, silent) is None


def tear(folder):
    """Cuts every large file of a checkpoint in half, as a disk that lost its newest blocks."""
    torn = [path for path in folder.rglob('*') if path.is_file() and path.stat().st_size > 2_000]
    assert torn
    for path in torn:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_torn_checkpoint_is_passed_over_named_and_kept_aside(small, tmp_path):
    mesh = sharding.make_mesh()
    state, abstract = state_of(small, mesh)
    manager = checkpoints.open_checkpoints(tmp_path, 3)
    with checkpoints.finishing(manager):
        for step in (1, 2):
            checkpoints.save(manager, step, state.replace(step=state.step + step))
    tear(tmp_path / 'checkpoints/2')
    said = []
    manager = checkpoints.open_checkpoints(tmp_path, 3)
    with checkpoints.finishing(manager):
        restored = checkpoints.restore_newest(manager, abstract, said.append)
        assert restored.step == 1
        assert len(said) == 1
        assert said[0].startswith('checkpoint 2 cannot be read and is skipped')
        assert (tmp_path / 'unreadable/2').is_dir()
        checkpoints.save(manager, 2, state)  # its step can be saved again
        manager.wait_until_finished()
        assert sorted(manager.all_steps()) == [1, 2]


def test_nothing_but_torn_checkpoints_is_an_error_and_no_fresh_start(small, tmp_path):
    state, abstract = state_of(small, sharding.make_mesh())
    manager = checkpoints.open_checkpoints(tmp_path, 3)
    with checkpoints.finishing(manager):
        checkpoints.save(manager, 1, state)
        manager.wait_until_finished()
        tear(tmp_path / 'checkpoints/1')
        for _ in range(2):  # the second start finds them still there
            with pytest.raises(UserError, match=r'None of the checkpoints in .* could be read'):
                checkpoints.restore_newest(manager, abstract, lambda text: None)


@pytest.fixture
def finished_run(small, tmp_path):
    """A workdir with one checkpoint."""
    mesh = sharding.make_mesh()
    state, _ = state_of(small, mesh, 7)
    state = state.replace(ema=jax.tree.map(lambda leaf: leaf + 1, state.ema))
    manager = checkpoints.open_checkpoints(tmp_path / 'old', 1)
    with checkpoints.finishing(manager):
        checkpoints.save(manager, 7, state)
    write_config(tmp_path / 'old', small)
    return tmp_path / 'old', state


def test_init_from_takes_the_weights_and_nothing_else(small, finished_run):
    workdir, old = finished_run
    mesh = sharding.make_mesh(4)
    small.seed = 5
    small.generator_optimizer.grad_clip_norm = 1.0  # another optimizer state
    new, _ = state_of(small, mesh)
    small.init_from = str(workdir)
    state = load_weights(small, new, mesh)
    assert_same_bits(state.generator.params, old.ema['params'])
    assert_same_bits(state.discriminator.params, old.discriminator.params)
    assert_same_bits(state.ema, old.ema)
    assert_same_bits(state.generator.opt_state, new.generator.opt_state)
    assert_same_bits(state.key, new.key)
    assert state.step == 0


@pytest.mark.slow
def test_init_from_a_run_without_average_starts_the_average_at_its_weights(small, tmp_path):
    mesh = sharding.make_mesh()
    small.ema_decay = 0.0
    old, _ = state_of(small, mesh)
    manager = checkpoints.open_checkpoints(tmp_path, 1)
    with checkpoints.finishing(manager):
        checkpoints.save(manager, 1, old)
    write_config(tmp_path, small)
    small.ema_decay = 0.9
    small.seed = 2
    new, _ = state_of(small, mesh)
    small.init_from = str(tmp_path)
    state = load_weights(small, new, mesh)
    assert_same_bits(state.ema['params'], old.generator.params)
    donated = jax.jit(lambda state: state, donate_argnums=0)(state)  # no buffer stands twice
    assert_same_bits(donated.ema['params'], old.generator.params)


def test_init_from_other_networks_names_the_field(small, finished_run):
    workdir, _ = finished_run
    mesh = sharding.make_mesh()
    new, _ = state_of(small, mesh)
    small.generator = small.generator.clone(width=8)
    small.init_from = str(workdir)
    with pytest.raises(UserError, match=r'trained with generator\.width=16, not 8'):
        load_weights(small, new, mesh)


def test_init_from_nothing_is_named(small, tmp_path):
    mesh = sharding.make_mesh()
    new, _ = state_of(small, mesh)
    small.init_from = str(tmp_path / 'nowhere')
    with pytest.raises(UserError, match='is not a workdir of a run'):
        load_weights(small, new, mesh)
    write_config(tmp_path, small)
    small.init_from = str(tmp_path)
    with pytest.raises(UserError, match='holds no checkpoint yet'):
        load_weights(small, new, mesh)
    (tmp_path / 'config.json').write_text('{"config": ')
    with pytest.raises(UserError, match=r'config\.json is damaged'):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ('ema_decay', 'which'),
    [
        (0.9, 'newest'),
        (0.0, 'best'),
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in [(0.9, 'best'), (0.9, '1')]),
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in [(0.0, 'newest'), (0.0, '1')]),
    ],
)
def test_the_generator_alone_is_bit_for_bit_that_of_the_whole_state(
    small, tmp_path, ema_decay, which
):
    small.ema_decay = ema_decay
    state, _ = state_of(small, sharding.make_mesh(4))

    @partial(jax.jit, static_argnums=0)
    def saved_at(step):
        shift = lambda leaf: leaf + step * jnp.ones_like(leaf)
        generator = state.generator.replace(
            params=jax.tree.map(shift, state.generator.params),
            batch_stats=jax.tree.map(shift, state.generator.batch_stats),
        )
        ema = jax.tree.map(lambda leaf: shift(leaf) / 3, state.ema)  # other than the raw weights
        return state.replace(step=state.step + step, generator=generator, ema=ema)

    manager, best = checkpoints.open_checkpoints(tmp_path, 2), checkpoints.open_best(tmp_path)
    with checkpoints.finishing(manager, best):
        for step in (1, 2):
            checkpoints.save(manager, step, saved_at(step))
        checkpoints.save_if_best(best, 1, saved_at(1), 5.0)
    write_config(tmp_path, small)
    one = sharding.make_mesh(devices=jax.devices()[:1])
    whole = checkpoints.load(tmp_path, which, one)
    alone = checkpoints.load_generator(tmp_path, which, one)
    assert_same_bits(alone.variables, state_lib.generator_variables(whole.state))
    for leaf in jax.tree.leaves(alone.variables):
        assert leaf.devices() == {jax.devices()[0]}
    assert alone.step == int(whole.state.step) == (2 if which == 'newest' else 1)
    assert alone.generator == whole.model.generator
    assert alone.config == whole.config == small


@pytest.mark.parametrize('load', ['load', 'load_generator'])
def test_a_bucket_that_does_not_answer_is_no_damage(finished_run, monkeypatch, load):
    def busy(*_args):
        raise RuntimeError('UNAVAILABLE: the server answers HTTP 503')

    monkeypatch.setattr(checkpoints, '_restore_checked', busy)
    with pytest.raises(RuntimeError, match='UNAVAILABLE'):
        getattr(checkpoints, load)(finished_run[0], 'newest', sharding.make_mesh())


def test_a_damaged_checkpoint_of_a_generator_is_named(finished_run):
    workdir, _ = finished_run
    one = sharding.make_mesh(devices=jax.devices()[:1])
    found = [path for path in (workdir / 'checkpoints/7').rglob('d/*') if path.is_file()]
    contents = {path: path.read_bytes() for path in found}
    checkpoints.load_generator(workdir, 'newest', one)  # it is whole
    for path, content in contents.items():  # Orbax decides which file holds which array
        flipped = bytearray(content)
        for place in range(512, len(flipped), 1024):
            flipped[place] ^= 4
        path.write_bytes(flipped)
    wanted = r'^Checkpoint 7 in \S+/checkpoints cannot be read \(.+\)\.$'
    with pytest.raises(UserError, match=wanted):
        checkpoints.load_generator(workdir, 'newest', one)
    for path, content in contents.items():
        path.write_bytes(content)
    tear(workdir / 'checkpoints/7')
    with pytest.raises(UserError, match=wanted):
        checkpoints.load_generator(workdir, 'newest', one)


@pytest.mark.parametrize('version', [None, 0, config_lib.SCHEMA_VERSION + 1])
def test_a_config_of_another_schema_is_refused(small, tmp_path, version):
    described = {'config': config_lib.to_dict(small)}
    if version is not None:
        described['schema_version'] = version
    files.write_json(tmp_path / 'config.json', described)
    with pytest.raises(UserError, match=f'has the schema version {version}, and this'):
        read_run(tmp_path)
