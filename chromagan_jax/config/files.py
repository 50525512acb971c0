"""Config files: where they are, and the config that one of them makes.

A config file has a function `get_config()`, or `get_config(argument)`, that returns a `Config`.
"""

import inspect
import runpy
from pathlib import Path
from typing import Any

from chromagan_jax.config.schema import Config
from chromagan_jax.errors import UserError

# In a source tree, and in an installed package, of which it is a part.
FOLDERS = (Path(__file__).parents[2] / 'configs', Path(__file__).parents[1] / 'configs')


def load(spec: str) -> Config:
    """The config of a file, or of one that comes with the package.

    Args:
        spec: 'configs/base.py', 'base', or one of these and an argument: 'base:tiny'. A path that
            does not exist, in a folder of the name configs, is looked for in the package.

    Raises:
        UserError: if there is no such file, it cannot be run, or the argument is wrong.
    """
    name, colon, argument = spec.partition(':')
    path = find(name)
    try:
        get_config: Any = runpy.run_path(str(path))['get_config']
    except UserError:
        raise
    except KeyError:
        raise UserError(f'{path} has no function get_config: write one.') from None
    except Exception as error:
        raise UserError(f'{path} cannot be run: {_first_line(error)}: correct it.') from error
    if colon and not inspect.signature(get_config).parameters:
        raise UserError(f'{name} takes no argument: leave {colon}{argument} out.')
    config = get_config(argument) if colon else get_config()
    if not isinstance(config, Config):
        raise UserError(f'{path}: get_config returns no chromagan_jax.config.Config: return one.')
    return config


def find(name: str) -> Path:
    """The file of a config by its path or name; raises UserError if there is none."""
    path = Path(name)
    if path.suffix == '.py' and path.is_file():
        return path
    if path.parent in (Path('.'), Path('configs')):
        for folder in FOLDERS:
            if (folder / f'{path.stem}.py').is_file():
                return folder / f'{path.stem}.py'
    raise UserError(f'There is no config {name}: name a file, or one of {", ".join(names())}.')


def names() -> list[str]:
    """The configs that come with the package."""
    return sorted({path.stem for folder in FOLDERS for path in folder.glob('[!_]*.py')})


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f'{type(error).__name__}: {text[0]}' if text else type(error).__name__
