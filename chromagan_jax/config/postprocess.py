"""Post-processing options: the config group `colorize`."""

import dataclasses
from typing import Annotated, Literal

from chromagan_jax.config.fields import Fraction, Range

_Strength = Annotated[float, Range('0 <= x <= 100', lambda x: 0 <= x <= 100)]


@dataclasses.dataclass
class PostProcess:
    """Processing in `chromagan_jax.colorize` before and after the network. Off by default."""

    sample_noise: bool = False  # keep dropout and noise channels active: a random sample
    saturation: Annotated[float, Range('0 <= x <= 10', lambda x: 0 <= x <= 10)] = 1.0  # of chroma
    white_balance: Literal['none', 'gray_world', 'percentile'] = 'none'  # method
    white_balance_strength: Fraction = 1.0  # share of the correction that is applied
    contrast: Fraction = 0.0  # weight of the CLAHE lightness in the result; 0: none
    clahe_clip: Annotated[float, Range('1 <= x <= 256', lambda x: 1 <= x <= 256)] = 2.0  # limit
    clahe_tiles: Annotated[int, Range('1 <= x <= 64', lambda x: 1 <= x <= 64)] = 8  # per side
    denoise_before: _Strength = 0.0  # of the gray input, in 8-bit levels; 0: none
    denoise_after: _Strength = 0.0  # of the colours, in units of a* and b*; 0: none
    denoise_method: Literal['nlm', 'bilateral'] = 'nlm'  # of the colours; nlm: non-local means


OFF = PostProcess()
