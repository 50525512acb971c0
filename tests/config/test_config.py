import copy
import json
import re
from typing import Any

import pytest

from chromagan_jax import config as config_lib
from chromagan_jax.config import schema
from chromagan_jax.errors import UserError
from chromagan_jax.gan import losses
from configs import base

FIELDS = tuple(name for name, _ in config_lib.flatten(base.get_config().to_dict()))
# Written down once more: a field that creeps into, or out of, the package's list shows here.
FREE = {
    'stall_timeout',
    'log_every',
    'eval_every',
    'sample_every',
    'checkpoint_every',
    'checkpoint.max_to_keep',
    'mesh.fsdp',
    'data.source',
    'data.workers',
    'data.threads',
    'data.prefetch',
    'data.max_unreadable',
    'eval.source',
    'eval.batch_size',
    'eval.features',
    'eval.checkpoint',
    'eval.follow',
    'eval.patience',
    'colorize.sample_noise',
    'colorize.saturation',
    'colorize.white_balance',
    'colorize.white_balance_strength',
    'colorize.contrast',
    'colorize.clahe_clip',
    'colorize.clahe_tiles',
    'colorize.denoise_before',
    'colorize.denoise_after',
    'colorize.denoise_method',
}
SCHEDULES = ('generator_optimizer.schedule', 'discriminator_optimizer.schedule')


def put(config: Any, values: dict[str, Any]) -> Any:
    """Sets fields of a ConfigDict or a dict by their dotted names."""
    for field, value in values.items():
        *groups, last = field.split('.')
        node = config
        for group in groups:
            node = node[group]
        node[last] = value
    return config


def as_saved(config: Any) -> dict[str, Any]:
    """The config as a workdir's JSON gives it back."""
    return json.loads(json.dumps(config.to_dict()))


def other(value: Any) -> Any:
    """Some other value of the same type."""
    if isinstance(value, bool):
        return not value
    return value + '_other' if isinstance(value, str) else value + 1


def test_the_base_config_and_its_tiny_form_are_possible(tiny):
    assert config_lib.validate(base.get_config()) is None
    assert config_lib.validate(tiny) is None


IMPOSSIBLE = (
    [
        (field, value, '1 or more')
        for field in (
            'steps',
            'batch_size',
            'accumulate',
            'discriminator_steps',
            'log_every',
            'checkpoint_every',
            'data.size',
            'data.threads',
            'data.prefetch',
            'eval.batch_size',
            'mesh.fsdp',
            'checkpoint.max_to_keep',
        )
        for value in (0, -1)
    ]
    + [
        (field, -1, '0 or more')
        for field in (
            'eval_every',
            'sample_every',
            'data.workers',
            'eval.size',
            'eval.patience',
            'pretrain_steps',
            'plateau.patience',
            'generator_optimizer.learning_rate',
            'generator_optimizer.clip',
            'discriminator_optimizer.weight_decay',
            'discriminator_optimizer.warmup_steps',
            'objective.l1',
            'objective.gradient_penalty',
        )
    ]
    + [
        ('discriminator_max_accuracy', 0.0, '0 < x <= 1'),
        ('discriminator_max_accuracy', 1.1, '0 < x <= 1'),
        ('objective.huber_delta', 0.0, 'above 0'),
        ('plateau.factor', 1.0, '0 < x < 1'),
        ('plateau.min_scale', -0.1, '0 <= x <= 1'),
        ('seed', -1, '0 <= x < 2**32'),
        ('seed', 2**32, '0 <= x < 2**32'),
        ('generator_optimizer.b1', 1.0, '0 <= x < 1'),
        ('discriminator_optimizer.b2', -0.1, '0 <= x < 1'),
        ('objective.mse', float('nan'), '0 or more'),
        ('ema', 1.0, '0 <= x < 1'),
        ('ema', -0.1, '0 <= x < 1'),
        ('ema', float('nan'), '0 <= x < 1'),
        ('data.load_ratio', 0.99, '1 or more'),
        ('objective.label_smoothing', 0.5, '0 <= x < 0.5'),
        ('objective.label_smoothing', -0.1, '0 <= x < 0.5'),
        ('color_space', 'hsv', 'lab, rgb'),
        ('dtype', 'float16', 'float32, bfloat16'),
        ('param_dtype', 'float64', 'float32, bfloat16'),
        ('objective.adversarial', 'nonsense', 'bce'),
    ]
)


