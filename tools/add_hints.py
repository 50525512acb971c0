"""Adds colour hints to the release: the submodule that a run of configs/hints.py has trained.

    python -m tools.add_hints --workdir=runs/hints --val=HELD_OUT_DIR

All other variables of the run must equal the released ones, so that the colours without hints stay
as they are. Scores the result as `tools.hints` does. Writes the release anew: weights, config,
training log, and the model card with a section about hints.

Exit codes: 0 done; 1 user error; 75 stopped by Ctrl-C.
"""

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from chromagan_jax.config import to_dict
from chromagan_jax.data.sources import make_source
from chromagan_jax.errors import UserError
from chromagan_jax.gan import released
from chromagan_jax.gan.released import Trained
from chromagan_jax.inference.predictor import load
from tools import card, cli, held_out, hints, record, release, table

TRAINING = """\
It was trained alone, by L1 on photographs with random hints. All other weights stayed as they were,
and so do the colours without hints.

{note}

{trained}

```bash
{command}
```"""


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    return cli.exit_code('add_hints', lambda: add(parse(argv)))


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The flags; raises UserError if one is missing."""
    parser = cli.Parser('python -m tools.add_hints [FLAG...]', __doc__)
    parser.add_argument('--workdir', default='', help='of a finished run of configs/hints.py')
    parser.add_argument('--val', default='', help='photographs to score on, as eval.source takes')
    parser.add_argument('--note', default='', help='sentence about the photographs (none)')
    text = 'folder of the release (chromagan_jax/weights)'
    parser.add_argument('--release', default=str(released.WEIGHTS), help=text)
    args = parser.parse_args(argv)
    for name in ('workdir', 'val'):
        if not getattr(args, name):
            raise UserError(f'--{name} is missing: add --{name}=DIR.')
    return args


def add(args: argparse.Namespace) -> None:
    """Checks and scores everything, then writes the release.

    Raises:
        UserError: if the run was trained from other weights or takes no hints, or a file is
            missing.
    """
    folder, run = Path(args.release), load(args.workdir)
    old = released.load(folder=folder)
    check_unchanged(old, run)
    *before, stage = record.stages(Path(args.workdir))
    rows = hints.score(run, args.val)
    described = json.loads((folder / released.DESCRIPTION).read_text())
    config = dataclasses.replace(old.config, generator=run.config.generator)
    described |= {
        'config': to_dict(config),
        'hints': {
            'config': stage.config,
            'step': stage.step,
            'finished': stage.finished,
            'data': stage.data,
            'versions': stage.versions,
            'commit': release.commit(),
            'evaluation': rows,
        },
    }
    known = held_out.fingerprints(described)  # with those of the new hints
    known += [earlier.data['fingerprint'] for earlier in before]
    scored_on = held_out.phrase(known, make_source(args.val, 'validation'))
    text = (folder / 'MODEL_CARD.md').read_text()
    own = [json.loads(line) for line in (folder / 'log.jsonl').read_text().splitlines()]
    lines = [line for line in own if line.get('part') != hints.PART]
    lines += [{'part': hints.PART, **line} for line in record.log([stage])]
    texts = {
        'MODEL_CARD.md': with_section(text, run, section(run, stage, rows, args.note, scored_on)),
        'LICENSE': (folder / 'LICENSE').read_text(),
        'log.jsonl': ''.join(f'{json.dumps(line, allow_nan=False)}\n' for line in lines),
    }
    release.write(folder, texts, run.variables, described)


def check_unchanged(old: Trained, run: Trained) -> None:
    """Raises UserError unless the run has the released variables, and hints beside them."""
    before, now = (released.named(trained.variables) for trained in (old, run))
    prefix = f'params/{hints.PART}/'
    if not any(name.startswith(prefix) for name in now):
        raise UserError(f'{run.title} takes no hints: name a run of configs/hints.py.')
    kept = {name: leaf for name, leaf in now.items() if not name.startswith(prefix)}
    others = {name: leaf for name, leaf in before.items() if not name.startswith(prefix)}
    different = kept.keys() ^ others.keys() or [
        name for name, leaf in kept.items() if not np.array_equal(leaf, others[name])
    ]
    if different:
        raise UserError(
            f'{sorted(different)[0]} is not as in the release: train hints from it with '
            'configs/hints.py.'
        )


def section(
    run: Trained,
    stage: record.Stage,
    rows: Sequence[Mapping[str, Any]],
    note: str,
    scored_on: str,
) -> str:
    """The model card's section about hints; `scored_on` is of `held_out.phrase`."""
    training = TRAINING.format(
        note=note,
        trained=table.grid([record.row(stage)], card.TRAINED),
        command=record.command(stage.config),
    )
    return hints.section(run.variables, rows, training, scored_on)


def with_section(text: str, run: Trained, new: str) -> str:
    """The model card with the section before its evaluation, and with the size of the result."""
    text = re.sub(r'(?ms)^## Hints\n.*?(?=^## )', '', text)
    count, size = table.count(run.variables['params']), len(released.encode(run.variables))
    new_size = f'- Size: {count:,} parameters; {size / 1e6:.1f} MB'
    text = re.sub(r'(?m)^- Size: [\d,]+ parameters; [\d.]+ MB', new_size, text)
    if text.count('\n## Evaluation\n') != 1:
        raise UserError('MODEL_CARD.md has no section "Evaluation": restore it from a copy.')
    return text.replace('\n## Evaluation\n', f'\n{new}## Evaluation\n')


if __name__ == '__main__':
    logging.set_verbosity(logging.ERROR)
    sys.exit(main(sys.argv[1:]))
