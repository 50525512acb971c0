r"""The ratio of the images/s of two commands, which run alternately: A B A B ...

    python -m benchmarks.ratio --rounds=5 \
        --ours='python -m benchmarks.benchmark --config=configs/base.py --only=train_step' \
        --theirs='python their_step.py --size 128'

Both commands print JSON lines; the last one with `images_per_second` counts. The result is the
median over the rounds of ours / theirs, so that a slowdown of the machine affects both. Both
commands inherit the environment.
"""

import json
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence

from absl import flags

from benchmarks import command

_OURS = flags.DEFINE_string('ours', None, 'Command of the numerator.', required=True)
_THEIRS = flags.DEFINE_string('theirs', None, 'Command of the denominator.', required=True)
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Runs of each command.', lower_bound=1)


def main(argv: Sequence[str]) -> None:
    """Runs both alternately and prints the rates, the ratios and their median."""
    del argv
    ratios = []
    for _ in range(_ROUNDS.value):
        ours, theirs = rate(_OURS.value), rate(_THEIRS.value)
        ratios.append(ours / theirs)
        print(f'ours {ours:.4g}, theirs {theirs:.4g} images/s: {ratios[-1]:.3f}', flush=True)
    spread = f'{min(ratios):.3f} to {max(ratios):.3f}'
    print(json.dumps({'name': 'ratio', 'median': statistics.median(ratios), 'spread': spread}))


def rate(command: str) -> float:
    """The last `images_per_second` that a command prints."""
    done = subprocess.run(shlex.split(command), stdout=subprocess.PIPE, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{')]
    rates = [line['images_per_second'] for line in lines if 'images_per_second' in line]
    if done.returncode or not rates:
        print(
            f'{command} ended with {done.returncode} and {len(rates)} rates: run it by hand.',
            file=sys.stderr,
        )
        sys.exit(1)
    return float(rates[-1])


if __name__ == '__main__':
    command.start(main)