@pytest.mark.parametrize(('field', 'value', 'wanted'), IMPOSSIBLE)
def test_an_impossible_value_is_named_with_what_would_be_possible(tiny, field, value, wanted):
    with pytest.raises(UserError) as error:
        config_lib.validate(put(tiny, {field: value}))
    message = str(error.value)
    assert message.startswith(field + ' ')
    assert repr(value) in message
    assert wanted in message
    assert '\n' not in message


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('steps', 1),
        ('eval_every', 0),
        ('sample_every', 0),
        ('data.workers', 0),
        ('eval.size', 0),
        ('ema', 0.0),
        ('data.load_ratio', 1.0),
        ('objective.label_smoothing', 0.0),
        ('color_space', 'rgb'),
        ('dtype', 'bfloat16'),
        ('param_dtype', 'bfloat16'),
        ('objective.adversarial', 'lsgan'),
    ],
)
def test_the_limits_of_every_range_are_possible(tiny, field, value):
    config_lib.validate(put(tiny, {field: value}))


PENALTY = {'objective.gradient_penalty': 10.0, 'discriminator.norm': 'none'}


@pytest.mark.parametrize(
    ('values', 'named'),
    [
        ({'objective.adversarial': 'hinge'}, 'objective.label_smoothing'),
        ({'objective.adversarial': 'wgan'}, 'objective.label_smoothing'),
        (PENALTY | {'discriminator.norm': 'batch'}, 'discriminator.norm'),
        (PENALTY | {'dtype': 'bfloat16'}, 'dtype'),
        (PENALTY | {'param_dtype': 'bfloat16'}, 'param_dtype'),
        ({'plateau.patience': 3, 'eval_every': 0}, 'eval_every'),
    ],
)
def test_values_that_exclude_one_another_are_named(tiny, values, named):
    with pytest.raises(UserError, match=re.escape(named)):
        config_lib.validate(put(tiny, values))


@pytest.mark.parametrize(
    'values',
    [
        {'objective.adversarial': 'hinge', 'objective.label_smoothing': 0.0},
        {'objective.adversarial': 'wgan', 'objective.label_smoothing': 0.0},
        {'objective.adversarial': 'lsgan', 'objective.label_smoothing': 0.1},
        PENALTY,
        PENALTY | {'discriminator.norm': 'instance'},
        {'objective.classes': 0.1, 'data.labels': True},
    ],
)
def test_what_the_messages_advise_is_possible(tiny, values):
    assert config_lib.validate(put(tiny, values)) is None


def test_the_schema_names_every_adversarial_loss_that_there_is():
    assert tuple(losses.ADVERSARIAL) == schema.ADVERSARIAL_LOSSES


def test_a_run_resumes_under_its_own_config(tiny):
    assert config_lib.check_resume(tiny, as_saved(tiny)) is None


@pytest.mark.parametrize('field', FIELDS)
def test_a_resume_may_change_the_free_fields_and_no_other(tiny, field):
    saved = as_saved(tiny)
    before = dict(config_lib.flatten(saved))[field]
    now = 'linear' if field in SCHEDULES else other(before)
    config = put(tiny, {field: now})
    if field in FREE | {'steps'}:
        config_lib.check_resume(config, saved)
        return
    with pytest.raises(UserError) as error:
        config_lib.check_resume(config, saved)
    message = str(error.value)
    assert f' {field}={before!r}, not {now!r}:' in message
    assert '\n' not in message


def test_the_free_fields_exist():
    assert set(FIELDS) >= FREE


