"""Finds and loads config files.

A config file defines `get_config()` or `get_config(argument)`, which returns a `Config`.
"""

import inspect
import runpy
from pathlib import Path

from chromagan_jax.config.schema import Config
from chromagan_jax.errors import UserError
from chromagan_jax.utils.paths import expand

# The folder of configs in a source tree and in an installed package.
FOLDERS = (Path(__file__).parents[2] / 'configs', Path(__file__).parents[1] / 'configs')


def load(spec: str) -> Config:
    """Loads a config from a file or from the configs of the package.

    Args:
        spec: path or name with an optional argument: 'configs/base.py', 'base' or 'base:tiny'. If
            'configs/NAME.py' does not exist, NAME is looked up in the package.

    Raises:
        UserError: if the file is missing or fails, or the argument is wrong.
    """
    name, colon, argument = spec.partition(':')
    path = find(name)
    try:
        get_config = runpy.run_path(str(path)).get('get_config')
        if not callable(get_config):
            raise UserError(f'{path} has no function get_config: add one.')
        parameters = inspect.signature(get_config).parameters.values()
        if colon and not parameters:
            raise UserError(f'{name} takes no argument: remove {colon}{argument}.')
        if not colon and any(each.default is each.empty for each in parameters):
            raise UserError(f'{name} takes an argument: write {name}:ARGUMENT.')
        config = get_config(argument) if colon else get_config()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f'{path} cannot be run ({_first_line(error)}): fix it.') from error
    if not isinstance(config, Config):
        raise UserError(
            f'{path}: get_config returns a {type(config).__name__}: return a '
            'chromagan_jax.config.Config.'
        )
    return config


def find(name: str) -> Path:
    """The file of a config, by path or name; raises UserError if it does not exist."""
    path = expand(name)
    if path.suffix == '.py' and path.is_file():
        return path
    if path.parent in (Path('.'), Path('configs')):
        for folder in FOLDERS:
            if (folder / f'{path.stem}.py').is_file():
                return folder / f'{path.stem}.py'
    raise UserError(f'There is no config {name}: name a file, or one of {", ".join(names())}.')


def names() -> list[str]:
    """Names of the configs in the package."""
    return sorted({path.stem for folder in FOLDERS for path in folder.glob('[!_]*.py')})


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f'{type(error).__name__}: {text[0]}' if text else type(error).__name__
