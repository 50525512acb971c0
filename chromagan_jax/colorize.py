"""Colorizes gray photographs at their own resolution.

    python -m chromagan_jax.colorize --output=OUT PATH...
    python -m chromagan_jax.colorize --workdir=DIR --output=OUT PATH...

A PATH is a photograph, a film, or a folder of photographs. OUT gets the same sub-folders. The
first form uses the released weights, the second those of a run. The lightness is kept.

Exit codes: 0 done; 1 a photograph failed, or user error, reported in one sentence; 75 interrupted,
or a bucket did not answer: start it again.
"""

import contextlib
import functools
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import jax
from absl import flags, logging

from chromagan_jax import sharding
from chromagan_jax.config.fields import check_types, flatten
from chromagan_jax.config.postprocess import OFF, PostProcess
from chromagan_jax.errors import EXIT_RESTART, PreemptedError, UserError, is_outage
from chromagan_jax.inference import batch, files, metadata, naming, options, output, plan
from chromagan_jax.inference.conditions import Conditions
from chromagan_jax.inference.encode import Encoding
from chromagan_jax.inference.files import Listed
from chromagan_jax.inference.layout import Predict
from chromagan_jax.inference.outcomes import Job, Outcome, Totals
from chromagan_jax.inference.predictor import load, make_predict
from chromagan_jax.inference.results import Results
from chromagan_jax.inference.sharing import Claims
from chromagan_jax.inference.video.suffixes import is_film
from chromagan_jax.utils import cli, programs
from chromagan_jax.utils.preemption import stop_requests

