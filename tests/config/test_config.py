import copy
import dataclasses
import json
import re
from typing import Any

import pytest

from chromagan_jax import config as config_lib
from chromagan_jax.config import Config, resume, schema
from chromagan_jax.errors import UserError
from chromagan_jax.gan import released
from chromagan_jax.models import encoder_decoder
from configs import base

FIELDS = tuple(config_lib.flatten(base.get_config()))
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
    'eval.timeout',
    'eval.write_images',
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
    """Sets fields of a config, or of a dict, by their dotted names."""
    for field, value in values.items():
        if isinstance(config, Config):
            config_lib.set_field(config, field, value)
            continue
        *groups, last = field.split('.')
        node = config
        for group in groups:
            node = node[group]
        node[last] = value
    return config


def as_saved(config: Any) -> dict[str, Any]:
    """The config as a workdir's JSON gives it back."""
    return json.loads(json.dumps(config_lib.to_dict(config)))


def other(value: Any) -> Any:
    """Some other value of the same type."""
    if value in ('unet', 'patch'):
        return {'unet': 'lite_unet', 'patch': 'dense'}[value]
    if isinstance(value, tuple):
        return (*value, 7)
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
            'grad_accum_steps',
            'discriminator_steps',
            'log_every',
            'checkpoint_every',
            'data.size',
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
            'eval.timeout',
            'pretrain_steps',
            'reduce_lr_on_plateau.patience',
            'generator_optimizer.learning_rate',
            'generator_optimizer.grad_clip_norm',
            'discriminator_optimizer.weight_decay',
            'discriminator_optimizer.warmup_steps',
            'loss.weights.l1',
            'loss.gradient_penalty_weight',
        )
    ]
    + [
        ('discriminator_max_accuracy', 0.0, '0 < x <= 1'),
        ('discriminator_max_accuracy', 1.1, '0 < x <= 1'),
        ('loss.huber_delta', 0.0, 'above 0'),
        ('reduce_lr_on_plateau.factor', 1.0, '0 < x < 1'),
        ('reduce_lr_on_plateau.min_scale', -0.1, '0 <= x <= 1'),
        ('seed', -1, '0 <= x < 2**32'),
        ('seed', 2**32, '0 <= x < 2**32'),
        ('generator_optimizer.b1', 1.0, '0 <= x < 1'),
        ('discriminator_optimizer.b2', -0.1, '0 <= x < 1'),
        ('loss.weights.mse', float('nan'), '0 or more'),
        ('ema_decay', 1.0, '0 <= x < 1'),
        ('ema_decay', -0.1, '0 <= x < 1'),
        ('ema_decay', float('nan'), '0 <= x < 1'),
        ('data.resize_ratio', 0.99, '1 or more'),
        ('loss.label_smoothing', 0.5, '0 <= x < 0.5'),
        ('loss.label_smoothing', -0.1, '0 <= x < 0.5'),
        ('color_space', 'hsv', 'lab, rgb'),
        ('dtype', 'float16', 'float32, bfloat16'),
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
        ('ema_decay', 0.0),
        ('data.resize_ratio', 1.0),
        ('loss.label_smoothing', 0.0),
        ('color_space', 'rgb'),
        ('dtype', 'bfloat16'),
        ('checkpoint.best_metric', 'psnr'),
    ],
)
def test_the_limits_of_every_range_are_possible(tiny, field, value):
    config_lib.validate(put(tiny, {field: value}))


PENALTY = {'loss.gradient_penalty_weight': 10.0, 'discriminator.norm': 'none'}


