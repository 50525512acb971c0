"""Compiled programs are found again, and made anew if anything that they depend on differs."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.monitoring
import jax.numpy as jnp
import jaxlib.version
import numpy as np
import pytest
from flax import linen as nn
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from chromagan_jax.models.unet import UNet
from chromagan_jax.utils import programs

Start = Callable[..., None]
NETWORK = UNet()


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """`use_cache`, as a command calls it, with a folder in `tmp_path`."""
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path / 'cache'))
    monkeypatch.setattr(programs, '_runs_command', lambda: True)
    # JAX's own cache stores what takes long to compile, and would find it again.
    before = jax.config.values['jax_compilation_cache_dir']
    jax.config.update('jax_compilation_cache_dir', None)
    compilation_cache.reset_cache()

    def start_(*arguments: Any) -> None:
        assert programs.use_cache(*arguments) == ''

    start_()
    Made()('what loads the modules that JAX loads late')
    for path in (tmp_path / 'cache').iterdir():
        path.unlink()
    start_()
    yield start_
    programs.use_cache('')
    jax.config.update('jax_compilation_cache_dir', before)
    compilation_cache.reset_cache()


class Made:
    """Counts how often its program was made."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, made_from: object = 'product', device: int = 0, **options: Any) -> Any:
        def make() -> jax.stages.Compiled:
            self.times += 1
            placed = jax.sharding.SingleDeviceSharding(jax.devices()[device])
            x = jax.ShapeDtypeStruct((5, 5), jnp.float32, sharding=placed)
            return jax.jit(lambda x: jnp.sin(x) @ x).lower(x).compile()

        networks = [options.get('network', NETWORK)]
        return programs.cached('tiny', networks, made_from, [jax.devices()[device]], make)


@pytest.fixture
def made() -> Made:
    return Made()


def the_program(folder: Path) -> Path:
    (path,) = (folder / 'cache').glob('*.program')
    return path


# Found again


def test_a_later_start_finds_the_program_and_gets_the_same_bits(start, made):
    x = np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32)
    expected = np.asarray(made()(x))
    start()
    found = made()
    assert made.times == 1
    assert np.asarray(found(x)).tobytes() == expected.tobytes()


def test_a_found_program_keeps_donation_shardings_and_types_of_keys(start):
    mesh = Mesh(np.array(jax.devices()), 'x')
    spread = NamedSharding(mesh, PartitionSpec('x'))
    whole = NamedSharding(mesh, PartitionSpec())
    key = jax.device_put(jax.random.key(0), whole)

    def make() -> jax.stages.Compiled:
        def call(state: dict[str, jax.Array], key: jax.Array) -> Any:
            noise = jax.random.normal(key, (16,))
            return {'value': state['value'] + noise}, {'mean': noise.mean(), 'key': key}

        state = {'value': jax.ShapeDtypeStruct((16,), jnp.float32, sharding=spread)}
        shardings = {'value': spread}, {'mean': whole, 'key': whole}
        jitted = jax.jit(call, donate_argnums=0, out_shardings=shardings)
        return jitted.lower(state, key).compile()

    results = []
    for _ in range(2):
        program = programs.cached('spread', [NETWORK], 'noise', jax.devices(), make)
        state = {'value': jax.device_put(jnp.zeros(16), spread)}
        new, metrics = program(state, key)
        assert state['value'].is_deleted()
        assert new['value'].sharding == spread
        assert metrics['key'] == key
        results.append((np.asarray(new['value']).tobytes(), float(metrics['mean'])))
        make = pytest.fail  # it is found the second time
    assert results[0] == results[1]


def test_a_found_program_refuses_inputs_of_another_shape_or_type(start, made):
    for program in (made(), made()):
        for wrong in (np.zeros((4, 5), np.float32), np.zeros((5, 5), np.int32)):
            with pytest.raises(TypeError):
                program(wrong)
    assert made.times == 1


# Made anew