_MANY = 30  # photographs for which a faster network is worth its longer compilation
_INTERRUPTED = 'Interrupted: started again, it continues with what is missing.'  # without counts


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code.

    After the first Ctrl-C or SIGTERM it finishes the photographs that the network has seen. A
    second one ends it at once.
    """
    values = options.make_flags()
    if cli.asks_for_help(argv):
        print(f'{__doc__}\n{options.help_text()}')
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
        return EXIT_RESTART
    except Exception as error:
        if not is_outage(error):
            raise
        cli.print_error(f'the bucket did not answer ({error}): start it again.')
        return EXIT_RESTART


def _run(values: flags.FlagValues, paths: Sequence[str], stopping: Callable[[], bool]) -> int:
    _check(values)
    if values.list is not None:
        paths = [*paths, *files.read_list(values.list)]
    for name, value, example in (
        ('output', values.output, '--output=colorized'),
        ('photograph', paths, 'a file or a folder'),
    ):
        if not value:
            raise UserError(f'No {name} is named: add {example}.')
    folder = Path(values.output)
    found = files.find(paths, folder, values.pages == 'all')
    films = [listed for listed in found.photographs if is_film(listed.source)]
    found = found._replace(photographs=[p for p in found.photographs if p not in films])
    results = Results(values.json, values.report or '')
    for sentence in found.notes:
        results.leave_out(sentence)
    for sentence in found.failures:
        results.fail(sentence)
    output.check_writable(folder)
    if values.report:
        output.check_writable(Path(values.report).parent, '--report')
    output.remove_leftovers(folder)
    planned = naming.plan(
        found.photographs, folder, values.format, values.samples, metadata.source_of
    )
    if values.hints is not None:
        planned = plan.with_hints(planned, Path(values.hints))
    if films:
        planned += _plan_films(values, films, results)
    wanted = _wanted(values, planned, results)
    before = results.failed
    totals = _colorize(values, wanted, stopping, results) if wanted else Totals(0, 0, 0, 0)
    results.write(values.threads, values.max_megapixels * 1_000_000, stopping)
    return _exit_code(values, totals, before, len(wanted), results)


def _wanted(values: flags.FlagValues, planned: Sequence[Job], results: Results) -> list[Job]:
    """The jobs that are to do. The others are failed or skipped."""
    wanted = []
    for job in planned:
        exists = not values.overwrite and output.is_there(job.target)
        reason = plan.conflict(job, values.overwrite)
        if reason := reason or ('' if exists else plan.too_large(job)):
            print(f'{files.shown(job.source)} failed: {reason}', file=sys.stderr)
            results.add(Outcome(job, 'failed', reason))
        elif exists:
            results.add(Outcome(job, 'skipped'))
        else:
            wanted.append(job)
    return wanted


def _plan_films(values: flags.FlagValues, films: Sequence[Listed], results: Results) -> list[Job]:
    """The jobs of films that can be read.

    Raises:
        UserError: PyAV is missing, or a flag is for photographs only.
    """
    first = files.shown(films[0].source)
    for name in ('hints', 'samples', 'sample_noise'):
        if values[name].value:
            raise UserError(f'--{name} is for photographs, and {first} is a film: leave one out.')
    if importlib.util.find_spec('av') is None:
        raise UserError(f"{first} is a film: pip install 'chromagan_jax[video]'.")
    from chromagan_jax.inference.video import batch as video  # needs the extra

    jobs, failures = video.plan(films, Path(values.output))
    for sentence in failures:
        results.fail(sentence)
    return jobs


def _check(values: flags.FlagValues) -> None:
    """Raises UserError for wrong values, and for flags that do not fit together."""
    options.check_network(values)
    options.check_places(values)
    if values.size is not None:
        plan.parse_sizes(values.size)
    _postprocess(values, OFF)
    if values.depth == '16' and values.format in ('jpg', 'webp'):
        raise UserError(
            f'--depth=16 is not possible with --format={values.format}: choose png, tif or same.'
        )


def _colorize(
    values: flags.FlagValues,
    wanted: Sequence[Job],
    stopping: Callable[[], bool],
    results: Results,
) -> Totals:
    """Runs the network over the photographs, then over the films."""
    cv2.setNumThreads(1)  # photographs are what runs in parallel
    sharding.disable_async_cpu_dispatch()
    programs.use_cache()  # without one, the network is compiled at each start
    trained = load(values.workdir, values.checkpoint)
    post = _postprocess(values, trained.config.colorize)
    sizes = plan.parse_sizes(values.size) if values.size is not None else (trained.size,)
    shown = ' and '.join(map(str, sizes))
    network = f'{trained.title}, step {trained.step}, at {shown} px'
    make = functools.partial(make_predict, trained.generator, trained.variables, sizes)
    films = [job for job in wanted if is_film(job.source)]
    images = [job for job in wanted if not is_film(job.source)]
    totals = [Totals(0, 0, 0, 0)]
    with contextlib.closing(Claims(Path(values.output))) as claims:
        conditions = Conditions(
            values.max_megapixels * 1_000_000,
            stopping,
            values.skip_color,
            values.report is not None,
            results.add,
            claims,
            values.overwrite,
        )
        for jobs, run in ((images, _colorize_photographs), (films, _colorize_films)):
            if jobs and not stopping():
                totals.append(run(values, jobs, network, make, max(sizes), post, conditions))
    return Totals(*map(sum, zip(*totals, strict=True)))


def _colorize_photographs(
    values: flags.FlagValues,
    wanted: Sequence[Job],
    network: str,
    make: Callable[..., Predict],
    size: int,
    post: PostProcess,
    conditions: Conditions,
) -> Totals:
    if post.sample_noise and not values.samples:
        wanted = [job._replace(sample=1) for job in wanted]
    noise = post.sample_noise or values.samples > 0
    hinted = any(job.hints for job in wanted)
    batches = -(-len(wanted) // values.batch_size)
    batch_size = -(-len(wanted) // batches)  # the same number of batches, of one size
    predict = make(batch_size, noise, hinted, quick=len(wanted) < _MANY)
    _announce(values, network, wanted)
    # On a CPU as many networks as threads: few operations of one keep many cores busy.
    networks = max(2, values.threads) if jax.default_backend() == 'cpu' else 2
    encoding = Encoding(values.quality, int(values.depth), values.metadata, values.keep_date)
    sizes = size, batch_size, values.threads, networks
    return batch.colorize_files(wanted, predict, *sizes, post, encoding, conditions)


def _colorize_films(
    values: flags.FlagValues,
    wanted: Sequence[Job],
    network: str,
    make: Callable[..., Predict],
    size: int,
    post: PostProcess,
    conditions: Conditions,
) -> Totals:
    from chromagan_jax.inference.video import batch as video  # needs the extra
    from chromagan_jax.inference.video.run import FRAMES_AT_ONCE, Options

    batch_size = values.batch_size if values['batch_size'].present else FRAMES_AT_ONCE
    predict = make(batch_size)
    _announce(values, network, wanted)
    options = Options(batch_size, values.threads, post, values.crf, values.metadata)
    rest = options, values.keep_date, conditions
    return video.colorize_films(wanted, predict, size, network, *rest)


def _announce(values: flags.FlagValues, network: str, wanted: Sequence[Job]) -> None:
    print(f'{network} into {values.output}: {len(wanted)} to do', file=sys.stderr)


def _exit_code(
    values: flags.FlagValues, totals: Totals, earlier: int, wanted: int, results: Results
) -> int:
    """Prints the counts; returns the exit code. `earlier` failures were before the network.

    Raises:
        PreemptedError: photographs are left.
    """
    if results.recolored:
        print(
            f'{results.recolored} of them were in colour already, and their colours are replaced: '
            '--skip_color leaves such photographs out',
            file=sys.stderr,
        )
    counts = f'{totals.colorized} colorized, {earlier + totals.failed} failed, '
    if left := wanted - sum(totals):
        again = 'it starts anew with --overwrite' if values.overwrite else 'it continues with these'
        raise PreemptedError(f'Interrupted: {counts}{left} left; started again, {again}.')
    hint = ' (there already; --overwrite replaces them)' if results.skipped else ''
    colored = f', {totals.in_color} in colour already' if totals.in_color else ''
    print(f'{counts}{results.skipped} skipped{hint}{colored}', file=sys.stderr)
    return 1 if earlier + totals.failed else 0


def _postprocess(values: flags.FlagValues, config: PostProcess) -> PostProcess:
    """The options of the config, replaced by those that flags set."""
    given = {name: values[name].value for name in flatten(OFF)}
    post = replace(config, **{name: v for name, v in given.items() if v is not None})
    check_types(post, '--')
    return post


class _Command(types.ModuleType):
    """This module; calling it calls `chromagan_jax.colorize`, which has the same name."""

    def __call__(self, images: Any, **options: Any) -> Any:
        from chromagan_jax import api

        return api.colorize(images, **options)


sys.modules[__name__].__class__ = _Command


if __name__ == '__main__':
    logging.set_verbosity(logging.ERROR)
    warnings.filterwarnings('ignore', module=r'PIL\.')  # of damage that it passes over
    sys.exit(main(sys.argv))
