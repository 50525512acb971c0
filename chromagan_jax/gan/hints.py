"""Random hints for training. Config fields: `hints`."""

import jax
import jax.numpy as jnp

from chromagan_jax.config.schema import HintsConfig
from chromagan_jax.sharding import draw_rows

Array = jax.Array

_MAX_RADIUS = 4  # px, of the revealed squares


def draw_hints(config: HintsConfig, target: Array, key: Array) -> Array:
    """Reveals the mean target of random squares (Zhang et al. 2017, section 3.2).

    A share `none` of the images gets no hint. The number of hints of the others is geometric with
    the mean `mean`, at most `most`. A square has a side of 1 to 9 px.

    Args:
        config: how many hints.
        target: (B, H, W, 2).
        key: PRNG key.

    Returns:
        (B, H, W, 3): the revealed target, and a mask.
    """
    b, h, w, _ = target.shape

    def draw(key: Array, lead: tuple[int, ...]) -> list[Array]:
        keys, ends = jax.random.split(key, 5), (_MAX_RADIUS + 1, h, w)
        uniform = [jax.random.uniform(key, (*lead, 1)) for key in keys[:2]]
        shape = (*lead, config.most)
        return uniform + [
            jax.random.randint(key, shape, 0, end) for key, end in zip(keys[2:], ends, strict=True)
        ]

    share, automatic, radius, row, column = draw_rows(draw, key, b)
    count = 1 + jnp.floor(jnp.log(jnp.maximum(share, 1e-6)) / jnp.log1p(-1 / config.mean))
    count = jnp.where(automatic < config.none, 0, count)
    used = jnp.arange(config.most) < count
    rows = (jnp.abs(jnp.arange(h) - row[..., None]) <= radius[..., None]) & used[..., None]
    columns = jnp.abs(jnp.arange(w) - column[..., None]) <= radius[..., None]
    rows, columns = rows.astype(target.dtype), columns.astype(target.dtype)
    # A square is the product of a row mask and a column mask, (B, N, H) and (B, N, W).
    sums = jnp.einsum('bnh,bnw,bhwc->bnc', rows, columns, target)
    area = jnp.einsum('bnh,bnw->bn', rows, columns)[..., None]
    colors = jnp.concatenate([sums / jnp.maximum(area, 1), jnp.ones_like(area)], axis=-1)
    revealed = jnp.einsum('bnh,bnw,bnc->bhwc', rows, columns, colors)
    return revealed / jnp.maximum(revealed[..., 2:], 1)  # the mean where squares overlap