@pytest.mark.parametrize(
    ('values', 'named'),
    [
        ({'loss.adversarial': 'hinge'}, 'loss.label_smoothing'),
        ({'loss.adversarial': 'wgan'}, 'loss.label_smoothing'),
        (PENALTY | {'discriminator.norm': 'batch'}, 'discriminator.norm'),
        (PENALTY | {'dtype': 'bfloat16'}, 'dtype'),
        ({'data.max_resize_ratio': 1.05}, 'data.max_resize_ratio'),
        ({'mesh.gradient_dtype': 'bfloat16'}, 'mesh.gradients=per_device'),
        (
            {
                'loss.adversarial': 'wgan',
                'loss.label_smoothing': 0.0,
                'discriminator_max_accuracy': 0.8,
            },
            'discriminator_max_accuracy',
        ),
        ({'reduce_lr_on_plateau.patience': 3, 'eval_every': 0}, 'eval_every'),
        ({'loss.weights.l1': 0.0, 'loss.steering.chroma_share': 0.9}, 'loss.weights.l1, which'),
        *(
            ({name: 0.5, 'color_space': 'rgb'}, f'{name} needs color_space lab')
            for name in (
                'loss.steering.chroma_share',
                'augment.lightness_std',
                'augment.blur',
                'augment.grain',
            )
        ),
    ],
)
def test_values_that_exclude_one_another_are_named(tiny, values, named):
    with pytest.raises(UserError, match=re.escape(named)):
        config_lib.validate(put(tiny, values))


@pytest.mark.parametrize(
    'values',
    [
        {'loss.adversarial': 'hinge', 'loss.label_smoothing': 0.0},
        {'loss.adversarial': 'wgan', 'loss.label_smoothing': 0.0},
        {'loss.adversarial': 'lsgan', 'loss.label_smoothing': 0.1},
        PENALTY,
        PENALTY | {'discriminator.norm': 'instance'},
        {'loss.weights.classes': 0.1, 'data.labels': True},
    ],
)
def test_what_the_messages_advise_is_possible(tiny, values):
    assert config_lib.validate(put(tiny, values)) is None


@pytest.mark.parametrize(
    ('group', 'name', 'sentence'),
    [
        ('', 'stps', "There is no field 'stps' in the config: did you mean 'steps'?"),
        ('', 'generater', "There is no field 'generater' in the config"),
        ('generator_optimizer', 'learing_rate', "mean 'generator_optimizer.learning_rate'?"),
        ('loss.steering', 'chroma', "There is no field 'loss.steering.chroma' in the config"),
    ],
)
def test_a_misspelled_field_of_a_config_file_is_named(tiny, group, name, sentence):
    node = tiny
    for part in filter(None, group.split('.')):
        node = getattr(node, part)
    setattr(node, name, tiny.generator if name == 'generater' else 1)
    with pytest.raises(UserError, match=re.escape(sentence)):
        config_lib.validate(tiny)


def test_a_misspelled_key_of_a_dict_is_named(tiny):
    tiny.pretrained['vgg'] = 'vgg16.npz'
    with pytest.raises(UserError, match=re.escape("no field 'pretrained.vgg' in the config")):
        config_lib.validate(tiny)


