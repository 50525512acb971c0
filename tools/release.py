"""Turns a finished run into the weights that come inside the package.

    python -m tools.release --workdir=runs/photos --val=HELD_OUT_DIR

Takes the generator of the newest checkpoint (its moving average, where one is kept), rounds it to
float16, scores it before and after on the photographs in --val, at each of --sizes, and writes to
--output what `python -m chromagan_jax.colorize` reads, with a model card, the log of the training
and the notice of the licence. A run that was started from the weights of another (init_from) is
told of with that one, as long as its workdir is there.

--data_note is a Markdown file that says which photographs these were and what their sources state
about rights; the one beside this script is used unless another is named. The model card's commands
are made from config.json; name those that were used with --command, once a stage, the first stage
first. Nothing is written that holds a path of this machine.

Exit codes: 0 done; 1 a mistake, told in one sentence; 75 stopped, start it again.
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
from chromagan_jax.gan import checkpoints
from chromagan_jax.gan.model import make_model
from chromagan_jax.gan.state import generator_variables
from chromagan_jax.inference import photos, released
from chromagan_jax.inference.released import Trained
from chromagan_jax.utils import files
from tools import card, record
from tools.compare import Parser

ROOT = Path(__file__).resolve().parents[1]
NOTE = Path(__file__).with_name('release_data.md')
# Where one may begin in a text; '/' in a URL or in images/s does not begin one.
PATH = re.compile(r"""(?:^|(?<=[\s"'`(=:,]))(?:/[\w.~]|~/|[A-Z]:\\)\S*""", re.M)


def say(text: str) -> None:
    """Shows a line on standard error."""
    print(f'release: {text}', file=sys.stderr, flush=True)


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    try:
        release(parse(argv))
    except UserError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say('stopped: start it again')
        return 75
    return 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The flags; raises UserError if one is missing or impossible."""
    parser = Parser(
        usage='python -m tools.release [FLAG...]',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add('--workdir', default='', help='of the run')
    add('--val', default='', help='photographs to score on, as eval.source takes them')
    add('--features', default='', help="SqueezeNet's weights, for Frechet distances (none)")
    add('--output', default=str(released.WEIGHTS), help='where it goes (chromagan_jax/weights)')
    add('--data_note', default=str(NOTE), help='on the training data (tools/release_data.md)')
    add('--sizes', default='128,256', help='px, at which it is scored (128,256)')
    text = 'that a stage was started with, in place of one made from its config.json'
    add('--command', default=[], action='append', help=text)
    args = parser.parse_args(argv)
    for name in ('workdir', 'val'):
        if not getattr(args, name):
            raise UserError(f'No --{name} is named: add --{name}=DIR.')
    args.sizes = parse_sizes(args.sizes)
    return args


def parse_sizes(text: str) -> list[int]:
    """The numbers of --sizes; raises UserError if one is impossible."""
    sizes, least = text.split(','), measures.SSIM_WINDOW
    if not all(size.isdecimal() and int(size) >= least for size in sizes):
        raise UserError(
            f'--sizes must be whole numbers from {least} on, with commas between, not {text!r}.'
        )
    return [int(size) for size in sizes]


def release(args: argparse.Namespace) -> None:
    """Reads, scores and writes; nothing is written before everything is known.

    Raises:
        UserError: for what is missing, does not fit or must not be shown.
    """
    workdir, mesh = Path(args.workdir), sharding.make_mesh()
    note, source = read_note(Path(args.data_note)), make_source(args.val, 'validation')
    photos.check_writable(Path(args.output))
    runs = record.stages(workdir)
    commands = args.command or [record.command(stage.config) for stage in runs]
    if len(commands) != len(runs):
        raise UserError(
            f'--command is named {len(commands)} times, and there are {len(runs)} stages '
            f'({", ".join(stage.name for stage in runs)}): name it once for each.'
        )
    run = checkpoints.load(workdir, 'newest', mesh)
    last, variables = runs[-1], generator_variables(run.state)
    described: dict[str, Any] = {'config': last.config, 'step': int(run.state.step)}
    with TemporaryDirectory() as folder:
        released.save(Path(folder), variables, described)
        rounded = released.load(mesh, Path(folder))  # what colorize will read
    exact = rounded._replace(variables=variables)
    scores = [
        row
        for size in args.sizes
        for row in evaluated(
            {'float32': exact, 'float16': rounded}, size, source, args.features, mesh
        )
    ]
    described |= provenance(runs, scores)
    held_out = all(stage.data['fingerprint'] != source.fingerprint for stage in runs)
    texts = {
        'MODEL_CARD.md': card.card_of_runs(
            rounded, runs, scores, note, commands, held_out, described['commit']
        ),
        'LICENSE': card.notice([stage.config for stage in runs]),
        'log.jsonl': ''.join(f'{json.dumps(line)}\n' for line in record.log(runs)),
    }
    write(Path(args.output), texts, variables, described)


def read_note(path: Path) -> str:
    """What --data_note says."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{path} cannot be read ({error}): name a text with --data_note.') from None


def evaluated(
    variants: Mapping[str, Trained], size: int, source: Source, features: str, mesh: Mesh
) -> list[dict[str, Any]]:
    """The figures of the gray picture and of each of the variants, at one size."""
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
        rows.append({'size': size, 'weights': name, **figures})
    gray = {'size': size, 'weights': 'gray', 'images': rows[0]['images']}
    return [gray | metrics.gray_figures(rows[0]), *rows]


def provenance(runs: Sequence[record.Stage], scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What config.json tells besides the config: whence the weights come and what they scored."""
    *before, last = runs
    return {
        'seed': last.config['seed'],
        'finished': last.finished,
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
    """Of this code; 'unknown' outside a clone."""
    ask = ['git', '-C', str(ROOT), 'rev-parse', 'HEAD']
    try:
        return subprocess.run(ask, capture_output=True, check=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return 'unknown'


def write(
    output: Path, texts: Mapping[str, str], variables: Any, described: Mapping[str, Any]
) -> None:
    """Writes the release; raises UserError if a text holds a path of this machine."""
    for name, text in {**texts, released.DESCRIPTION: json.dumps(described)}.items():
        if path := PATH.search(text):
            raise UserError(
                f'{name} would hold {path[0]!r}, a path of this machine: leave it out of what '
                'you name.'
            )
    for name, text in texts.items():
        files.write_atomically(output / name, text.encode())
    released.save(output, variables, described)
    say(f'wrote {(output / released.ARRAYS).stat().st_size / 1e6:.1f} MB of weights to {output}')


if __name__ == '__main__':
    logging.set_verbosity(logging.ERROR)
    sys.exit(main(sys.argv[1:]))
