"""Gray photographs in, colour photographs out, at their own resolution.

    python -m chromagan_jax.colorize --output=OUT PATH...
    python -m chromagan_jax.colorize --workdir=DIR --output=OUT PATH...

The first colorizes with the released weights, which come inside the package, the second with those
of a run. A PATH is a photograph or a folder of them, whose sub-folders are mirrored below OUT. The
network sees each photograph at the size that it was evaluated at; the colours that it finds are
laid onto the photograph's own lightness, at full resolution. `inference.predictor.colorize` does
the same with arrays.

What is done to them besides (the flags --saturation to --denoise_method) is as the config of the
weights says, in its group `colorize`, unless a flag says otherwise.

Exit codes: 0 done; 1 some photographs failed, or a mistake, told in one sentence; 75 interrupted,
start it again.
"""

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import jax
from absl import flags, logging

from chromagan_jax import sharding
from chromagan_jax.config.fields import check_types, flatten
from chromagan_jax.config.postprocess import OFF, PostProcess
from chromagan_jax.data.decode import MAX_PIXELS
from chromagan_jax.errors import PreemptedError, UserError
from chromagan_jax.inference import batch, files, photos
from chromagan_jax.inference.hints import Hint
from chromagan_jax.inference.hints import read as read_hints
from chromagan_jax.inference.predictor import load, make_predict
from chromagan_jax.utils import cli
from chromagan_jax.utils.preemption import stop_requests

_INTERRUPTED = 'Interrupted: started again, it goes on with what is missing.'  # without counts
# Flags of the fields of PostProcess; the default of each is what the config of the weights says.
_POSTPROCESS_HELP = {
    'sample_noise': "Keep the network's noise on: the result is a sample.",
    'saturation': 'Gain of the chroma; 1: as the network has it.',
    'white_balance': 'none, gray_world or percentile.',
    'white_balance_strength': 'Share of that correction, 0 to 1.',
    'contrast': "Share of CLAHE's lightness in the result, 0 to 1; 0: none.",
    'clahe_clip': "CLAHE's clip limit.",
    'clahe_tiles': "CLAHE's tiles a side.",
    'denoise_before': 'Strength, in 8-bit steps, of non-local means on the photograph; 0: none.',
    'denoise_after': 'Strength, in units of a* and b*, of denoising the colours; 0: none.',
    'denoise_method': 'Of the colours: nlm (non-local means) or bilateral.',
}


