"""Conditional GANs that colorize grayscale photographs, in JAX.

    import chromagan_jax

    chromagan_jax.colorize('photo.jpg').save('colorized.png')

`colorize` and `load` are in `chromagan_jax.api`. It is imported at the first use, since JAX takes a
second to import.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chromagan_jax.api import Colorizer, colorize, load

__all__ = ['Colorizer', '__version__', 'colorize', 'load']
__version__ = '0.2.0'


def __getattr__(name: str) -> Any:
    if name not in ('Colorizer', 'colorize', 'load'):
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from chromagan_jax import api

    return getattr(api, name)
