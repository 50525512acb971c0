"""The conditions of a run, the same for photographs and for films."""

from collections.abc import Callable
from typing import NamedTuple

from chromagan_jax.data.decode import MAX_PIXELS
from chromagan_jax.inference.outcomes import Outcome
from chromagan_jax.inference.sharing import Claims


class Conditions(NamedTuple):
    """What is left out, when to stop, and who hears of the outcomes."""

    max_pixels: int = MAX_PIXELS  # of the photographs in flight, or of a frame; larger ones fail
    stopping: Callable[[], bool] = lambda: False  # once it is true, no photograph is begun
    skip_color: bool = False  # whether photographs and films in colour are left out
    previews: bool = False  # whether outcomes have previews
    on_outcome: Callable[[Outcome], None] = lambda outcome: None  # called with each outcome
    claims: Claims = Claims()  # on the results, if other runs may write into the same folder
    overwrite: bool = True  # whether results that other runs have written meanwhile are made again