def change_source(start: Start, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    start(programs.FOLDER, [folder / 'config.py'])


def change_package(start: Start, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(programs, '_PACKAGE', folder)
    start()


def change_variable(start: Start, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv('XLA_FLAGS', os.environ['XLA_FLAGS'] + ' --xla_cpu_enable_fast_math=true')
    start()


def change_version(start: Start, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(jaxlib.version, '__version__', '0.0.0')
    start()


def change_processor(start: Start, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(programs, '_processor', lambda: ['another'])
    start()


@pytest.mark.parametrize(
    'change',
    [change_source, change_package, change_variable, change_version, change_processor],
)
def test_a_change_of_what_it_runs_on_makes_it_anew(change, start, made, tmp_path, monkeypatch):
    (tmp_path / 'config.py').write_text('')
    made()
    change(start, monkeypatch, tmp_path)
    made()
    assert made.times == 2


def test_a_setting_of_jax_makes_it_anew(start, made):
    made()
    before = jax.config.values['jax_default_matmul_precision']
    jax.config.update('jax_default_matmul_precision', 'float32')
    try:
        made()
    finally:
        jax.config.update('jax_default_matmul_precision', before)
    assert made.times == 2


def test_a_changed_file_makes_it_anew_and_the_old_content_too_if_it_was_written_again(
    start, made, tmp_path
):
    config = tmp_path / 'config.py'
    for times, text in enumerate(['a = 1', 'a = 23', 'a = 1'], 1):
        config.write_text(text)
        os.utime(config, ns=(times, times))
        for _ in range(2):
            start(programs.FOLDER, [config])
            made()
        assert made.times == times


def test_other_values_networks_and_devices_make_it_anew(start, made):
    made()
    made({'loss.weights': {'l1': 100.0}})
    made({'loss.weights': {'l1': 100.00000000000001}})
    made(device=1)
    assert made.times == 4


@pytest.mark.parametrize('damage', ['truncated', 'one bit', 'empty'])
def test_a_damaged_file_is_made_anew_and_replaced(damage, start, made, tmp_path):
    made()
    path = the_program(tmp_path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({'truncated': content[:-9], 'one bit': content, 'empty': b''}[damage])
    made()
    made()
    assert made.times == 2


# Not stored


def test_a_network_of_a_class_from_elsewhere_is_not_stored(start, made, tmp_path):
    class Mine(nn.Module):
        pass

    for times in (1, 2):
        made(network=Mine())
        assert made.times == times
    assert not list((tmp_path / 'cache').iterdir())


def test_without_a_folder_nothing_is_stored(start, made, tmp_path):
    start('')
    made()
    made()
    assert made.times == 2
    assert not list((tmp_path / 'cache').iterdir())


def test_a_program_that_imports_the_package_stores_nothing(tmp_path, monkeypatch, made):
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path / 'cache'))
    assert programs.use_cache() == ''
    made()
    made()
    assert made.times == 2
    assert not list((tmp_path / 'cache').iterdir())


def test_a_program_from_the_cache_of_jax_is_not_stored(start, tmp_path):
    def make() -> Any:
        jax.monitoring.record_event('/jax/compilation_cache/cache_hits')
        return jax.jit(jnp.sin).lower(1.0).compile()

    programs.cached('tiny', [NETWORK], '', jax.devices()[:1], make)
    assert not list((tmp_path / 'cache').iterdir())


def test_the_programs_used_least_recently_are_removed(start, made, tmp_path, monkeypatch):
    for value in (1, 2, 3):
        made(value)
    paths = sorted((tmp_path / 'cache').iterdir(), key=lambda path: path.stat().st_mtime_ns)
    for age, path in enumerate(paths):
        os.utime(path, (age, age))
    made(1)  # used now
    other = tmp_path / 'cache' / 'of somebody else'
    other.write_bytes(bytes(10**6))
    monkeypatch.setattr(programs, 'MOST_BYTES', sum(path.stat().st_size for path in paths) - 1)
    start()
    for value, times in ((1, 3), (3, 3), (2, 4)):
        made(value)
        assert made.times == times
    assert other.exists()


def test_the_digest_tells_values_shapes_types_and_names_apart():
    trees = [
        {'a': np.zeros(4, np.float32)},
        {'b': np.zeros(4, np.float32)},
        {'a': np.zeros((2, 2), np.float32)},
        {'a': np.zeros(4, np.int32)},
        {'a': np.array([0, 0, 0, 1e-45], np.float32)},
        {'a': np.float32(0)},
    ]
    assert len({programs.digest(tree) for tree in trees}) == len(trees)
    assert programs.digest({'a': jnp.zeros(4)}) == programs.digest(trees[0])
