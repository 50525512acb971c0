"""Exports a generator as a file that other runtimes load: ONNX or StableHLO.

The input `condition` is (B, H, W, 1) float32, L*/50 - 1. The output `ab` is (B, H, W, 2) float32,
a* and b* of CIELAB. B is any number. In StableHLO H and W are any multiples of 32; in ONNX they are
fixed.
"""

import logging
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from chromagan_jax import color
from chromagan_jax.errors import UserError
from chromagan_jax.gan import steps
from chromagan_jax.gan.released import Trained
from chromagan_jax.models.ops import backend

Network = Callable[[jax.Array], jax.Array]

PLATFORMS = ('cpu', 'cuda', 'tpu')


def make_network(trained: Trained) -> Network:
    """The function that is exported: condition (B, H, W, 1) -> ab (B, H, W, 2), float32.

    Raises:
        UserError: if the generator takes hints.
    """
    if getattr(trained.generator, 'hints', False):
        raise UserError('A network with hints cannot be exported: choose a run without them.')
    generator = trained.generator.clone(dtype=jnp.float32)
    variables = jax.tree.map(np.asarray, trained.variables)

    def network(condition: jax.Array) -> jax.Array:
        with backend.portable():
            target = steps.predict(generator, variables, condition)
        return color.to_lab(condition, target)[..., 1:].astype(jnp.float32)

    return network


def to_stablehlo(network: Network) -> bytes:
    """The serialized `jax.export.Exported` of a network, for CPUs, GPUs and TPUs.

    B is any number, H and W are any multiples of 32.

    Raises:
        UserError: if flatbuffers is not installed.
    """
    try:
        import flatbuffers  # noqa: F401
    except ImportError as error:
        raise _missing('stablehlo', error) from error
    shape = jax.export.symbolic_shape('b, 32*h, 32*w, 1')
    condition = jax.ShapeDtypeStruct(shape, jnp.float32)
    exported = jax.export.export(jax.jit(network), platforms=PLATFORMS)(condition)
    return bytes(exported.serialize())


def to_onnx(network: Network, size: int, dtype: str = 'float32') -> bytes:
    """The ONNX model of a network at one size, for any B.

    Args:
        network: of `make_network`.
        size: H and W, px, a multiple of 32.
        dtype: of the weights and the computation, float32 or float16. Input and output are float32.

    Raises:
        UserError: if jax2onnx or onnxruntime is not installed, or the size is no multiple of 32.
    """
    if size % 32:
        raise UserError(f'--size must be a multiple of 32, not {size}.')
    try:
        import jax2onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16
    except ImportError as error:
        raise _missing('onnx', error) from error
    logging.getLogger('onnx_ir').setLevel(logging.ERROR)  # of shapes without a type
    inputs = [('B', size, size, 1)]
    names = {'input_names': ['condition'], 'output_names': ['ab']}
    model = jax2onnx.to_onnx(network, inputs=inputs, **names)
    if dtype == 'float16':
        model = convert_float_to_float16(model, keep_io_types=True)
    return bytes(model.SerializeToString())


def _missing(form: str, error: ImportError) -> UserError:
    return UserError(
        f'--format={form} needs {error.name}: install it with '
        "`pip install 'chromagan_jax[export]'`."
    )