@pytest.mark.parametrize(
    ('field', 'value', 'sentence'),
    [
        ('steps', 1.5, 'steps must be a whole number, not 1.5.'),
        ('steps', True, 'steps must be a whole number, not True.'),
        ('ema_decay', '0.9', "ema_decay must be a number, not '0.9'."),
        ('data.flip', 1, 'data.flip must be true or false, not 1.'),
        ('data.source', 3, 'data.source must be a string, not 3.'),
        ('generator.width', '8', "generator.width must be a whole number, not '8'."),
        (
            'generator.widths',
            8,
            'generator.widths must be whole numbers separated by commas, not',
        ),
        ('dtype', 'half', "dtype is 'half'; choose one of float32, bfloat16."),
        ('loss.weights.l1', None, 'loss.weights.l1 must be a number, not None.'),
    ],
)
def test_a_value_of_another_type_is_named(tiny, field, value, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        config_lib.validate(put(tiny, {field: value}))


def test_a_run_resumes_under_its_own_config(tiny):
    assert config_lib.check_resume(tiny, as_saved(tiny)) is None


@pytest.mark.parametrize('field', FIELDS)
def test_a_resume_may_change_the_free_fields_and_no_other(tiny, field):
    saved = as_saved(tiny)
    before = config_lib.flatten(config_lib.from_dict(Config, saved))[field]
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
        tiny.reduce_lr_on_plateau.patience = 0
        config_lib.check_resume(put(copy.deepcopy(tiny), {field: value}), as_saved(tiny))
        tiny.reduce_lr_on_plateau.patience = 3
        with pytest.raises(UserError, match=f'{field}='):
            config_lib.check_resume(put(copy.deepcopy(tiny), {field: value}), as_saved(tiny))


def test_tuples_are_the_same_after_json(tiny):
    tiny.generator = tiny.generator.clone(widths=(4, 8))
    config_lib.check_resume(tiny, as_saved(tiny))
    saved = as_saved(tiny)
    tiny.generator = tiny.generator.clone(widths=(4, 4))
    with pytest.raises(UserError, match=re.escape('generator.widths=(4, 8), not (4, 4)')):
        config_lib.check_resume(tiny, saved)


@pytest.fixture
def later(monkeypatch):
    """The config of a later version, which has a field more, 'added', and one in `data`."""
    data = dataclasses.make_dataclass(
        'Data', [('added', int, dataclasses.field(default=3))], bases=(schema.DataConfig,)
    )
    fields = [
        ('data', data, dataclasses.field(default_factory=data)),
        ('added', float, dataclasses.field(default=0.5)),
    ]
    config = dataclasses.make_dataclass('Later', fields, bases=(Config,))
    monkeypatch.setattr(resume, 'Config', config)
    return config


def test_a_field_that_is_added_later_has_its_default_in_old_configs(tiny, later):
    made = config_lib.from_dict(later, as_saved(tiny))
    assert (made.added, made.data.added, made.data.size) == (0.5, 3, 32)
    config_lib.validate(made)


def test_an_old_workdir_is_resumed_with_the_default_of_a_later_field_and_no_other(tiny, later):
    saved = as_saved(tiny)
    config = config_lib.from_dict(later, saved)
    config_lib.check_resume(config, saved)
    config.data.added = 4
    with pytest.raises(UserError, match=re.escape('started with data.added=3, not 4')):
        config_lib.check_resume(config, saved)


def test_released_weights_are_read_by_a_later_version(later, monkeypatch):
    monkeypatch.setattr(released, 'Config', later)
    assert released.load().config.data.added == 3


def test_a_field_that_only_the_workdir_knows_is_left_out(tiny):
    saved = put(as_saved(tiny), {'data.of_old': 'x', 'old': 1, 'generator.of_old': 2})
    config_lib.check_resume(tiny, saved)


def test_a_loss_weight_that_one_side_lacks_is_noticed(tiny):
    saved = as_saved(tiny)
    with pytest.raises(UserError, match=re.escape('loss.weights.huber=None, not 2.0')):
        config_lib.check_resume(put(tiny, {'loss.weights.huber': 2.0}), saved)


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('color_space', 'rgb'),
        ('generator.name', 'lite_unet'),
        ('generator.width', 8),
        ('generator.depth', 3),
        ('generator.norm', 'instance'),
        ('discriminator.width', 8),
        ('discriminator.layers', 2),
        ('discriminator.conditional', False),
    ],
)
def test_other_networks_than_those_of_the_weights_are_named(tiny, field, value):
    before = config_lib.flatten(tiny)[field]
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
        ('loss.weights.l1', 1.0),
        ('generator_optimizer.learning_rate', 1e-5),
        ('data.source', 'elsewhere'),
    ],
)
def test_weights_fit_whatever_else_a_new_run_changes(tiny, field, value):
    saved = as_saved(tiny)
    config_lib.check_same_networks(put(tiny, {field: value}), saved, 'runs/old')


def test_flatten_joins_the_names_of_groups_in_order(tiny):
    names = list(config_lib.flatten(tiny))
    assert names[:2] == ['seed', 'steps']
    assert names.index('generator.name') + 1 == names.index('generator.width')
    assert (
        names.index('generator.width') < names.index('loss.weights.l1') < names.index('data.size')
    )


def test_a_new_network_has_the_defaults_of_its_class(tiny):
    config_lib.set_field(tiny, 'generator.name', 'encoder_decoder')
    assert type(tiny.generator) is encoder_decoder.EncoderDecoder
    assert config_lib.flatten(tiny)['generator.slope'] == 0.3
    with pytest.raises(
        UserError, match=r"generator\.name is 'resnet'; choose one of unet, lite_unet"
    ):
        config_lib.set_field(tiny, 'generator.name', 'resnet')


def test_what_follows_from_other_fields_is_no_option_of_a_network(tiny):
    for name in ('channels', 'size', 'dtype', 'remat', 'parent'):
        with pytest.raises(UserError, match=f"no field 'generator.{name}'"):
            config_lib.set_field(tiny, f'generator.{name}', 1)
