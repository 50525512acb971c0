"""Makes a release of a finished run: the weights that the package contains.

    python -m tools.release --workdir=runs/photos --val=HELD_OUT_DIR

Takes the generator of the newest checkpoint (its moving average, if there is one) and rounds it to
float16. --share=0.5 takes the mean of these weights and those of --previous instead, if the run was
started from them: often both are worse than their mean (Wortsman et al. 2022, arXiv:2109.01903).
Scores the weights before and after rounding on the photographs in --val, at each of --sizes. Writes
weights and config, which `python -m chromagan_jax.colorize` reads, the model card, the training log
and the licence to --output. If the run was started from another (init_from) whose workdir still
exists, the texts describe both.

--data_note is a Markdown file about the photographs and the rights that their sources state
(default: tools/release_data.md). If the run was started from the released weights, the texts keep
those of the release in --previous, which cannot be one that was made from the run itself. The
commands in the model card are derived from config.json; --command, once for each stage from the
first on, replaces them. Text with a path of this machine is refused.

Exit codes: 0 done; 1 user error; 75 stopped, start it again.
"""

import argparse
import copy
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from absl import logging
from jax.sharding import Mesh

from chromagan_jax import sharding
from chromagan_jax.data.inputs import evaluation_input
from chromagan_jax.data.sources import Source, make_source
from chromagan_jax.errors import UserError
from chromagan_jax.evaluation import evaluator, measures, metrics
from chromagan_jax.gan import checkpoints, released
from chromagan_jax.gan.model import make_model
from chromagan_jax.gan.released import Trained
from chromagan_jax.gan.state import generator_variables
from chromagan_jax.inference import output as output_lib
from tools import card, cli, held_out, hints, kinds, previous, record, table

ROOT = Path(__file__).resolve().parents[1]
NOTE = Path(__file__).with_name('release_data.md')
# A path in a text; '/' in a URL or in images/s starts none.
PATH = re.compile(r"""(?:^|(?<=[\s"'`(=:,]))(?:/[\w.~]|~/|[A-Z]:\\)\S*""", re.M)


def say(text: str) -> None:
    """Shows a line on standard error."""
    print(f'release: {text}', file=sys.stderr, flush=True)


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    return cli.exit_code('release', lambda: release(parse(argv)))


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The flags; raises UserError if one is missing or impossible."""
    parser = cli.Parser('python -m tools.release [FLAG...]', __doc__)
    add = parser.add_argument
    add('--workdir', default='', help='workdir of the finished run')
    add('--val', default='', help='photographs to score on, as eval.source takes them')
    add('--features', default='', help="SqueezeNet's weights, for Frechet distances (none)")
    add(
        '--output',
        default=str(released.WEIGHTS),
        help='folder of release (chromagan_jax/weights)',
    )
    add('--data_note', default=str(NOTE), help='text on the training data (tools/release_data.md)')
    text = 'release that the training started from, if it did (chromagan_jax/weights)'
    add('--previous', default=str(released.WEIGHTS), help=text)
    add('--sizes', default='128,256', help='px, sizes of the evaluations (128,256)')
    add('--kinds', default='', help='folder with one folder of photographs a kind (none)')
    text = "share of the run's weights in the mean with those of --previous (1: only the run's)"
    add('--share', default=1.0, type=float, help=text)
    text = 'command of a stage of the training, instead of the one that its config.json gives'
    add('--command', default=[], action='append', help=text)
    args = parser.parse_args(argv)
    for name in ('workdir', 'val'):
        if not getattr(args, name):
            raise UserError(f'--{name} is missing: add --{name}=DIR.')
    if not 0 < args.share <= 1:
        raise UserError(f'--share must be above 0 and at most 1, not {args.share:g}.')
    args.sizes = parse_sizes(args.sizes)
    return args


def parse_sizes(text: str) -> list[int]:
    """The numbers in --sizes; raises UserError if one is impossible."""
    sizes, least = text.split(','), measures.SSIM_WINDOW
    if not all(size.isdecimal() and int(size) >= least for size in sizes):
        raise UserError(
            f'--sizes must be comma-separated integers of {least} or more, not {text!r}.'
        )
    return [int(size) for size in sizes]


def release(args: argparse.Namespace) -> None:
    """Reads and scores everything, then writes the release.

    Raises:
        UserError: if a file is missing or does not fit, or a text holds a path of this machine.
    """
    workdir, output, mesh = Path(args.workdir), Path(args.output), sharding.make_mesh()
    note, source = read_note(Path(args.data_note)), make_source(args.val, 'validation')
    record.check_is_no_run(output)
    output_lib.check_writable(output)
    runs = record.stages(workdir)
    before = previous.find(runs, Path(args.previous))
    commands = args.command or [record.command(stage.config) for stage in runs]
    if len(commands) != len(runs):
        raise UserError(
            f'--command is given {len(commands)} times for {len(runs)} stages '
            f'({", ".join(stage.name for stage in runs)}): give it once for each.'
        )
    run = checkpoints.load(workdir, 'newest', mesh)
    last, variables = runs[-1], generator_variables(run.state)
    if args.share < 1:
        variables = previous.mean(before, variables, args.share, mesh)
    described: dict[str, Any] = {'config': last.config, 'step': int(run.state.step)}
    with TemporaryDirectory() as folder:
        released.save(Path(folder), variables, described)
        rounded = released.load(mesh, Path(folder))  # as colorize reads it
    exact = rounded._replace(variables=variables)
    scores = [
        row
        for size in args.sizes
        for row in evaluated(
            {'float32': exact, 'float16': rounded}, size, source, args.features, mesh
        )
    ]
    described |= provenance(runs, scores) | {'share': args.share}
    log = record.log(runs)
    if before:
        described['started_from'].insert(0, previous.provenance(before))
        log = previous.log(before) + log
    scored_on = held_out.phrase(held_out.fingerprints(described), source)
    if before and getattr(rounded.generator, 'hints', False):
        described['hints'] = {'evaluation': hints.score(exact, args.val)}
    if args.kinds:
        described['evaluation_by_kind'] = list(kinds.scores(rounded, args.kinds))
    texts = {
        'MODEL_CARD.md': card.card_of_runs(
            rounded, runs, described, note, commands, scored_on, before
        ),
        'LICENSE': card.notice([stage.config for stage in runs]),
        'log.jsonl': ''.join(f'{json.dumps(line, allow_nan=False)}\n' for line in log),
    }
    write(output, texts, variables, described)


def read_note(path: Path) -> str:
    """The text in a file; raises UserError if it cannot be read."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{path} cannot be read ({error}): name a text with --data_note.') from None


