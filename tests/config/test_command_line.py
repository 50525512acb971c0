"""The config's part of a command line, and config files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from chromagan_jax import config as config_lib
from chromagan_jax.config import Config, command_line, files
from chromagan_jax.errors import UserError

ROOT = Path(__file__).parents[2]
TINY = f'--config={ROOT}/configs/base.py:tiny'


def make(*arguments: str) -> Config:
    return command_line.make_config(command_line.split(arguments))


def test_fields_are_set_in_both_spellings_and_what_is_left_is_handed_on():
    line = command_line.split(
        ['--workdir=x', TINY, '--config.steps', '7', '-config.data.size=16', '--profile', 'a.jpg']
    )
    assert line.rest == ['--workdir=x', '--profile', 'a.jpg']
    config = command_line.make_config(line)
    assert (config.steps, config.data.size) == (7, 16)


@pytest.mark.parametrize(
    ('argument', 'name', 'value'),
    [
        ('--config.ema_decay=0', 'ema_decay', 0.0),
        ('--config.data.flip=false', 'data.flip', False),
        ('--config.data.labels', 'data.labels', True),
        ('--config.generator.widths=(4, 8)', 'generator.widths', (4, 8)),
        ('--config.generator.widths=4,8', 'generator.widths', (4, 8)),
        ('--config.generator.widths=()', 'generator.widths', ()),
        ('--config.loss.weights.huber=3', 'loss.weights.huber', 3.0),
        ('--config.pretrained.vgg16=a=b.npz', 'pretrained.vgg16', 'a=b.npz'),
        ('--config.data.source=', 'data.source', ''),
        (
            '--config.generator_optimizer.learning_rate=1e-3',
            'generator_optimizer.learning_rate',
            1e-3,
        ),
    ],
)
def test_a_value_has_the_type_of_its_field(argument, name, value):
    found = config_lib.flatten(make(TINY, argument))[name]
    assert found == value
    assert type(found) is type(value)


def test_a_network_is_chosen_before_its_options_are_set():
    config = make(TINY, '--config.generator.name=encoder_decoder', '--config.generator.slope=0.1')
    assert config.generator.slope == 0.1


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (['--config.qqq=3'], "There is no field 'qqq' in the config."),
        (['--config.gen.width=3'], "There is no field 'gen.width' in the config: did you mean"),
        (['--config.seed.x=3'], "There is no field 'seed.x' in the config"),
        (
            ['--config.generator.widht=3'],
            "There is no field 'generator.widht' in the config: did you mean 'generator.width'?",
        ),
        (['--config.widht=3'], "There is no field 'widht' in the config: did you mean"),
        (['--config.data=3'], "There is no field 'data' in the config"),
        (['--config.stesp=3'], "There is no field 'stesp' in the config: did you mean 'steps'?"),
        (['--config.pretrained.vgg=x'], "no field 'pretrained.vgg' in the config: did you mean"),
        (['--config.steps=abc'], "--config.steps must be a whole number, not 'abc'."),
        (['--config.steps=1.5'], "--config.steps must be a whole number, not '1.5'."),
        (['--config.ema_decay=high'], "--config.ema_decay must be a number, not 'high'."),
        (['--config.data.flip=5'], "--config.data.flip must be true or false, not '5'."),
        (
            ['--config.generator.widths=4,x'],
            "--config.generator.widths must be whole numbers separated by commas, not '4,x'.",
        ),
        (['--config.steps'], '--config.steps has no value: write --config.steps=VALUE.'),
        (
            ['--config.generator.name=resnet'],
            "generator.name is 'resnet'; choose one of unet, lite_unet",
        ),
    ],
)
def test_what_is_wrong_with_a_field_is_said_in_one_sentence(arguments, sentence):
    with pytest.raises(UserError) as error:
        make(TINY, *arguments)
    assert str(error.value).startswith(sentence) or sentence in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ('spec', 'sentence'),
    [
        (None, 'No config is named: add --config=configs/base.py.'),
        ('', 'No config is named: add --config=configs/base.py.'),
        ('nope.py', 'There is no config nope.py: name a file, or one of base, best, '),
        ('far/away/base.py', 'There is no config far/away/base.py: name a file, or one of'),
        ('base:huge', "configs/base.py takes the argument tiny or none, not 'huge'."),
        ('pix2pix:tiny', 'pix2pix takes no argument: remove :tiny.'),
    ],
)
def test_a_config_that_is_not_there_is_named_with_those_that_are(spec, sentence):
    with pytest.raises(UserError) as error:
        make(*([] if spec is None else [f'--config={spec}']))
    assert str(error.value).startswith(sentence)


@pytest.mark.parametrize(
    ('text', 'sentence'),
    [
        ('x = 1', 'has no function get_config: add one.'),
        ('def get_config(:', 'cannot be run (SyntaxError: '),
        ('import nonsense_package', 'cannot be run (ModuleNotFoundError: No module named'),
        ("import os\nos.environ['NO_NAME']", "cannot be run (KeyError: 'NO_NAME'): fix it."),
        ('def get_config():\n    return 1 / 0', 'cannot be run (ZeroDivisionError: division by'),
        ('def get_config(size): ...', 'mine.py takes an argument: write '),
        (
            'def get_config():\n    return {}',
            'get_config returns a dict: return a chromagan_jax.config.Config.',
        ),
    ],
)
def test_a_config_file_that_does_not_work_is_named(tmp_path, text, sentence):
    path = tmp_path / 'mine.py'
    path.write_text(text)
    with pytest.raises(UserError) as error:
        files.load(str(path))
    assert str(error.value).startswith(str(path))
    assert sentence in str(error.value)


def test_a_file_of_ones_own_goes_on_from_a_config_of_the_package(tmp_path):
    (tmp_path / 'mine.py').write_text(
        'from chromagan_jax.config import load\n\n\n'
        'def get_config(size):\n'
        "    config = load('pix2pix')\n"
        '    config.data.size = int(size)\n'
        '    return config\n'
    )
    config = files.load(f'{tmp_path}/mine.py:128')
    assert (config.data.size, config.generator.width) == (128, 64)


def test_the_configs_of_the_package_are_found_from_any_folder(tmp_path):
    program = (
        'from chromagan_jax import config\n'
        "for name in ('configs/pix2pix.py', 'pix2pix', 'pix2pix.py'):\n"
        '    print(config.load(name).batch_size)\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', program],
        cwd=tmp_path,
        env=os.environ | {'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ['16'] * 3
