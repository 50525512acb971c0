"""Exports a generator to ONNX or StableHLO.

    python -m chromagan_jax.export --output=colorizer.onnx
    python -m chromagan_jax.export --workdir=DIR --output=colorizer.stablehlo

Without --workdir it exports the released weights. The input `condition` is (B, H, W, 1) float32,
L*/50 - 1; the output `ab` is (B, H, W, 2) float32, a* and b* of CIELAB. --hints adds the
input `hints`, (B, H, W, 3) float32: a*, b* and a mask that is 1 at hinted pixels, else 0.
B is any number; H and W are any multiples of 32, or of what the network needs.

Exit codes: 0 done; 1 user error, reported in one sentence; 75 interrupted: start it again.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags, logging

from chromagan_jax.errors import EXIT_RESTART, UserError
from chromagan_jax.inference import export, options, predictor
from chromagan_jax.inference.output import check_writable
from chromagan_jax.utils import cli, files
from chromagan_jax.utils.preemption import stop_requests

_FORMATS = ['onnx', 'stablehlo']
_HELP = {
    'format': 'onnx or stablehlo. (by the name of --output: stablehlo if it ends so)',
    'output': 'File to write.',
    'workdir': 'Run whose network is exported (the released weights).',
    'checkpoint': 'newest, best, or a step of --workdir. (newest)',
    'size': 'px: the only H and W of an ONNX model. (any multiples of 32)',
    'hints': 'Add an input for colour hints; H and W of ONNX are then --size, or as evaluated.',
    'dtype': 'float32 or float16, of the computation of an ONNX model. (float32)',
}


def make_flags() -> flags.FlagValues:
    """The flags of the command, apart from absl's global ones."""
    values = flags.FlagValues()
    flags.DEFINE_enum('format', None, _FORMATS, _HELP['format'], flag_values=values)
    flags.DEFINE_string('output', None, _HELP['output'], flag_values=values)
    flags.DEFINE_string('workdir', None, _HELP['workdir'], flag_values=values)
    flags.DEFINE_string('checkpoint', 'newest', _HELP['checkpoint'], flag_values=values)
    flags.DEFINE_integer('size', None, _HELP['size'], lower_bound=1, flag_values=values)
    flags.DEFINE_bool('hints', False, _HELP['hints'], flag_values=values)
    types = ['float32', 'float16']
    flags.DEFINE_enum('dtype', 'float32', types, _HELP['dtype'], flag_values=values)
    return values


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    values = make_flags()
    if cli.asks_for_help(argv):
        print(f'{__doc__}\n{cli.flag_lines(_HELP.items())}')
        return 0
    try:
        stray = cli.parse(values, argv)
        if stray:
            raise UserError(f'{stray[0]!r} is not a flag: name the file with --output=FILE.')
        with stop_requests() as stopping:
            _run(values, stopping)
        return 0
    except UserError as error:
        cli.print_error(str(error))
        return 1
    except KeyboardInterrupt:
        cli.print_error('Interrupted: start it again.')
        return EXIT_RESTART


def _run(values: flags.FlagValues, stopping: Callable[[], bool]) -> None:
    if not values.output:
        raise UserError('No output is named: add --output=colorizer.onnx.')
    options.check_network(values)
    output = Path(values.output)
    onnx = _format(output, values.format) == 'onnx'
    if not onnx and (values['size'].present or values['dtype'].present):
        raise UserError('--size and --dtype are for ONNX, not StableHLO: leave them out.')
    _check(output)
    trained = predictor.load(values.workdir, values.checkpoint)
    size = values.size or (trained.size if onnx and values.hints else None)
    network = export.make_network(trained, size, values.hints)
    content = export.to_onnx(network, values.dtype) if onnx else export.to_stablehlo(network)
    if stopping():
        raise KeyboardInterrupt
    try:
        files.write_atomically(output, content)
    except OSError as error:
        raise UserError(
            f'{output} cannot be written ({error.strerror}): make room there, or choose another '
            '--output.'
        ) from error
    print(
        f'{output}: {trained.title}, step {trained.step}, {len(content) / 1e6:.1f} MB; H and W: '
        + (f'{network.size}' if network.size else f'any multiples of {network.multiple}'),
        file=sys.stderr,
    )


def _format(output: Path, wanted: str | None) -> str:
    """'onnx' or 'stablehlo'; raises UserError if a name ends in that of the other one."""
    named = output.suffix.lower().removeprefix('.')
    if wanted and named in _FORMATS and named != wanted:
        raise UserError(
            f'--format={wanted} does not fit --output={output}: leave out --format, or name the '
            f'file {output.with_suffix("." + wanted)}.'
        )
    return wanted or (named if named in _FORMATS else 'onnx')


def _check(output: Path) -> None:
    """Raises UserError if the file cannot be written, before the long work."""
    if output.is_dir():
        raise UserError(f'{output} is a folder: name a file, as --output={output}/colorizer.onnx.')
    if not output.parent.is_dir():
        raise UserError(f'The folder {output.parent} does not exist: make it, or correct --output.')
    check_writable(output.parent)


if __name__ == '__main__':
    logging.set_verbosity(logging.ERROR)
    sys.exit(main(sys.argv))
