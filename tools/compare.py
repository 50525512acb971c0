"""Trains the reference systems under one budget and compares them.

    python -m tools.compare --train=DIR --val=DIR --output=OUT --minutes=15

For each system in --systems (all seven by default): measures the images/s of its train step, trains
it for the steps that fit into --minutes, scores the last state on the photographs in --val, and
colorizes some of them. OUT/table.md, table.json and table.jpg compare the systems, and
OUT/report.html their curves, settings and scores. OUT/NAME holds the run of a system, its measured
rate, its images, and the output of its commands (log.txt).

The time is the number of systems times --minutes, and for each system the compilation (which does
not count as training), a few measured steps and an evaluation. The same command resumes. Several
processes may write to one OUT if each has its own systems
(taskset -c 0 python -m tools.compare --systems=base,pix2pix ...). --table then compares all systems
in OUT.

Arguments after -- are passed to every system. By default a system saves only at its last step and
when it is stopped; -- --config.checkpoint_every=1000 saves more often. A system that reduces its
learning rates on a plateau is also evaluated on --val ten times in its training. These evaluations
do not count as training either.

Exit codes: 0 done; 1 a system failed, or user error; 75 stopped, start the same command again.
"""

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import logging

from chromagan_jax.config import Config, load
from chromagan_jax.data.decode import UnreadableImage, crop_square, decode, resize
from chromagan_jax.data.sources import Folder
from chromagan_jax.errors import EXIT_RESTART, UserError
from chromagan_jax.evaluation import evaluator
from chromagan_jax.gan import checkpoints
from chromagan_jax.inference import output as output_lib
from chromagan_jax.utils import files
from chromagan_jax.utils.cores import usable_cores
from tools import cli, table
from tools.table import SYSTEMS, read_json, say

