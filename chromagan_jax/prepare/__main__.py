"""From a pile of pictures to a training set: clean, without duplicates, in shards.

    python -m chromagan_jax.prepare --input=DIR --output=DIR
    python -m chromagan_jax.prepare --source=tfds:NAME --output=DIR

OUTPUT becomes a data set that `--config.data.source=OUTPUT` reads, and tfds:NAME where OUTPUT is
TFDS_DATA_DIR/NAME, with what became of every picture: report.html, report.json, pictures.csv. The
pictures themselves are only read. --export=DIR writes the data set as folders of files too.

Beam's local runner does it, with --workers processes; what stands after a lone -- is handed to
Beam instead and may name another runner (-- --runner=FlinkRunner ...). All its machines must see
the same folders.

While it works, a hidden folder beside OUTPUT takes as much room as the result will, twice; it is
renamed at the end. Memory: 0.6 GB for two workers, most of it the imported packages, since no
picture is kept longer than it is worked on; the local runner adds some 1.2 kB a picture for what
it shuffles (hashes, and where the rest lies): 1.2 GB for a million, for many more take another one.

Exit codes: 0 done, or there already; 1 a mistake, told in one sentence; 75 interrupted, start it
again.
"""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags

from chromagan_jax.errors import PreemptedError, UserError
from chromagan_jax.prepare import run
from chromagan_jax.prepare.export import check_free, export
from chromagan_jax.prepare.inputs import Inputs
from chromagan_jax.prepare.pictures import DISTANCE, Options
from chromagan_jax.utils import cli
from chromagan_jax.utils.preemption import stop_requests

_OPTIONS_HELP = {
    'min_side': 'px; pictures with a smaller short side are dropped.',
    'max_aspect': 'Pictures whose long side is more times the short one are dropped.',
    'min_chroma': 'Mean chroma (Lab) below which a picture is gray.',
    'min_spread': 'Spread of ab at equal lightness below which a picture is gray or tinted.',
    'size': 'px, the short side of what is kept; 0: as it is. Nothing is enlarged.',
    'quality': 'Of the JPEGs.',
}


def make_flags() -> flags.FlagValues:
    """The flags of the command; not absl's global ones, for this module is also imported."""
    values = flags.FlagValues()
    string = partial(flags.DEFINE_string, flag_values=values)
    flags.DEFINE_multi_string(
        'input', [], 'A folder of pictures; may be given several times.', flag_values=values
    )
    string('source', '', "Instead of folders: 'tfds:NAME', or what else data.source takes.")
    string('split', 'train', "Which split of the source, as TFDS writes it ('train+test').")
    string('output', '', 'The folder that the data set goes to.')
    string('export', '', 'A folder for plain files: train_y, test_y, and gray in train_x, test_x.')
    string('labels', '', 'CSV file of name,category lines, instead of sub-folders.')
    of_type: dict[type, Any] = {int: flags.DEFINE_integer, float: flags.DEFINE_float}
    numbers = {
        **{name: (value, _OPTIONS_HELP[name]) for name, value in Options()._asdict().items()},
        'distance': (
            DISTANCE,
            'Bits in which hashes of near-duplicates differ at most; -1: keep them.',
        ),
        'test': (0.05, 'Share of the pictures that becomes the test split.'),
        'seed': (0, 'Of the draw of the test split.'),
        'workers': (os.cpu_count() or 1, 'Processes that work on pictures.'),
    }
    for name, (default, help_string) in numbers.items():
        of_type[type(default)](name, default, help_string, flag_values=values)
    return values


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    values = make_flags()
    if {'--help', '-help', '-h'} & set(argv):
        print(f'{__doc__}\n{values.get_help()}')
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
        return 75


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
        run.say(f'{output} is there already, prepared from the same pictures with these settings.')
    else:
        dropped = ', '.join(
            f'{count} {reason}' for reason, count in report['dropped'].items() if count
        )
        splits = ', '.join(f'{count} {split}' for split, count in report['splits'].items())
        run.say(f'{output}: kept {report["kept"]} ({splits}); dropped {dropped or "none"}')
    if values.export:
        export(output, Path(values.export), values.workers)
        run.say(f'{values.export}: the same as folders of files')


def _check(values: flags.FlagValues, beam_arguments: Sequence[str]) -> None:
    """Raises UserError if the flags do not go together or Beam is missing."""
    if bool(values.input) == bool(values.source):
        raise UserError('Name the pictures by either --input=DIR or --source=tfds:NAME.')
    if values.source and values.labels:
        raise UserError('--labels goes with --input: a source has labels of its own.')
    if not values.output:
        raise UserError('No output is named: add --output=DIR.')
    if stray := next((text for text in beam_arguments if not text.startswith('-')), None):
        raise UserError(f"{stray!r} is no flag: Beam's own options follow a lone --.")
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
    if values.export:
        check_free(Path(values.export))
    try:
        import apache_beam  # noqa: F401
        import importlib_resources  # noqa: F401
    except ImportError as error:
        raise UserError(
            f'Preparing a data set needs the package {error.name}: install the extra with '
            "`pip install 'chromagan_jax[prepare]'`."
        ) from error


if __name__ == '__main__':
    # What Beam logs as an error comes back to the main thread too, which tells of it.
    logging.disable(logging.CRITICAL)
    code = main(sys.argv)
    sys.stdout.flush()
    sys.stderr.flush()
    if code:  # threads and processes of Beam may go on after a failure
        run.end_workers()
        os._exit(code)
