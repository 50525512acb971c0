"""The options of post-processing: the group `colorize` of a config."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from chromagan_jax.errors import UserError


class PostProcess(NamedTuple):
    """The steps, in order, and their strengths; by default none is taken."""

    sample_noise: bool = False  # keep the network's noise on: the result is a sample
    saturation: float = 1.0  # gain of the chroma
    white_balance: str = 'none'  # none, gray_world or percentile
    white_balance_strength: float = 1.0  # share of that correction
    contrast: float = 0.0  # share of CLAHE's lightness in the result; 0: none
    clahe_clip: float = 2.0  # CLAHE's clip limit
    clahe_tiles: int = 8  # CLAHE's tiles a side
    denoise_before: float = 0.0  # strength, in 8-bit steps, on the gray photograph; 0: none
    denoise_after: float = 0.0  # strength, in units of a* and b*, on the chroma; 0: none
    denoise_method: str = 'nlm'  # of the chroma: nlm or bilateral


OFF = PostProcess()
_CHOICES = {
    'white_balance': ('none', 'gray_world', 'percentile'),
    'denoise_method': ('nlm', 'bilateral'),
}
_RANGES = {
    'saturation': (0, 10),
    'white_balance_strength': (0, 1),
    'contrast': (0, 1),
    'clahe_clip': (1, 256),  # 256: of as many bins none is clipped
    'clahe_tiles': (1, 64),
    'denoise_before': (0, 100),
    'denoise_after': (0, 100),
}


def make(fields: Mapping[str, Any]) -> PostProcess:
    """The steps that a config's group `colorize` describes; fields that it lacks are off.

    Raises:
        UserError: naming the first field that is unknown or impossible.
    """
    for name, value in fields.items():
        if name not in PostProcess._fields:
            raise UserError(f'colorize.{name} is no field: {", ".join(PostProcess._fields)} are.')
        if name in _CHOICES:
            if value not in _CHOICES[name]:
                choices = ', '.join(_CHOICES[name])
                raise UserError(f'colorize.{name} is {value!r}; choose one of {choices}.')
        elif name == 'sample_noise':
            if not isinstance(value, bool):
                raise UserError(f'colorize.{name} must be true or false, not {value!r}.')
        else:
            _check_number(name, value)
    return PostProcess(**fields)


def _check_number(name: str, value: Any) -> None:
    low, high = _RANGES[name]
    whole = name == 'clahe_tiles'
    number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high:
        kind = 'a whole number, ' if whole else ''
        raise UserError(f'colorize.{name} must be {kind}{low} <= x <= {high}, not {value!r}.')