def evaluated(
    variants: Mapping[str, Trained], size: int, source: Source, features: str, mesh: Mesh
) -> list[dict[str, Any]]:
    """The metrics of the gray images and of each variant, at one size in px."""
    first = next(iter(variants.values()))
    config = copy.deepcopy(first.config)
    config.eval.size = size
    step = evaluator.make_eval_step(features, make_model(config, mesh), mesh)
    rows = []
    for name, trained in variants.items():
        inputs = evaluation_input(config, source, mesh)
        values = evaluator.image_scores(step, trained.variables, inputs, mesh)
        scores = evaluator.aggregate_metrics(values)
        say(f'{name}, {size} px, {evaluator.summary(trained.step, scores)}')
        figures = {name.removeprefix('eval/'): value for name, value in scores.items()}
        rows.append(table.finite({'size': size, 'weights': name, **figures}))
    gray = {'size': size, 'weights': 'gray', 'images': rows[0]['images']}
    return [gray | metrics.gray_figures(rows[0]), *rows]


def provenance(runs: Sequence[record.Stage], scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The origin and the scores of the weights, for config.json."""
    *before, last = runs
    return {
        'seed': last.config['seed'],
        'finished': last.finished,
        'run_checksum': last.checksum,
        'data': last.data,
        'versions': last.versions,
        'commit': commit(),
        'evaluation': list(scores),
        'started_from': [
            {
                'run': stage.name,
                'config': stage.config,
                'step': stage.step,
                'finished': stage.finished,
                'data': stage.data,
                'versions': stage.versions,
            }
            for stage in before
        ],
    }


def commit() -> str:
    """The commit of this code; 'unknown' outside a clone."""
    ask = ['git', '-C', str(ROOT), 'rev-parse', 'HEAD']
    try:
        return subprocess.run(ask, capture_output=True, check=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return 'unknown'


def write(
    output: Path, texts: Mapping[str, str], variables: Any, described: Mapping[str, Any]
) -> None:
    """Writes all files of the release, or none.

    Raises:
        UserError: if a text holds a path of this machine, or a file cannot be written.
    """
    for name, text in {**texts, released.DESCRIPTION: json.dumps(described)}.items():
        if path := PATH.search(text):
            raise UserError(
                f'{name} would contain {path[0]!r}, a path of this machine: remove it from the '
                'texts and flags.'
            )
    released.save(output, variables, described, texts)
    say(f'wrote {(output / released.ARRAYS).stat().st_size / 1e6:.1f} MB of weights to {output}')


if __name__ == '__main__':
    logging.set_verbosity(logging.ERROR)
    sys.exit(main(sys.argv[1:]))