def make_flags() -> flags.FlagValues:
    """The flags of the command; not absl's global ones, for this module is also imported."""
    values = flags.FlagValues()
    define = partial(flags.DEFINE_string, flag_values=values)
    define('workdir', None, 'Of a run whose network colorizes; without it the released one does.')
    define('output', None, 'The folder that the colour versions go to.')
    define('checkpoint', 'newest', 'newest, best, or a step that is still kept in --workdir.')
    define('hints', None, 'JSON file of known colours, for a network that takes hints.')
    define(
        'size',
        None,
        'px, the square that the network sees (as it was evaluated). Several with commas between: '
        'the mean of the colours at each, calmer and slower.',
    )
    flags.DEFINE_enum(
        'format', 'png', ['png', 'jpg'], 'Of the colour versions.', flag_values=values
    )
    flags.DEFINE_enum(
        'pages', 'first', ['first', 'all'], 'Of a TIFF that has several.', flag_values=values
    )
    flags.DEFINE_bool(
        'overwrite', False, 'Replace what is there; otherwise it is skipped.', flag_values=values
    )
    for name, default, help_string in (
        ('batch_size', 1, 'Photographs that the network sees at once.'),
        (
            'samples',
            0,
            'Results of each photograph, from the noise of the network; 0: one without.',
        ),
        ('threads', min(8, os.cpu_count() or 1), 'Threads that read and write photographs.'),
        (
            'max_megapixels',
            MAX_PIXELS // 10**6,
            'Larger photographs are left out; 20 bytes a pixel.',
        ),
    ):
        flags.DEFINE_integer(
            name, default, help_string, lower_bound=0 if default == 0 else 1, flag_values=values
        )
    of_type: dict[type, Any] = {
        bool: flags.DEFINE_bool,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        str: flags.DEFINE_string,
    }
    for name, default in flatten(OFF).items():
        of_type[type(default)](name, None, _POSTPROCESS_HELP[name], flag_values=values)
    return values


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code.

    The first Ctrl-C or SIGTERM lets it finish the photographs at hand; a second one does not.
    """
    values = make_flags()
    if {'--help', '-help', '-h'} & set(argv):
        print(f'{__doc__}\n{values.get_help()}')
        return 0
    try:
        paths = cli.parse(values, argv)
        with stop_requests() as stopping:
            return _run(values, paths, stopping)
    except UserError as error:
        cli.print_error(str(error))
        return 1
    except (PreemptedError, KeyboardInterrupt) as error:
        cli.print_error(str(error) or _INTERRUPTED)
        return 75


def _run(values: flags.FlagValues, paths: Sequence[str], stopping: Callable[[], bool]) -> int:
    if values.workdir == '':  # a variable that a script did not set, say
        raise UserError('--workdir is empty: name a run, or leave it out for the released weights.')
    if values.workdir is None and values['checkpoint'].present:
        raise UserError(
            '--checkpoint chooses among those of a run: add --workdir=runs/base, or leave it out '
            'for the released weights.'
        )
    for name, value, example in (
        ('output', values.output, '--output=colorized'),
        ('photograph', paths, 'a file or a folder'),
    ):
        if not value:
            raise UserError(f'No {name} is named: add {example}.')
    output = Path(values.output)
    found = files.find(paths, output, values.pages == 'all')
    for sentence in (*found.notes, *found.failures):
        print(sentence, file=sys.stderr)
    planned = batch.plan(found.photographs, output, f'.{values.format}', values.samples)
    wanted = [job for job in planned if values.overwrite or not job.target.exists()]
    photos.check_writable(output)
    colorized, failed = _colorize(values, wanted, stopping) if wanted else (0, 0)
    left = len(wanted) - colorized - failed
    failed += len(found.failures)
    counts = f'{colorized} colorized, {failed} failed, '
    if left:
        goes_on = 'it begins anew with --overwrite' if values.overwrite else 'it goes on with these'
        raise PreemptedError(f'Interrupted: {counts}{left} left; started again, {goes_on}.')
    skipped = len(planned) - len(wanted)
    hint = ' (there already; --overwrite replaces them)' if skipped else ''
    print(f'{counts}{skipped} skipped{hint}', file=sys.stderr)
    return 1 if failed else 0


def _colorize(
    values: flags.FlagValues, wanted: Sequence[batch.Job], stopping: Callable[[], bool]
) -> tuple[int, int]:
    """How many photographs were colorized and how many failed."""
    cv2.setNumThreads(1)  # photographs are what runs in parallel
    sharding.disable_async_cpu_dispatch()
    trained = load(values.workdir, values.checkpoint)
    post = _postprocess(values, trained.config.colorize)
    if post.sample_noise and not values.samples:
        wanted = [job._replace(sample=1) for job in wanted]
    noise = post.sample_noise or values.samples > 0
    wanted, hinted = _with_hints(values, wanted)
    sizes = _sizes(values.size) if values.size is not None else (trained.size,)
    predict = make_predict(
        *(trained.generator, trained.variables, sizes, values.batch_size, noise, hinted)
    )
    shown = ' and '.join(map(str, sizes))
    print(
        f'{trained.title}, step {trained.step}, at {shown} px into {values.output}: '
        f'{len(wanted)} to do',
        file=sys.stderr,
    )
    return batch.colorize_files(
        wanted,
        predict,
        max(sizes),
        values.batch_size,
        values.threads,
        # On a CPU as many networks as threads: few operations of one keep many cores busy.
        max(2, values.threads) if jax.default_backend() == 'cpu' else 2,
        values.max_megapixels * 1_000_000,
        post,
        stopping,
    )


def _with_hints(
    values: flags.FlagValues, wanted: Sequence[batch.Job]
) -> tuple[Sequence[batch.Job], bool]:
    """The jobs with the hints of --hints, and whether there are any."""
    if values.hints is None:
        return wanted, False
    hints = read_hints(Path(values.hints))
    names = {name for job in wanted for name in (job.source.name, str(job.source))}
    if '' in hints and len({job.source for job in wanted}) > 1:
        raise UserError(
            f'--hints={values.hints} is a list, for one photograph: for several, write an object '
            'with a list under each file name.'
        )
    if unknown := sorted(hints.keys() - names - {''}):
        raise UserError(
            f'--hints={values.hints} names {unknown[0]}, which is not among the photographs: '
            'correct the name.'
        )

    def of(source: Path) -> tuple[Hint, ...]:
        return hints.get('') or hints.get(str(source)) or hints.get(source.name) or ()

    return [job._replace(hints=of(job.source)) for job in wanted], True


def _postprocess(values: flags.FlagValues, config: PostProcess) -> PostProcess:
    """The options of the config, replaced by those that flags set."""
    given = {name: values[name].value for name in flatten(OFF)}
    post = replace(config, **{name: v for name, v in given.items() if v is not None})
    check_types(post, '--')
    return post


def _sizes(text: str) -> tuple[int, ...]:
    """The numbers of --size, without repeats."""
    parts = [part.strip() for part in text.split(',')]
    if not all(part.isdecimal() and int(part) >= 1 for part in parts):
        raise UserError(f'--size must be px, as 256 or 192,256, not {text!r}.')
    return tuple(dict.fromkeys(map(int, parts)))


if __name__ == '__main__':
    logging.set_verbosity(logging.ERROR)
    warnings.filterwarnings('ignore', module=r'PIL\.')  # of damage that it passes over
    sys.exit(main(sys.argv))
