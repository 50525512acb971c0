"""Exports a generator as a file that other runtimes load: ONNX or StableHLO.

The input `condition` is (B, H, W, 1) float32, L*/50 - 1. The output `ab` is (B, H, W, 2) float32,
a* and b* of CIELAB. The optional second input `hints` is (B, H, W, 3) float32: a* and b* of CIELAB
at hinted pixels, and a mask that is 1 there; 0 elsewhere. B is any number, H and W are any
multiples of 32, or of what the network needs.
"""

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from chromagan_jax import color
from chromagan_jax.errors import UserError
from chromagan_jax.gan import model as model_lib
from chromagan_jax.gan.released import Trained
from chromagan_jax.models.chromagan import TwoBranch
from chromagan_jax.models.hints import CHANNELS
from chromagan_jax.models.ops import backend
from chromagan_jax.models.unet import UNet

PLATFORMS = ('cpu', 'cuda', 'tpu')
_MULTIPLE = 32  # of H and W, px, where the network asks for no larger one


class Network(NamedTuple):
    """What is exported."""

    function: Callable[..., jax.Array]  # of the inputs -> ab (B, H, W, 2), float32
    inputs: dict[str, int]  # channels by name
    multiple: int  # H and W are multiples of it, px
    size: int | None = None  # the only H and W, px; None: all multiples


def make_network(trained: Trained, size: int | None = None, hints: bool = False) -> Network:
    """The function that is exported, and its inputs.

    Args:
        trained: generator and weights.
        size: px, the only H and W; None: any multiples. ChromaGAN's generator has only its own
            size. A U-Net with SqueezeNet's encoder gets the size at which it was evaluated: for any
            size, onnxruntime fails in a Reshape.
        hints: adds the input for hints. jax2onnx then needs a `size`.

    Raises:
        UserError: if the network does not take that size, or takes no hints.
    """
    generator = trained.generator.clone(dtype=jnp.float32)
    if hints and not getattr(generator, 'hints', False):
        raise UserError(f'{trained.title} takes no hints: leave --hints out.')
    variables = jax.tree.map(np.asarray, trained.variables)
    inputs = {'condition': 1} | ({'hints': CHANNELS} if hints else {})

    def network(condition: jax.Array, *given_hints: jax.Array) -> jax.Array:
        scale = np.array([color.AB_SCALE, color.AB_SCALE, 1], np.float32)
        given = jnp.concatenate([condition, *(points / scale for points in given_hints)], axis=-1)
        with backend.portable():
            target = model_lib.predict(generator, variables, given)
        return color.to_lab(condition, target)[..., 1:].astype(jnp.float32)

    if isinstance(generator, TwoBranch):
        if size not in (None, generator.size):
            raise UserError(f'--size must be {generator.size} for this network, not {size}.')
        return Network(network, inputs, 1, generator.size)
    multiple = 2**generator.levels if isinstance(generator, UNet) else _MULTIPLE
    if isinstance(generator, UNet) and generator.encoder == 'squeezenet':
        size = size or trained.size
    if size and size % multiple:
        raise UserError(f'--size must be a multiple of {multiple}, not {size}.')
    return Network(network, inputs, multiple, size)


def to_stablehlo(network: Network) -> bytes:
    """The serialized `jax.export.Exported` of a network, for CPUs, GPUs and TPUs.

    Raises:
        UserError: if flatbuffers is not installed.
    """
    try:
        import flatbuffers  # noqa: F401
    except ImportError as error:
        raise _missing('stablehlo', error) from error
    side = network.size or network.multiple
    sides = f'{side}, {side}' if network.size else f'{side}*h, {side}*w'
    *shape, _ = jax.export.symbolic_shape(f'b, {sides}, 1')
    given = [jax.ShapeDtypeStruct((*shape, n), jnp.float32) for n in network.inputs.values()]
    exported = jax.export.export(jax.jit(network.function), platforms=PLATFORMS)(*given)
    return bytes(exported.serialize())


def to_onnx(network: Network, dtype: str = 'float32') -> bytes:
    """The ONNX model of a network.

    Args:
        network: of `make_network`.
        dtype: of the weights and the computation, float32 or float16. Inputs and output are
            float32.

    Raises:
        UserError: if jax2onnx or onnxruntime is not installed.
    """
    try:
        import jax2onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16
    except ImportError as error:
        raise _missing('onnx', error) from error
    logging.getLogger('onnx_ir').setLevel(logging.ERROR)  # of shapes without a type
    jax.clear_caches()  # symbolic sizes of an earlier export do not equal those of this one
    m = network.multiple

    def of_blocks(*given: jax.Array) -> jax.Array:
        b, h, _, w, *_ = given[0].shape
        return network.function(*(x.reshape(b, m * h, m * w, x.shape[-1]) for x in given))

    # jax2onnx knows h and w only if they are sides of an input.
    sides = (network.size, network.size) if network.size else ('h', m, 'w', m)
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Explicitly requested dtype')  # of jax2onnx's constants
        model = jax2onnx.to_onnx(
            network.function if network.size else of_blocks,
            inputs=[('B', *sides, channels) for channels in network.inputs.values()],
            input_names=list(network.inputs),
            output_names=['ab'],
        )
    if not network.size:
        _take_images(model.graph, m)
    if dtype == 'float16':
        model = convert_float_to_float16(model, keep_io_types=True)
    return bytes(model.SerializeToString())


def _take_images(graph: Any, multiple: int) -> None:
    """Replaces inputs (B, h, multiple, w, multiple, C) of an ONNX graph by (B, H, W, C)."""
    from onnx import TensorProto, helper

    nodes = []
    divisor = helper.make_tensor('block', TensorProto.INT64, [4], [1, multiple, multiple, 1])
    side = helper.make_tensor('block_side', TensorProto.INT64, [1], [multiple])
    order = helper.make_tensor('block_order', TensorProto.INT64, [6], [0, 1, 4, 2, 4, 3])
    images = []
    for value in graph.input:
        name, channels = value.name, value.type.tensor_type.shape.dim[-1].dim_value
        blocks = f'{name}_blocks'
        images.append(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ['B', 'H', 'W', channels])
        )
        for node in graph.node:
            node.input[:] = [blocks if given == name else given for given in node.input]
        parts = [f'{blocks}_{index}' for index in range(4)]
        nodes += [
            helper.make_node('Shape', [name], [parts[0]]),
            helper.make_node('Div', [parts[0], divisor.name], [parts[1]]),
            helper.make_node('Concat', [parts[1], side.name], [parts[2]], axis=0),
            helper.make_node('Gather', [parts[2], order.name], [parts[3]]),
            helper.make_node('Reshape', [name, parts[3]], [blocks]),
        ]
    _replace(graph.input, images)
    _replace(graph.node, [*nodes, *graph.node])
    graph.initializer.extend([divisor, side, order])
    ab = helper.make_tensor_value_info('ab', TensorProto.FLOAT, ['B', 'H', 'W', 2])
    _replace(graph.output, [ab])


def _replace(field: Any, values: Sequence[Any]) -> None:
    values = list(values)
    del field[:]
    field.extend(values)


def _missing(form: str, error: ImportError) -> UserError:
    return UserError(
        f'--format={form} needs {error.name}: install it with '
        "`pip install 'chromagan_jax[export]'`."
    )