@pytest.mark.parametrize('field', SCHEDULES)
@pytest.mark.parametrize('schedule', ['linear', 'cosine'])
def test_a_resume_may_not_change_the_steps_where_a_schedule_ends_with_them(tiny, field, schedule):
    saved = as_saved(put(tiny, {field: schedule}))
    config_lib.check_resume(tiny, saved)
    with pytest.raises(UserError, match=re.escape('steps=4, not 5')):
        config_lib.check_resume(put(tiny, {'steps': 5}), saved)


def test_where_evaluations_change_the_rates_a_resume_may_not_change_the_evaluations(tiny):
    for field, value in (('eval_every', 1), ('eval.source', 'elsewhere')):
        tiny.plateau.patience = 0
        config_lib.check_resume(put(copy.deepcopy(tiny), {field: value}), as_saved(tiny))
        tiny.plateau.patience = 3
        with pytest.raises(UserError, match=f'{field}='):
            config_lib.check_resume(put(copy.deepcopy(tiny), {field: value}), as_saved(tiny))


def test_tuples_are_the_same_after_json(tiny):
    tiny.generator.widths = (4, 8)
    config_lib.check_resume(tiny, as_saved(tiny))
    saved = as_saved(tiny)
    tiny.generator.widths = (4, 4)
    with pytest.raises(UserError, match=re.escape('generator.widths=(4, 8), not (4, 4)')):
        config_lib.check_resume(tiny, saved)


@pytest.mark.parametrize('field', ['seed', 'generator.width', 'objective.l1'])
def test_a_resume_notices_fields_that_are_new_or_gone(tiny, field):
    value = dict(config_lib.flatten(tiny.to_dict()))[field]
    *groups, last = field.split('.')
    saved = as_saved(tiny)
    lacking = copy.deepcopy(saved)
    node = lacking
    for group in groups:
        node = node[group]
    del node[last]
    with pytest.raises(UserError, match=re.escape(f'{field}=None, not {value!r}')):
        config_lib.check_resume(tiny, lacking)

    extra = put(copy.deepcopy(saved), {f'{field}_of_old': value})
    with pytest.raises(UserError, match=re.escape(f'{field}_of_old={value!r}, not None')):
        config_lib.check_resume(tiny, extra)


def test_a_field_whose_name_only_begins_like_a_free_one_is_fixed(tiny):
    saved = put(as_saved(tiny), {'data.sources': 'x', 'meshes': 1})
    with pytest.raises(UserError, match=re.escape("data.sources='x'")):
        config_lib.check_resume(tiny, saved)


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('color_space', 'rgb'),
        ('generator.name', 'other'),
        ('generator.width', 8),
        ('generator.depth', 3),
        ('generator.norm', 'instance'),
        ('discriminator.width', 8),
        ('discriminator.layers', 2),
        ('discriminator.conditional', False),
    ],
)
def test_other_networks_than_those_of_the_weights_are_named(tiny, field, value):
    before = dict(config_lib.flatten(tiny.to_dict()))[field]
    saved = as_saved(tiny)
    with pytest.raises(UserError) as error:
        config_lib.check_same_networks(put(tiny, {field: value}), saved, 'runs/old')
    assert f'runs/old were trained with {field}={before!r}, not {value!r}' in str(error.value)


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('generator.dropout', 0.5),
        ('seed', 1),
        ('steps', 9),
        ('batch_size', 16),
        ('objective.l1', 1.0),
        ('generator_optimizer.learning_rate', 1e-5),
        ('data.source', 'elsewhere'),
    ],
)
def test_weights_fit_whatever_else_a_new_run_changes(tiny, field, value):
    saved = as_saved(tiny)
    config_lib.check_same_networks(put(tiny, {field: value}), saved, 'runs/old')


def test_flatten_joins_the_names_of_groups_in_order():
    nested = {'a': 1, 'b': {'c': 2, 'd': {'e': 'x'}}, 'f': [3, 4]}
    assert list(config_lib.flatten(nested)) == [('a', 1), ('b.c', 2), ('b.d.e', 'x'), ('f', (3, 4))]
    assert list(config_lib.flatten({'c': 2}, 'b.')) == [('b.c', 2)]
