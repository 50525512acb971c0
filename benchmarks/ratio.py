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
from collections.abc import Sequence

from absl import flags

from benchmarks import command
from chromagan_jax.errors import UserError

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
    """The last `images_per_second` that a command prints.

    Raises:
        UserError: if the command cannot be started, fails, or prints none.
    """
    try:
        arguments = shlex.split(command)
        done = subprocess.run(arguments, stdout=subprocess.PIPE, check=False)
    except (OSError, ValueError, IndexError) as error:  # ValueError: an open quotation mark
        raise UserError(f'{command!r} cannot be run ({error}): correct it.') from error
    found = map(rate_in, done.stdout.decode(errors='replace').splitlines())
    rates = [value for value in found if value is not None]
    if done.returncode or not rates:
        raise UserError(
            f'{command} ended with {done.returncode} and {len(rates)} rates: run it by hand.'
        )
    return rates[-1]


def rate_in(line: str) -> float | None:
    """The `images_per_second` in a line; None for a line of a log or without a positive number."""
    try:
        value = json.loads(line)['images_per_second'] if line.startswith('{') else None
    except (ValueError, KeyError):
        return None
    return float(value) if isinstance(value, int | float) and value > 0 else None


if __name__ == '__main__':
    command.start(main)