ROOT = Path(__file__).resolve().parents[1]
RATE_STEPS = 10  # steps of a rate measurement
WRITTEN = '.compare.json'  # beside the photographs of table.jpg: names that this tool wrote
OWN = str(os.getpid())  # in temporary names, since several processes may share OUT


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    jax.config.update('jax_platforms', 'cpu')  # the accelerators are for the subprocesses
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    end = argv.index('--') if '--' in argv else len(argv)
    try:
        args = parse(argv[:end])
        failed = [] if args.table else run_systems(args, argv[end + 1 :])
        table.write_table(Path(args.output))
    except UserError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say('stopped: the same command resumes')
        return EXIT_RESTART
    if failed:
        say(f'failed: {", ".join(failed)}')
    return 1 if failed else 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The flags; raises UserError if one is missing or impossible."""
    parser = cli.Parser('python -m tools.compare [FLAG...] [-- --config.FIELD=VALUE...]', __doc__)
    add = parser.add_argument
    add('--train', default='', help='photographs to train on, as data.source takes them')
    add('--val', default='', help='folder of photographs to score on')
    add('--output', default='', help='folder of all results')
    add('--systems', default=','.join(SYSTEMS), help='names of configs, comma-separated')
    add('--minutes', default=15.0, type=float, help='training time of each system (15)')
    add('--size', default=128, type=int, help='px, in training and scoring (128)')
    text = 'batch size of all systems (4, for many updates a minute on a CPU); 0: of each config'
    add('--batch_size', default=4, type=int, help=text)
    text = "SqueezeNet's weights, for Frechet distances and systems that start from them (none)"
    add('--features', default='', help=text)
    text = 'EfficientNet-Lite weights, made by tools.encoder, for systems that need them (none)'
    add('--encoder', default='', help=text)
    text = 'photographs of table.jpg: a number of --val, evenly spaced (8), or files'
    add('--photographs', default=['8'], nargs='+', help=text)
    add('--table', action='store_true', help='only compare the systems in OUT')
    args = parser.parse_args(argv)
    for name in ('output',) if args.table else ('train', 'val', 'output'):
        if not getattr(args, name):
            raise UserError(f'--{name} is missing: add --{name}=DIR.')
    for name, least in (('minutes', 0), ('size', 1), ('batch_size', 0)):
        if not getattr(args, name) >= least:
            raise UserError(f'--{name} must be {least} or more, not {getattr(args, name)}.')
    return args


def run_systems(args: argparse.Namespace, others: Sequence[str]) -> list[str]:
    """Measures, trains, scores and colorizes what is not done; returns the systems that failed."""
    out = Path(args.output)
    output_lib.check_writable(out)
    settings = {
        name: getattr(args, name) for name in ('train', 'val', 'minutes', 'size', 'features')
    }
    claim(out / 'compare.json', {**settings, 'batch_size': args.batch_size, 'others': list(others)})
    choose_photographs(out / 'photographs', Path(args.val), args.photographs, args.size)
    failed = []
    for name in dict.fromkeys(filter(None, args.systems.split(','))):
        folder, workdir = out / name, f'--workdir={out / name / "run"}'
        try:
            common = overrides(name, args, others)
            rate = measure(folder, common, args.minutes)
            speed, steps = rate['images_per_second'], rate['steps']
            say(f'{name}: {speed:.3g} images/s, {steps} steps in {args.minutes:g} minutes')
            if steps not in checkpoints.kept_steps(folder / 'run'):
                own = (workdir, f'--config.steps={steps}', *plateau(name, steps))
                run(folder, 'chromagan_jax.main', *common, *own)
            if not (scores := table.last_scores(folder, steps)):
                own = (workdir, '--mode=eval', f'--config.eval.features={args.features}')
                run(folder, 'chromagan_jax.main', *common, *own)
                scores = table.last_scores(folder, steps)
            say(f'{name}: {evaluator.summary(steps, scores)}')
            if not table.colorized(out, name):
                own = (workdir, f'--output={folder / "colorized"}', str(out / 'photographs'))
                run(folder, 'chromagan_jax.colorize', *own)
        except UserError as error:
            say(f'{name} failed: {error}')
            failed.append(name)
    return failed


def claim(path: Path, settings: Mapping[str, Any]) -> None:
    """Writes the settings; raises UserError if the comparison was started with other ones."""
    if not path.exists():
        files.write_json(path, settings, OWN)
    for name, before in read_json(path).items():
        if settings[name] != before:
            flag = 'the arguments after --' if name == 'others' else f'--{name}'
            raise UserError(
                f'{path.parent} was started with {before!r} for {flag}, not {settings[name]!r}: '
                'set it back or choose another --output.'
            )


def choose_photographs(folder: Path, val: Path, asked: Sequence[str], size: int) -> None:
    """Writes the squares of table.jpg to `folder`, cropped as in the evaluation.

    Removes those that it has written for other photographs before.

    Raises:
        UserError: if a photograph cannot be read, or `folder` holds files of somebody else.
    """
    chosen = [Path(name) for name in asked]
    if len(asked) == 1 and asked[0].isdigit():
        if not val.is_dir():
            raise UserError(f'{val} is no folder: name a folder of photographs with --val.')
        names = Folder.scan(str(val), val).names
        count = min(max(1, int(asked[0])), len(names))
        chosen = [val / names[i * len(names) // count] for i in range(count)]
    squares = {}
    for number, path in enumerate(chosen):
        try:
            pixels = decode(path.read_bytes(), size)
        except (OSError, UnreadableImage) as error:
            raise UserError(f'{path} cannot be read ({error}): choose another.') from error
        square = resize(crop_square(pixels, min(pixels.shape[:2])), size, size)
        squares[f'{number:03d}_{path.stem}.png'] = files.encode_png(square)
    earlier = written_before(folder, squares)
    if not earlier >= squares.keys():
        files.write_json(folder / WRITTEN, sorted(earlier | squares.keys()), OWN)
    for name in earlier - squares.keys():
        (folder / name).unlink(missing_ok=True)
    for name, content in squares.items():
        files.write_atomically(folder / name, content, OWN)


def written_before(folder: Path, squares: Mapping[str, bytes]) -> set[str]:
    """The names of the photographs of table.jpg that were ever written to `folder`.

    Raises:
        UserError: if `folder` holds other files, which would be colorized too.
    """
    found = list(folder.iterdir()) if folder.is_dir() else []
    # Read last: another process that writes here notes the names before it writes the files.
    names = set(read_json(folder / WRITTEN))
    for path in found:
        if path.name.startswith('.') or path.name in names:
            continue
        # A folder of an older version lacks the names.
        if path.name not in squares or path.read_bytes() != squares[path.name]:
            raise UserError(
                f'{path} was not written by this command: move it, or choose another --output.'
            )
    return names


def overrides(name: str, args: argparse.Namespace, others: Sequence[str]) -> list[str]:
    """The flags of a system's config and of the settings of the comparison."""
    fields = {'data.source': args.train, 'eval.source': args.val, 'data.workers': 0}
    fields |= {'data.size': args.size, 'eval.size': args.size}
    fields |= {'eval_every': 0, 'sample_every': 0, 'checkpoint_every': 10**9}
    fields |= {'batch_size': args.batch_size} if args.batch_size else {}
    encoder = getattr(config_of(name).generator, 'encoder', 'none')
    if encoder == 'squeezenet':
        fields['pretrained.squeezenet'] = args.features
    elif encoder.startswith('lite'):
        fields['pretrained.efficientnet_lite'] = args.encoder
    own = [f'--config.{field}={value}' for field, value in fields.items()]
    module, colon, argument = name.partition(':')
    return [f'--config={ROOT}/configs/{module}.py{colon}{argument}', *own, *others]


