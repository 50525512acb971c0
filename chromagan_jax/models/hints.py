"""Colour hints: a few known colours as further inputs of a generator.

A condition with hints is (B, H, W, 4): lightness, the hinted target a and b, and a mask that is 1
at hinted pixels (Zhang et al. 2017, https://arxiv.org/abs/1705.02999). The other pixels of a, b and
mask are 0.

`SpreadHints` corrects the automatic colours. At a hint their error is known. Attention carries it
to pixels with similar features. Edit propagation does the same with similar colours (An & Pellacini
2008, https://doi.org/10.1145/1360612.1360639). iColoriT spreads hints by attention too (Yun et al.
2023, https://arxiv.org/abs/2207.06831).
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from chromagan_jax.models.ops import backend, resize
from chromagan_jax.models.ops.conv import Conv

Array = jax.Array

CHANNELS = 3  # a, b and mask
MAX_BLOCKS = 1024  # hinted blocks of _BLOCK x _BLOCK feature pixels: all of them up to 256 px
_BLOCK = 2  # feature pixels
_HEADS = 4
_FEATURES = 32  # of a head
_HIDDEN = 32  # features of the refinement
_FAR = -1e9  # logit of a block without a hint


def split(condition: Array) -> tuple[Array, Array | None]:
    """(B, H, W, 1 or 4) -> the lightness (B, H, W, 1) and the hints (B, H, W, 3) or None."""
    hints = condition[..., 1:]
    return condition[..., :1], hints if hints.shape[-1] else None


def pool(values: Array, stride: int) -> Array:
    """Means over the hinted pixels of blocks of `stride` x `stride` px, and a mask of blocks.

    (B, H, W, C), the last channel a mask -> (B, H / stride, W / stride, C). The sides must be
    multiples of `stride`. Values at pixels with a mask of 0 must be 0.
    """
    b, h, w, c = values.shape
    sums = values.reshape(b, h // stride, stride, w // stride, stride, c).sum(axis=(2, 4))
    count = sums[..., -1:]
    mask = jnp.minimum(count, jnp.ones_like(count))
    means = sums[..., :-1] / jnp.where(count > 0, count, jnp.ones_like(count))
    return jnp.concatenate([means, mask], axis=-1)


class SpreadHints(nn.Module):
    """Moves the automatic ab towards the hints, on whole objects.

    Each hinted block has a known error e: hinted ab minus automatic ab. A pixel p gets the sum of
    w(p, block) e(block). The weights are a softmax over the blocks and 'no hint', of learned
    feature similarity minus learned multiples of the squared distance, in several heads. Two
    convolutions refine the result at the resolution of the ab. Without hints it returns `ab`.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, ab: Array, hints: Array, maps: Mapping[int, Array], stride: int) -> Array:
        """Returns (B, h, w, 2) in the units of the target.

        Args:
            ab: (B, h, w, 2), automatic.
            hints: (B, H, W, 3).
            maps: of the decoder, by stride s: (B, H / s, W / s, C).
            stride: H / h and W / w, that of the finest map: 1, 2, 4 or 8.
        """
        known = pool(hints.astype(jnp.float32), stride)
        mask = known[..., 2:]
        errors = jnp.concatenate([(known[..., :2] - ab) * mask, mask], axis=-1)
        coarse = max(1, 4 // stride)  # features have a stride of 4 px, or that of ab
        features = self._features(maps, coarse * stride)
        moved = self._attend(pool(errors, coarse), features)
        moved = resize.upsample(moved, coarse) if coarse > 1 else moved
        return ab + self._refined(moved, jnp.concatenate([maps[stride], ab], axis=-1))

    def _features(self, maps: Mapping[int, Array], stride: int) -> Array:
        """Projected maps, resized to `stride` and summed: (B, h, w, heads, features), norm 1."""
        total: Any = 0
        for stride_of_map, x in sorted(maps.items(), reverse=True):
            ratio = stride_of_map // stride
            if ratio < 1:
                continue  # finer than needed
            name = f'project_{ratio}'
            x = nn.Dense(_HEADS * _FEATURES, use_bias=False, name=name, dtype=self.dtype)(x)
            total += resize.upsample(x, ratio) if ratio > 1 else x
        total = total.reshape(*total.shape[:3], _HEADS, _FEATURES).astype(jnp.float32)
        return total / jnp.sqrt(jnp.square(total).sum(-1, keepdims=True) + 1e-6)

    def _attend(self, errors: Array, features: Array) -> Array:
        """Spreads the errors of hinted pixels, (B, h, w, 3), over the map.

        Returns (B, h, w, 3): the error in ab, and the total weight of the hints, 0 to 1.
        """
        b, h, w = errors.shape[:3]
        mask, error, key, at = _hinted_blocks(errors, features)
        query = features.reshape(b, -1, _HEADS, _FEATURES)
        similar = jnp.einsum('bqnf,bknf->bnqk', query, key)
        distance = jnp.square(_places(h, w).reshape(1, -1, 1, 2) - at[:, None]).sum(-1)
        logits = self._scale('sharpness') * similar - self._scale('nearness') * distance[:, None]
        logits = jnp.where(mask[:, None, None] > 0, logits, jnp.full_like(logits, _FAR))

        flat = query.reshape(b, -1, _HEADS * _FEATURES)  # float32
        no_hint = nn.Dense(_HEADS, bias_init=nn.initializers.constant(4.0), name='none')
        gate = nn.Dense(_HEADS, kernel_init=nn.initializers.zeros, name='gate')
        columns = [no_hint(flat).transpose(0, 2, 1)[..., None], logits]
        weights = jax.nn.softmax(jnp.concatenate(columns, axis=-1), axis=-1)[..., 1:]
        heads = jax.nn.softmax(gate(flat)).transpose(0, 2, 1)[..., None]
        weights = (weights * heads).sum(axis=1)
        moved = [weights @ error, weights.sum(axis=-1, keepdims=True)]
        return jnp.concatenate(moved, axis=-1).reshape(b, h, w, 3)

    def _scale(self, name: str) -> Array:
        """A learned positive factor of each head, (heads, 1, 1)."""
        start = nn.initializers.constant(2.0)
        return jnp.exp(self.param(f'log_{name}', start, (_HEADS,)))[:, None, None]

    def _refined(self, moved: Array, seen: Array) -> Array:
        """The moved error (B, h, w, 3), refined by what is seen there (B, h, w, C)."""
        fields = {'dtype': self.dtype, 'padding': 1}
        inputs = jnp.concatenate([seen, moved.astype(seen.dtype)], axis=-1)
        hidden = nn.relu(Conv(_HIDDEN, (3, 3), **fields, name='refine_0')(inputs))
        refine = Conv(2, (3, 3), kernel_init=nn.initializers.zeros, **fields, name='refine_1')
        change = refine(hidden)
        return moved[..., :2] + change * moved[..., 2:]


def _hinted_blocks(errors: Array, features: Array) -> tuple[Array, Array, Array, Array]:
    """The blocks with hints first: their mask, error, features and place.

    Args:
        errors: (B, h, w, 3), the last channel a mask.
        features: (B, h, w, heads, F).

    Returns:
        (B, K), (B, K, 2), (B, K, heads, F) and (B, K, 2), for at most MAX_BLOCKS blocks.
    """
    b, h, w = errors.shape[:3]
    there = errors[..., 2:]
    shared = jnp.concatenate([features.reshape(b, h, w, -1) * there, errors], axis=-1)
    blocks = pool(shared, _BLOCK)
    blocks = blocks.reshape(b, -1, blocks.shape[-1])
    places = _places(h // _BLOCK, w // _BLOCK, _BLOCK)
    places = jnp.broadcast_to(places.reshape(1, -1, 2), (b, blocks.shape[1], 2))
    if not backend.is_portable():  # other runtimes have sizes that are not known here
        _, chosen = jax.lax.top_k(blocks[..., -1], min(MAX_BLOCKS, blocks.shape[1]))
        chosen = chosen[..., None]
        blocks, places = (jnp.take_along_axis(x, chosen, axis=1) for x in (blocks, places))
    key = blocks[..., :-3].reshape(b, -1, *features.shape[3:])
    return blocks[..., -1], blocks[..., -3:-1], key, places


def _places(h: int, w: int, side: int = 1) -> Array:
    """Centres of squares of `side` px: row and column over the longer side, (h, w, 2)."""
    rows, columns = (side * jnp.arange(n, dtype=jnp.float32) + 0.5 * (side - 1) for n in (h, w))
    grid = jnp.meshgrid(rows, columns, indexing='ij')
    return jnp.stack(grid, axis=-1) / jnp.maximum(side * h, side * w).astype(jnp.float32)
