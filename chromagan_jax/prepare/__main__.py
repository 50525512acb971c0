"""Prepares a training set from images: filters and deduplicates them, and writes shards.

    python -m chromagan_jax.prepare --input=DIR --output=DIR
    python -m chromagan_jax.prepare --source=tfds:NAME --output=DIR

Train on the result with `--config.data.source=OUTPUT`, or with tfds:NAME if OUTPUT is
TFDS_DATA_DIR/NAME. OUTPUT also contains report.html, report.json and pictures.csv, which list the
outcome for every image. The original images are not changed. --export=DIR also writes the data set
as folders of image files.

The command uses Beam's local runner with --workers processes. Arguments after a separate -- are
passed to Beam and may select another runner (-- --runner=FlinkRunner ...). All its machines must
see the same folders.

The command writes to a hidden folder beside OUTPUT, or in OUTPUT if that exists, and moves the
result at the end. The hidden folder takes twice the size of the result. The local runner holds
hashes of all images in memory; use another runner for many millions of images.

Exit codes: 0 done, or OUTPUT and the export are already complete; 1 user error, reported in one
sentence; 75 interrupted, start again. An interrupted export goes on, a preparation starts anew.
"""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags

from chromagan_jax.errors import EXIT_RESTART, PreemptedError, UserError
from chromagan_jax.prepare import run
from chromagan_jax.prepare.export import check_free, export
from chromagan_jax.prepare.inputs import Inputs
from chromagan_jax.prepare.pictures import DISTANCE, Options
from chromagan_jax.utils import cli
from chromagan_jax.utils.preemption import stop_requests

_OPTIONS_HELP = {
    'min_side': 'Minimum short side, px; smaller images are dropped.',
    'max_aspect': 'Maximum ratio of long to short side; more elongated images are dropped.',
    'min_chroma': 'Minimum mean chroma (Lab); images below it count as gray.',
    'min_spread': 'Minimum spread of ab at equal lightness; images below it count as tinted.',
    'size': 'Short side of the output images, px; 0: the original size. Nothing is enlarged.',
    'quality': 'JPEG quality of the output images, 1 to 100.',
}

_GROUPS = {
    'Images': ('input', 'source', 'split', 'labels'),
    'Results': ('output', 'export', 'size', 'quality', 'test', 'seed'),
    'Filters': ('min_side', 'max_aspect', 'min_chroma', 'min_spread', 'distance'),
    'Resources': ('workers',),
}


def make_flags() -> flags.FlagValues:
    """The flags of the command, separate from absl's global flags so that imports add none."""
    values = flags.FlagValues()
    string = partial(flags.DEFINE_string, flag_values=values)
    flags.DEFINE_multi_string(
        'input', [], 'Folder of images; may be given several times.', flag_values=values
    )
    string('source', '', 'Data set instead of folders: tfds:NAME or another value of data.source.')
    string('split', 'train', "Split of --source, in TFDS's notation, such as train+test.")
    string('output', '', 'Folder of the data set. Required.')
    string(
        'export',
        '',
        'Also write image files here: train_y, test_y; gray copies in train_x, test_x.',
    )
    string('labels', '', 'CSV file of name,category lines; without it sub-folders are categories.')
    of_type: dict[type, Any] = {int: flags.DEFINE_integer, float: flags.DEFINE_float}
    numbers = {
        **{name: (value, _OPTIONS_HELP[name]) for name, value in Options()._asdict().items()},
        'distance': (
            DISTANCE,
            'Maximum Hamming distance of the hashes of near-duplicates; -1: keep them.',
        ),
        'test': (0.05, 'Fraction of images in the test split.'),
        'seed': (0, 'Seed of the test split.'),
        'workers': (os.cpu_count() or 1, 'Number of worker processes.'),
    }
    for name, (default, help_string) in numbers.items():
        of_type[type(default)](name, default, help_string, flag_values=values)
    return values