def plateau(name: str, steps: int) -> list[str]:
    """The flag for ten evaluations, if the system's learning rates depend on them."""
    patience = config_of(name).reduce_lr_on_plateau.patience
    return [f'--config.eval_every={max(1, steps // 10)}'] if patience else []


def config_of(name: str) -> Config:
    """The config of a system, 'NAME' or 'NAME:ARGUMENT' for configs/NAME.py.

    Raises:
        UserError: if there is no such file.
    """
    module, colon, argument = name.partition(':')
    path = ROOT / 'configs' / f'{module}.py'
    if not path.is_file():
        raise UserError(f'There is no system {module}: choose from {", ".join(SYSTEMS)}.')
    return load(f'{path}{colon}{argument}')


def run(folder: Path, module: str, *arguments: str) -> str:
    """Runs a module as a command, appends its output to log.txt, returns its standard output.

    Raises:
        UserError: with the end of the log, if the command fails.
        KeyboardInterrupt: after SIGTERM or Ctrl-C, when the command has saved and ended.
    """
    command = [sys.executable, '-m', module, *arguments]
    cache = {'JAX_COMPILATION_CACHE_DIR': str(folder.parent.absolute() / 'xla')}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    environment = cache | os.environ | {'PYTHONPATH': path}
    folder.mkdir(exist_ok=True)
    log = folder / 'log.txt'
    files.append(log, f'$ {" ".join(command)}\n'.encode())
    start = log.stat().st_size
    with log.open('ab') as stderr:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, env=environment, text=True
        )
        try:
            output = process.communicate()[0]
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
    files.append(log, output.encode())
    if process.returncode:
        name = module.rpartition('.')[2]
        end = log.read_bytes()[start:].decode(errors='replace').splitlines()[-4:]
        raise UserError('\n'.join([f'{name} ended with {process.returncode}; {log} ends:', *end]))
    return output


def measure(folder: Path, common: Sequence[str], minutes: float) -> dict[str, Any]:
    """The content of rate.json: the rate of the train step and the number of steps in `minutes`."""
    path = folder / 'rate.json'
    if not path.exists():
        own = ('--only=train_step', '--rounds=1', f'--steps={RATE_STEPS}')
        printed = map(json.loads, run(folder, 'benchmarks.benchmark', *common, *own).splitlines())
        line = next(line for line in printed if line['name'] == 'train_step')
        steps = round(minutes * 60 * line['images_per_second'] / line['batch_size'])
        line |= {'processor': processor(line['device']), 'steps': max(2, steps)}
        files.write_json(path, line)
    return read_json(path)


def processor(device: str) -> str:
    """The name of a device; of a CPU, which JAX calls 'cpu', the model and the cores used."""
    if device != 'cpu':
        return device
    info = Path('/proc/cpuinfo')
    model = re.search(r'model name\s*: (.*)', info.read_text()) if info.exists() else None
    return f'{model[1] if model else platform.machine()}, cores used: {usable_cores()}'


if __name__ == '__main__':
    logging.set_verbosity(logging.ERROR)
    sys.exit(main(sys.argv[1:]))
