r"""Makes a release of weights that the PyTorch twin trained.

    python -m tools.import_twin --weights=OUT/generator.safetensors --log=OUT/train.log \
        --val=HELD_OUT_DIR --features=SQUEEZENET

Converts the generator of `tools.torch_twin` and scores it on the photographs in --val at each of
--sizes. Writes weights and config, which `python -m chromagan_jax.colorize` reads, the model card,
the training log and the licence to --output. --data_note and --training_note are Markdown files
about the photographs and the training. Text with a path of this machine is refused.

Exit codes: 0 done; 1 user error; 75 stopped, start it again.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import safetensors.numpy
from absl import logging
from flax import traverse_util

from chromagan_jax import config as config_lib
from chromagan_jax import sharding
from chromagan_jax.data.sources import make_source
from chromagan_jax.errors import UserError
from chromagan_jax.gan import released
from chromagan_jax.inference import output as output_lib
from chromagan_jax.models.pretrained.weights import readable
from configs import lite_unet
from tools import card, cli, held_out, record, release

PyTree = Any
Arrays = Mapping[str, np.ndarray]

DATA_NOTE = Path(__file__).with_name('twin_data.md')
TRAINING_NOTE = Path(__file__).with_name('twin_training.md')
# The decoder levels, by stride: convolution and batch norm in the twin's state dict.
_LEVELS = {
    32: [('mid', 'bn')],
    **{s: [(f'up{s}.conv{i}', f'up{s}.bn{i}') for i in (0, 1)] for s in (16, 8, 4, 2)},
}


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    return cli.exit_code('import_twin', lambda: import_weights(parse(argv)))


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The flags; raises UserError if one is missing or impossible."""
    parser = cli.Parser('python -m tools.import_twin [FLAG...]', __doc__)
    add = parser.add_argument
    add('--weights', default='', help='.safetensors file of the generator')
    add('--log', default='', help='training log, JSON lines')
    add('--val', default='', help='photographs to score on, as eval.source takes them')
    add('--features', default='', help="SqueezeNet's weights, for Frechet distances (none)")
    add('--encoder', default='lite0', help='lite0, lite1 or lite2 (lite0)')
    add('--size', type=int, default=256, help='px, of the input of the network in colorize (256)')
    add('--sizes', default='128,256', help='px, of the evaluations (128,256)')
    add(
        '--output',
        default=str(released.WEIGHTS),
        help='folder of release (chromagan_jax/weights)',
    )
    add('--data_note', default=str(DATA_NOTE), help='text on the photographs (tools/twin_data.md)')
    add(
        '--training_note',
        default=str(TRAINING_NOTE),
        help='text (tools/twin_training.md)',
    )
    args = parser.parse_args(argv)
    for name in ('weights', 'log', 'val'):
        if not getattr(args, name):
            raise UserError(f'--{name} is missing: add --{name}.')
    args.sizes = release.parse_sizes(args.sizes)
    return args


def import_weights(args: argparse.Namespace) -> None:
    """Reads and scores everything, then writes the release.

    Raises:
        UserError: if a file is missing or does not fit, or a text holds a path of this machine.
    """
    mesh, source = sharding.make_mesh(), make_source(args.val, 'validation')
    data_note, how = (release.read_note(Path(p)) for p in (args.data_note, args.training_note))
    log, path = release.read_note(Path(args.log)), Path(args.weights)
    record.check_is_no_run(Path(args.output))
    output_lib.check_writable(Path(args.output))
    arrays = readable(lambda: safetensors.numpy.load_file(path), path, 'a .safetensors file')
    try:
        variables = to_variables(arrays)
        step = _last_step(log)
    except (KeyError, ValueError) as error:
        raise UserError(
            f'{args.weights} or {args.log} is not what tools.torch_twin writes ({error}): name its '
            'files.'
        ) from error
    config = lite_unet.get_config()
    config.generator = config.generator.clone(encoder=args.encoder)
    config.eval.size = args.size
    config.pretrained['efficientnet_lite'] = f'{args.encoder}.safetensors'
    described: dict[str, Any] = {
        'config': config_lib.to_dict(config),
        'step': step,
        'trained_by': 'tools.torch_twin',
    }
    with TemporaryDirectory() as folder:
        released.save(Path(folder), variables, described)
        trained = released.load(mesh, Path(folder))  # as colorize reads it
    scores = [
        row
        for size in args.sizes
        for row in release.evaluated({'float16': trained}, size, source, args.features, mesh)
    ]
    described |= {'commit': release.commit(), 'evaluation': scores}
    scored_on = held_out.phrase(held_out.fingerprints(described), source)
    text = card.card(trained, 'the moving average', data_note, how, described, scored_on)
    texts = {
        'MODEL_CARD.md': text,
        'LICENSE': card.notice([described['config']]),
        'log.jsonl': log,
    }
    release.write(Path(args.output), texts, variables, described)


def _last_step(log: str) -> int:
    """The last step in a log; raises ValueError if it is no JSON."""
    lines = [json.loads(line) for line in log.splitlines()]
    return max(int(line[key]) for line in lines for key in ('step', 'steps') if key in line)


def to_variables(arrays: Arrays) -> PyTree:
    """The variables of `models.lite_unet.LiteUNet` from the state dict of the twin's generator.

    Args:
        arrays: the state dict, by name; kernels are OIHW.

    Returns:
        {'params': ..., 'batch_stats': ...}, float32.

    Raises:
        KeyError: with the name of an array that is missing.
    """
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    params, stats = {**_encoder(arrays)}, {}
    params['context/kernel'] = arrays['context.weight'].T
    params['context/bias'] = arrays['context.bias']
    for stride, parts in _LEVELS.items():
        for index, (conv, norm) in enumerate(parts):
            level = f'level_{stride}'
            params[f'{level}/kernel_{index}'] = _hwio(arrays[f'{conv}.weight'])
            params[f'{level}/norm_{index}/scale'] = arrays[f'{norm}.weight']
            params[f'{level}/norm_{index}/bias'] = arrays[f'{norm}.bias']
            stats[f'{level}/norm_{index}/mean'] = arrays[f'{norm}.running_mean']
            stats[f'{level}/norm_{index}/var'] = arrays[f'{norm}.running_var']
    params['out/kernel'], params['out/bias'] = _hwio(arrays['out.weight']), arrays['out.bias']
    return {
        name: traverse_util.unflatten_dict(flat, sep='/')
        for name, flat in (('params', params), ('batch_stats', stats))
    }


def _encoder(arrays: Arrays) -> dict[str, np.ndarray]:
    """The encoder's parameters, by path."""
    params = {
        'encoder/stem/kernel': _hwio(arrays['encoder.stem.weight']),
        'encoder/stem/bias': arrays['encoder.stem.bias'],
    }
    for name in (name for name in arrays if name.startswith('encoder.blocks.')):
        _, _, number, part, kind = name.split('.')
        path = f'encoder/block_{number}/{part}'
        if kind == 'bias':
            params[f'{path}/bias'] = arrays[name]
        elif part == 'depthwise':
            params[f'{path}/kernel'] = _hwio(arrays[name])[:, :, 0]
        else:
            params[f'{path}/kernel'] = _hwio(arrays[name])[0, 0]
    return params


def _hwio(kernel: np.ndarray) -> np.ndarray:
    return kernel.transpose(2, 3, 1, 0)


if __name__ == '__main__':
    logging.set_verbosity(logging.ERROR)
    sys.exit(main(sys.argv[1:]))
