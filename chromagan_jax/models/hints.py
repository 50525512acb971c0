"""Colour hints: a few known colours as further inputs of a generator.

A condition with hints is (B, H, W, 4): lightness, the hinted target a and b, and a mask that is 1
at hinted pixels (Zhang et al. 2017, https://arxiv.org/abs/1705.02999). The other pixels of a, b and
mask are 0.

`SpreadHints` corrects the automatic colours. At a hint their error is known. Attention carries it
to pixels with similar features. Edit propagation does the same with similar colours (An & Pellacini
2008, https://doi.org/10.1145/1360612.1360639). iColoriT spreads hints by attention too (Yun et al.
2023, https://arxiv.org/abs/2207.06831).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from chromagan_jax.models.ops import resize
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
    mask = jnp.minimum(sums[..., -1:], 1)
    return jnp.concatenate([sums[..., :-1] / jnp.maximum(sums[..., -1:], 1e-6) * mask, mask], -1)


class SpreadHints(nn.Module):
    """Moves the automatic ab towards the hints, on whole objects.

    Each hinted block has a known error e: hinted ab minus automatic ab. A pixel p gets the sum of
    w(p, block) e(block). The weights are a softmax over the blocks and 'no hint', of learned
    feature similarity minus learned multiples of the squared distance, in several heads. Two
    convolutions refine the result at the resolution of the ab. Without hints it returns `ab`.
    """

    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, ab: Array, hints: Array, maps: Sequence[Array]) -> Array:
        """Returns (B, h, w, 2) in the units of the target.

        Args:
            ab: (B, h, w, 2), automatic.
            hints: (B, H, W, 3) with H / h = W / w = 1, 2, 4 or 8.
            maps: of the decoder, the finest last and of the size of `ab`; (B, h / s, w / s, C) each
                for a power of two s.
        """
        scale = hints.shape[1] // ab.shape[1]
        known = pool(hints.astype(jnp.float32), scale)
        mask = known[..., 2:]
        errors = jnp.concatenate([(known[..., :2] - ab) * mask, mask], axis=-1)
        coarse = max(1, 4 // scale)  # features have a stride of 4 px, or that of ab
        features = self._features(maps, ab.shape[1] // coarse)
        moved = self._attend(pool(errors, coarse), features)
        moved = resize.upsample(moved, coarse) if coarse > 1 else moved
        return ab + self._refined(moved, jnp.concatenate([maps[-1], ab], axis=-1))

    def _features(self, maps: Sequence[Array], height: int) -> Array:
        """Projected maps, resized to `height` and summed: (B, h, w, heads, features), norm 1."""
        types = {'dtype': self.dtype, 'param_dtype': self.param_dtype}
        total: Any = 0
        for x in maps:
            ratio = height // x.shape[1]
            if ratio < 1:
                continue  # finer than needed
            name = f'project_{ratio}'
            x = nn.Dense(_HEADS * _FEATURES, use_bias=False, name=name, **types)(x)
            total += resize.upsample(x, ratio) if ratio > 1 else x
        total = total.reshape(*total.shape[:3], _HEADS, _FEATURES).astype(jnp.float32)
        return total / jnp.sqrt(jnp.square(total).sum(-1, keepdims=True) + 1e-6)

    def _attend(self, errors: Array, features: Array) -> Array:
        """Spreads the errors of hinted pixels, (B, h, w, 3), over the map.

        Returns (B, h, w, 3): the error in ab, and the total weight of the hints, 0 to 1.
        """
        b, h, w = errors.shape[:3]
        mask, error, key, at = _hinted_blocks(errors, features)
        query = features.reshape(b, h * w, _HEADS, _FEATURES)
        similar = jnp.einsum('bqnf,bknf->bnqk', query, key)
        distance = jnp.square(_places(h, w).reshape(1, -1, 1, 2) - at[:, None]).sum(-1)
        logits = self._scale('sharpness') * similar - self._scale('nearness') * distance[:, None]
        logits = jnp.where(mask[:, None, None] > 0, logits, _FAR)

        types = {'dtype': jnp.float32, 'param_dtype': self.param_dtype}
        flat = query.reshape(b, h * w, -1)
        no_hint = nn.Dense(_HEADS, bias_init=nn.initializers.constant(4.0), name='none', **types)
        gate = nn.Dense(_HEADS, kernel_init=nn.initializers.zeros, name='gate', **types)
        columns = [no_hint(flat).transpose(0, 2, 1)[..., None], logits]
        weights = jax.nn.softmax(jnp.concatenate(columns, axis=-1), axis=-1)[..., 1:]
        heads = jax.nn.softmax(gate(flat)).transpose(0, 2, 1)[..., None]
        values = jnp.concatenate([error, jnp.ones_like(error[..., :1])], axis=-1)
        values = values * (mask[..., None] > 0)
        return ((weights * heads).sum(axis=1) @ values).reshape(b, h, w, 3)

    def _scale(self, name: str) -> Array:
        """A learned positive factor of each head, (heads, 1, 1)."""
        start = nn.initializers.constant(2.0)
        return jnp.exp(self.param(f'log_{name}', start, (_HEADS,), self.param_dtype))[:, None, None]

    def _refined(self, moved: Array, seen: Array) -> Array:
        """The moved error (B, h, w, 3), refined by what is seen there (B, h, w, C)."""
        types = {'dtype': self.dtype, 'param_dtype': self.param_dtype, 'padding': 1}
        inputs = jnp.concatenate([seen, moved.astype(seen.dtype)], axis=-1)
        hidden = nn.relu(Conv(_HIDDEN, (3, 3), name='refine_0', **types)(inputs))
        change = Conv(2, (3, 3), kernel_init=nn.initializers.zeros, name='refine_1', **types)(
            hidden
        )
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
    mask, chosen = jax.lax.top_k(blocks[..., -1], min(MAX_BLOCKS, blocks.shape[1]))
    blocks = jax.vmap(lambda values, index: values[index])(blocks, chosen)
    places = _places(h, w)[::_BLOCK, ::_BLOCK] + 0.5 * (_BLOCK - 1) / max(h, w)
    key = blocks[..., :-3].reshape(b, -1, *features.shape[3:])
    return mask, blocks[..., -3:-1], key, places.reshape(-1, 2)[chosen]


def _places(h: int, w: int) -> Array:
    """Row and column of each pixel over the longer side, (h, w, 2)."""
    grid = jnp.meshgrid(jnp.arange(h), jnp.arange(w), indexing='ij')
    return jnp.stack(grid, axis=-1) / max(h, w)
