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

from chromagan_jax import config as config_lib
from chromagan_jax import sharding
from chromagan_jax.config import Config, command_line, files, postprocess, schema
from chromagan_jax.data.inputs import open_sources
from chromagan_jax.errors import UserError
from chromagan_jax.gan import state, steps
from chromagan_jax.gan.model import make_model
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


def from_flags(spec: str, *overrides: str) -> Config:
    """As the command line makes it."""
    name, colon, argument = spec.partition(':')
    path = FOLDER / f'{name}.py'
    return command_line.make_config(
        command_line.split([f'--config={path}{colon}{argument}', *overrides])
    )


def runnable(spec: str) -> Config:
    """The config with what its user has to add."""
    config = config_lib.load(spec)
    config.data.source = config.data.source or 'sample'
    return config


def test_the_recipes_are_found():
    systems = 'base chromatic_dreams image_colorizer rgb_colorizer pix2pix restore chromagan'
    assert {'photos', *systems.split()} <= set(NAMES)
    assert files.names() == NAMES


@pytest.mark.parametrize('spec', SPECS)
def test_every_field_can_be_set_on_the_command_line(spec):
    expected = config_lib.flatten(config_lib.load(spec))
    overrides = [f'--config.{name}={value}' for name, value in expected.items()]
    assert config_lib.flatten(from_flags(spec, *overrides)) == expected
    with pytest.raises(UserError, match='no_such_field'):
        from_flags(spec, '--config.no_such_field=1')


@pytest.mark.parametrize('spec', SPECS)
def test_a_config_is_the_same_after_json(spec):
    config = config_lib.load(spec)
    again = config_lib.from_dict(Config, config_lib.to_dict(config))
    assert config_lib.flatten(again) == config_lib.flatten(config)


@pytest.mark.parametrize('spec', SPECS)
def test_a_config_is_possible(spec):
    assert config_lib.validate(runnable(spec)) is None


@pytest.mark.parametrize('spec', SPECS)
def test_a_config_either_names_its_photographs_or_asks_for_them(spec):
    config = config_lib.load(spec)
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
    model = make_model(config)
    state.check_networks(model, config)
    begin = state.abstract_state(model, config, mesh)
    batch = state.abstract_batch(config, mesh)
    size = config.data.size
    rows = config.batch_size // config.grad_accum_steps
    assert batch['condition'].shape[-4:] == (rows, size, size, 1)
    frozen = state.abstract_frozen(model, config, mesh)
    step = functools.partial(steps.train_step, model)
    end, metrics = jax.eval_shape(step, begin, batch, frozen)

    def kinds(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)

    assert kinds(end) == kinds(begin)  # or it could not be donated, or stepped on from
    assert {'generator/loss', 'discriminator/loss', 'generator/l1'} <= metrics.keys()
    assert all(kind == ((), 'float32') for kind in kinds(metrics).values())


@pytest.mark.parametrize('spec', SPECS)
def test_the_fields_that_scripts_rely_on_exist(spec):
    assert config_lib.flatten(config_lib.load(spec)).keys() >= RELIED_ON


def test_every_call_makes_a_config_of_its_own():
    first = base.get_config()
    first.generator_optimizer.learning_rate = 1.0
    first.loss.weights['l1'] = 7.0
    assert first.discriminator_optimizer.learning_rate != 1.0
    assert base.get_config().generator_optimizer.learning_rate != 1.0
    assert base.get_config().loss.weights['l1'] != 7.0


def test_an_unknown_argument_is_named():
    with pytest.raises(UserError, match=r"configs/base\.py takes the argument tiny.*'tinny'"):
        base.get_config('tinny')


@pytest.mark.parametrize('module', [schema, postprocess])
def test_every_field_has_a_comment_and_every_group_a_docstring(module):
    source = Path(module.__file__).read_text()
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0] for token in tokens if token.type == tokenize.COMMENT}
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    assert len(classes) >= 1
    for group in classes:
        assert ast.get_docstring(group)
        for field in group.body:
            if isinstance(field, ast.AnnAssign) and not is_group(field):
                lines = range(field.lineno, field.end_lineno + 1)
                assert comments & set(lines), ast.unparse(field)


def is_group(field: ast.AnnAssign) -> bool:
    return ast.unparse(field.annotation).endswith(('Config', 'PostProcess'))


@pytest.mark.parametrize('name', NAMES)
def test_a_config_tells_its_command(name):
    docstring = importlib.import_module(f'configs.{name}').__doc__
    assert docstring is not None
    assert f'python -m chromagan_jax.main --config=configs/{name}.py' in docstring


@pytest.mark.parametrize('change', best.CHANGES)
def test_a_change_of_the_recipe_changes_the_fields_that_it_names_and_can_be_trained(change):
    plain, changed = (config_lib.flatten(config_lib.load(s)) for s in ('best', f'best:{change}'))
    names = plain.keys() | changed.keys()
    differing = {name for name in names if plain.get(name) != changed.get(name)}
    assert differing
    assert differing <= set(best.CHANGES[change])
    assert config_lib.validate(runnable(f'best:{change}')) is None


def test_changes_of_the_recipe_add_up_and_unknown_ones_are_named():
    both = config_lib.flatten(config_lib.load('best:seed+no_patch'))
    assert (both['seed'], both['discriminator.patch_weight']) == (1, 0.0)
    with pytest.raises(UserError, match="not 'colour'"):
        config_lib.load('best:seed+colour')