def _help(values: flags.FlagValues) -> str:
    """The description of the command and its flags by group."""
    shown = [
        f'{title}:\n{cli.flag_lines(cli.described(values[name] for name in names))}'
        for title, names in _GROUPS.items()
    ]
    return '\n\n'.join([str(__doc__).rstrip(), *shown])


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    values = make_flags()
    if cli.asks_for_help(argv):
        print(_help(values))
        return 0
    try:
        beam_arguments = cli.parse(values, argv)
        with stop_requests() as stopping:
            _run(values, beam_arguments, stopping)
        return 0
    except UserError as error:
        cli.print_error(str(error))
        return 1
    except (PreemptedError, KeyboardInterrupt) as error:
        cli.print_error(str(error) or 'Interrupted.')
        return EXIT_RESTART


def _run(
    values: flags.FlagValues, beam_arguments: Sequence[str], stopping: Callable[[], bool]
) -> None:
    _check(values, beam_arguments)
    output = Path(values.output)
    inputs = Inputs(tuple(values.input), values.source, values.split, values.labels)
    options = Options._make(values[name].value for name in Options._fields)
    settings = run.Settings(options, values.distance, values.test, values.seed)
    runner = values.workers, tuple(beam_arguments)
    report = run.prepare(inputs, output, settings, runner, stopping)
    if report is None:
        run.log(f'{output} is already prepared from the same pictures with these settings.')
    else:
        dropped = ', '.join(
            f'{count} {reason}' for reason, count in report['dropped'].items() if count
        )
        splits = ', '.join(f'{count} {split}' for split, count in report['splits'].items())
        run.log(f'{output}: kept {report["kept"]} ({splits}); dropped {dropped or "none"}')
    if values.export:
        export(output, Path(values.export), values.workers, stopping)
        run.log(f'{values.export}: the same images as folders of files')


def _check(values: flags.FlagValues, beam_arguments: Sequence[str]) -> None:
    """Raises UserError if flags conflict or are out of range, or Beam is missing."""
    if values.input and values.source:
        raise UserError('Set either --input=DIR or --source=tfds:NAME, not both.')
    if not values.input and not values.source:
        raise UserError('No photographs are named: add --input=DIR or --source=tfds:NAME.')
    if values.source and values.labels:
        raise UserError('--labels works only with --input: remove it for a source.')
    if not values.output:
        raise UserError('--output is missing: add --output=DIR.')
    _check_folders(values)
    if stray := next((text for text in beam_arguments if not text.startswith('-')), None):
        raise UserError(f"{stray!r} is not a flag: remove it, or pass Beam's options after --.")
    for name, good in {
        'test': 0 <= values.test <= 1,
        'quality': 1 <= values.quality <= 100,
        'workers': values.workers >= 1,
        'distance': -1 <= values.distance <= 32,
        'size': values.size >= 0,
        'max_aspect': values.max_aspect >= 1,
    }.items():
        if not good:
            raise UserError(f'--{name}={values[name].value} is out of range: see --help.')
    try:
        import apache_beam  # noqa: F401
        import importlib_resources  # noqa: F401
    except ImportError as error:
        raise UserError(
            f'Preparing a data set needs the package {error.name}: install the extra with '
            "`pip install 'chromagan_jax[prepare]'`."
        ) from error


def _check_folders(values: flags.FlagValues) -> None:
    """Raises UserError for a bucket instead of a folder, or an export that cannot be written."""
    for name in ('input', 'output', 'export'):
        value = getattr(values, name)
        for folder in value if isinstance(value, list) else [value]:
            if '://' in folder:
                fix = ', or set --source to the bucket' if name == 'input' else ''
                raise UserError(f'--{name}={folder} is no folder: name one on a disk{fix}.')
    if values.export:
        if os.path.realpath(values.export) == os.path.realpath(values.output):
            raise UserError('--export and --output are the same folder: name another --export.')
        check_free(Path(values.output), Path(values.export))


if __name__ == '__main__':
    # Errors that Beam logs are also raised in the main thread, which reports them.
    logging.disable(logging.CRITICAL)
    code = main(sys.argv)
    sys.stdout.flush()
    sys.stderr.flush()
    if code:  # threads and processes of Beam may outlive a failure
        run.end_workers()
        os._exit(code)
