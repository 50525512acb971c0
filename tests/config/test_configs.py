"""Of every file in configs/."""

import ast
import functools
import importlib
import io
import tokenize
from pathlib import Path
from typing import Any

import jax
import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from chromagan_jax import config as config_lib
from chromagan_jax import sharding
from chromagan_jax.data.inputs import open_sources
from chromagan_jax.errors import UserError
from chromagan_jax.gan import state, steps
from configs import base, best

FOLDER = Path(base.__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob('*.py') if path.stem != '__init__')
SPECS = [*NAMES, 'base:tiny']
# What launchers, benchmarks and the README set on a command line.
RELIED_ON = {
    'seed',
    'steps',
    'batch_size',
    'discriminator_steps',
    'log_every',
    'eval_every',
    'sample_every',
    'checkpoint_every',
    'data.source',
    'data.size',
    'data.workers',
    'eval.source',
    'eval.size',
    'generator.name',
    'discriminator.name',
}


def from_import(spec: str) -> ConfigDict:
    name, _, argument = spec.partition(':')
    get_config = importlib.import_module(f'configs.{name}').get_config
    return get_config(argument) if argument else get_config()


def from_flags(spec: str, *overrides: str) -> ConfigDict:
    """As the command line loads it."""
    name, _, argument = spec.partition(':')
    path = str(FOLDER / f'{name}.py') + (f':{argument}' if argument else '')
    arguments = ['program', f'--config={path}', *overrides]
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file(
        'config', flag_values=values, lock_config=True, sys_argv=arguments
    )
    values(arguments)
    return holder.value


def runnable(spec: str) -> ConfigDict:
    """The config with what its user has to add."""
    config = from_import(spec)
    config.data.source = config.data.source or 'sample'
    return config


def fields(config: ConfigDict) -> dict[str, Any]:
    return dict(config_lib.flatten(config.to_dict()))


def test_the_recipes_are_found():
    systems = 'base chromatic_dreams image_colorizer rgb_colorizer pix2pix restore chromagan'
    assert {'photos', *systems.split()} <= set(NAMES)


@pytest.mark.parametrize('spec', SPECS)
def test_a_config_loads_the_same_from_the_command_line_and_by_import(spec):
    config = from_import(spec)
    assert type(config) is ConfigDict
    assert from_flags(spec).to_dict() == config.to_dict()


@pytest.mark.parametrize('spec', SPECS)
def test_every_field_can_be_set_on_the_command_line(spec):
    expected = fields(from_import(spec))
    overrides = [f'--config.{name}={value}' for name, value in expected.items()]
    assert fields(from_flags(spec, *overrides)) == expected
    with pytest.raises(AttributeError, match='no_such_field'):
        from_flags(spec, '--config.no_such_field=1')


@pytest.mark.parametrize('spec', SPECS)
def test_a_config_is_possible(spec):
    assert config_lib.validate(runnable(spec)) is None


@pytest.mark.parametrize('spec', SPECS)
def test_a_config_either_names_its_photographs_or_asks_for_them(spec):
    config = from_import(spec)
    if config.data.source == 'sample':
        assert len(open_sources(config)[0]) >= 1
    elif not config.data.source:
        with pytest.raises(UserError, match=r'data\.source is empty'):
            open_sources(config)


@pytest.mark.parametrize(
    'spec',
    [
        pytest.param(spec, marks=() if spec.startswith('base') else pytest.mark.slow)
        for spec in SPECS
    ],
)
def test_initialisation_and_a_train_step_trace_at_their_real_size(spec):
    config = runnable(spec)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    system = state.make_system(config)
    state.check_networks(system, config)
    begin = state.abstract_state(system, config, mesh)
    batch = state.abstract_batch(config, mesh)
    size = config.data.size
    rows = config.batch_size // config.accumulate
    assert batch['condition'].shape[-4:] == (rows, size, size, 1)
    end, metrics = jax.eval_shape(functools.partial(steps.train_step, system), begin, batch)

    def kinds(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)

    assert kinds(end) == kinds(begin)  # or it could not be donated, or stepped on from
    assert {'generator/loss', 'discriminator/loss', 'generator/l1'} <= metrics.keys()
    assert all(kind == ((), 'float32') for kind in kinds(metrics).values())


@pytest.mark.parametrize('spec', SPECS)
def test_the_fields_that_scripts_rely_on_exist(spec):
    assert fields(from_import(spec)).keys() >= RELIED_ON


@pytest.mark.parametrize('spec', SPECS)
def test_an_overlay_changes_only_fields_that_base_declares(spec):
    config, declared = fields(from_import(spec)), fields(base.get_config())
    # Another network has other fields; make_system knows which.
    networks = 'generator.', 'discriminator.'
    assert {n for n in config if not n.startswith(networks)} == {
        n for n in declared if not n.startswith(networks)
    }
    for name in config.keys() & declared.keys():
        assert type(config[name]) is type(declared[name]), name


def test_every_call_makes_a_config_of_its_own():
    first = base.get_config()
    first.generator_optimizer.learning_rate = 1.0
    assert first.discriminator_optimizer.learning_rate != 1.0
    assert base.get_config().generator_optimizer.learning_rate != 1.0


def test_an_unknown_argument_is_named():
    with pytest.raises(UserError, match=r"configs/base\.py takes the argument tiny.*'tinny'"):
        base.get_config('tinny')


def assignments(source: str, function: str) -> dict[str, int]:
    """Fields that a function's own statements give a value, and on which line each ends."""
    (body,) = (
        node.body
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and node.name == function
    )
    found = {}
    for node in body:
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Attribute):
            continue
        makes_group = isinstance(node.value, ast.Call)  # ConfigDict() or adam()
        if not makes_group:
            assert node.end_lineno is not None
            found[ast.unparse(node.targets[0]).removeprefix('config.')] = node.end_lineno
    return found


def test_every_field_is_declared_in_base_with_a_comment():
    source = Path(base.__file__).read_text()
    comments = {
        token.start[0]: token
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    lines = assignments(source, 'get_config')
    for name, line in assignments(source, 'adam').items():
        lines |= {f'{kind}_optimizer.{name}': line for kind in ('generator', 'discriminator')}
    assert lines.keys() == fields(base.get_config()).keys()
    for name, line in lines.items():
        assert line in comments, name
        assert comments[line].start[1] > 0, name
        assert len(comments[line].string.lstrip('# ')) >= 8, name


@pytest.mark.parametrize('name', NAMES)
def test_a_config_tells_its_command(name):
    docstring = importlib.import_module(f'configs.{name}').__doc__
    assert docstring is not None
    assert f'python -m chromagan_jax.main --config=configs/{name}.py' in docstring


@pytest.mark.parametrize('change', best.CHANGES)
def test_a_change_of_the_recipe_changes_the_fields_that_it_names_and_can_be_trained(change):
    plain, changed = fields(from_import('best')), fields(from_import(f'best:{change}'))
    assert plain.keys() == changed.keys()
    differing = {name for name in plain if plain[name] != changed[name]}
    assert differing
    assert differing <= set(best.CHANGES[change])
    assert config_lib.validate(runnable(f'best:{change}')) is None


def test_changes_of_the_recipe_add_up_and_unknown_ones_are_named():
    both = fields(from_import('best:seed+no_ema'))
    assert (both['seed'], both['ema']) == (1, 0.0)
    with pytest.raises(UserError, match="not 'colour'"):
        from_import('best:seed+colour')
