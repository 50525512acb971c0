import pytest
from absl import flags

from chromagan_jax.errors import UserError
from chromagan_jax.utils import cli


@pytest.fixture
def values():
    values = flags.FlagValues()
    flags.DEFINE_string('report', None, 'A file.', flag_values=values)
    flags.DEFINE_bool('json', False, 'Lines.', flag_values=values)
    return values


def test_flags_are_set_and_the_other_arguments_returned(values):
    assert cli.parse(values, ['command', '--report=a', 'photo', '--json']) == ['photo']
    assert (values.report, values.json) == ('a', True)


def test_a_flag_that_takes_the_next_flag_as_its_value_is_named(values):
    with pytest.raises(UserError, match=r'^--report needs a value, as in --report=VALUE; --json'):
        cli.parse(values, ['command', '--report', '--json'])


@pytest.mark.parametrize('flag', ['--help', '-h', '-help'])
def test_help_is_asked_for_anywhere_on_the_line(flag):
    assert cli.asks_for_help(['command', 'photo', flag])
    assert not cli.asks_for_help(['command', 'help'])


def test_a_tilde_in_a_flag_is_the_home_folder_and_a_default_is_left_as_it_is(values, monkeypatch):
    monkeypatch.setenv('HOME', '/home/me')
    flags.DEFINE_multi_string('input', [], 'Folders.', flag_values=values)
    flags.DEFINE_string('cache', '~/cache', 'A folder.', flag_values=values)
    line = ['command', '--report=~/a', '--input=~', '--input=b~', '~/photo']
    assert cli.parse(values, line) == ['~/photo']  # shells expand arguments
    assert (values.report, values.input, values.cache) == (
        '/home/me/a',
        ['/home/me', 'b~'],
        '~/cache',
    )


def test_a_flag_is_described_with_its_default_and_a_missing_one_named():
    values = flags.FlagValues()
    own = {'flag_values': values}
    flags.DEFINE_multi_string('input', [], 'A folder.', **own)
    flags.DEFINE_list('sizes', ['1', '2'], 'px.', **own)
    flags.DEFINE_bool('speed', False, 'Measure.', **own)
    flags.DEFINE_integer('seed', 0, 'A number.', **own)
    flags.DEFINE_string('photos', None, 'A folder.', required=True, **own)
    shown = dict(cli.described(values[name] for name in values))
    assert shown == {
        'input': 'A folder.',
        'sizes': 'px. (1,2)',
        '[no]speed': 'Measure.',
        'seed': 'A number. (0)',
        'photos': 'A folder.',
    }
    with pytest.raises(UserError, match=r'^--photos is missing: add --photos=VALUE\.$'):
        cli.parse(values, ['command'])
