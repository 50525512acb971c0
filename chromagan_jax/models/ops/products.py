"""Matrix products, in bfloat16 if JAX is set to it.

`JAX_DEFAULT_MATMUL_PRECISION=bfloat16` is JAX's setting for products with rounded factors. XLA
ignores it on a CPU. There the convolutions of this package follow it: a CPU with AMX multiplies
bfloat16 several times as fast as float32 (docs/performance.md). Kernel gradients stay in float32,
since XLA has no fast program for their layout.
"""

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array


def product(subscripts: str, x: Array, y: Array) -> Array:
    """`jnp.einsum`; float32 factors are rounded to bfloat16 with JAX's setting.

    Sums and result keep the type of `x`.
    """
    # JAX's stubs lack the setting, and `jax.config.values` ignores `jax.default_matmul_precision`.
    precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    if precision == 'bfloat16' and x.dtype == jnp.float32:
        # The barrier keeps XLA from moving a transposition into the product, for which it would
        # have no program.
        x, y = lax.optimization_barrier((x.astype(jnp.bfloat16), y.astype(jnp.bfloat16)))
        return jnp.einsum(subscripts, x, y, preferred_element_type=jnp.float32)
    return jnp.einsum(subscripts, x, y)
