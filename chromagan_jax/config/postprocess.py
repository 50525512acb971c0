"""The options of post-processing: the group `colorize` of a config."""

import dataclasses
from typing import Annotated, Literal

from chromagan_jax.config.fields import Fraction, Range

_Strength = Annotated[float, Range('0 <= x <= 100', lambda x: 0 <= x <= 100)]


@dataclasses.dataclass
class PostProcess:
    """What `chromagan_jax.colorize` does besides the network; by default nothing."""

    sample_noise: bool = False  # keep the network's noise on: the result is a sample
    saturation: Annotated[float, Range('0 <= x <= 10', lambda x: 0 <= x <= 10)] = 1.0  # of chroma
    white_balance: Literal['none', 'gray_world', 'percentile'] = 'none'  # which method
    white_balance_strength: Fraction = 1.0  # share of that correction
    contrast: Fraction = 0.0  # share of CLAHE's lightness in the result; 0: none
    clahe_clip: Annotated[float, Range('1 <= x <= 256', lambda x: 1 <= x <= 256)] = 2.0  # limit
    clahe_tiles: Annotated[int, Range('1 <= x <= 64', lambda x: 1 <= x <= 64)] = 8  # a side
    denoise_before: _Strength = 0.0  # of the gray photograph, in 8-bit steps; 0: none
    denoise_after: _Strength = 0.0  # of the colours, in units of a* and b*; 0: none
    denoise_method: Literal['nlm', 'bilateral'] = 'nlm'  # of the colours: nlm is non-local means


OFF = PostProcess()
