"""Command line: `python -m chromagan_jax.main --config=configs/base.py`.

Exit codes: 0 done; 1 a mistake of the user, told in one sentence; 3 diverged, do not start it
again; 75 start it again: it was asked to stop and has saved, hung for `stall_timeout`, or lost
another process. JAX may be the first to notice that another process died, and ends this one with
SIGABRT (134): start it again too.
"""

import inspect
import os
import re
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from chromagan_jax import evaluate, startup, train
from chromagan_jax.errors import DivergedError, PreemptedError, UserError, is_lost_process

_CONFIG = config_flags.DEFINE_config_file(
    'config', help_string='Config file; --config.FIELD=VALUE sets a field.', lock_config=True
)
_WORKDIR = flags.DEFINE_string(
    'workdir', '', 'Where the run writes; started again, it goes on there. Default: runs/CONFIG.'
)
_MODE = flags.DEFINE_enum(
    'mode', 'train', ['train', 'eval'], 'Train, or score checkpoints of a workdir (config.eval).'
)
_PROFILE = flags.DEFINE_bool('profile', False, 'Trace a few steps into workdir/profile.')
_DISTRIBUTED = flags.DEFINE_bool(
    'distributed',
    False,
    'One of several processes, which find each other through SLURM, Open MPI, Kubernetes or the '
    'TPU; elsewhere the three flags below say it.',
)
_COORDINATOR = flags.DEFINE_string('coordinator', None, 'HOST:PORT of process 0.')
_NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'How many processes there are.')
_PROCESS_ID = flags.DEFINE_integer('process_id', None, 'Which of them this one is, from 0.')
_COMPILATION_CACHE = flags.DEFINE_string(
    'compilation_cache',
    str(Path('~/.cache/chromagan_jax/xla').expanduser()),
    "Where compiled steps are kept for the next start; '' for nowhere.",
)


_FAREWELL = 10.0  # s that a process waits at its end for others that may end as well


def main(argv: Sequence[str]) -> None:
    """Runs the job that the flags describe, and exits."""
    try:
        if len(argv) > 1:
            raise UserError(f'{argv[1]!r} is no flag: write --config.FIELD=VALUE.')
        if _CONFIG.value is None:
            raise UserError('No config is named: add --config=configs/base.py.')
        _run()
    except UserError as error:
        _exit(1, str(error))
    except PreemptedError as error:
        _exit(75, str(error))
    except DivergedError as error:
        _exit(3, str(error))
    except Exception as error:
        if not is_lost_process(error):
            raise
        _end_now(
            75,
            'another process ended, or the network to it broke '
            f'({str(error).splitlines()[0][:200]}): started again, the run goes on from its newest '
            'checkpoint.',
        )


def _run() -> None:
    startup.compute_in_this_thread()
    if _DISTRIBUTED.value:
        _join_processes()
    if _COMPILATION_CACHE.value and not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
        jax.config.update('jax_compilation_cache_dir', _COMPILATION_CACHE.value)
    name = Path(config_flags.get_config_filename(flags.FLAGS['config'])).stem
    workdir = Path(_WORKDIR.value or f'runs/{name}')
    if '://' in _WORKDIR.value:
        raise UserError(
            f'--workdir={_WORKDIR.value} is no folder: mount the bucket or share, and name the '
            'folder under which it is mounted.'
        )
    if _MODE.value == 'train':
        train.train_and_evaluate(_CONFIG.value, workdir, _PROFILE.value)
    else:
        evaluate.evaluate_checkpoints(_CONFIG.value, workdir)


def _join_processes() -> None:
    try:
        jax.distributed.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    except (ValueError, TypeError) as error:
        raise UserError(
            f'--distributed found no cluster that says which process this is ({error}): add '
            '--coordinator=HOST:PORT, --num_processes and --process_id.'
        ) from error
    except RuntimeError as error:  # of the cluster's API: no such rights, or not ready yet
        if '403' in str(error):
            raise UserError(
                f'--distributed may not ask the cluster for its processes ({error}): give the job '
                'the rights that launch/kubernetes/setup.yaml lists.'
            ) from error
        _end_now(75, f'the other processes cannot be found yet ({error}): start it again.')


def parse_flags(argv: Sequence[str]) -> list[str]:
    """The arguments that are no flags. Ends the program with one sentence if a flag is wrong."""
    try:
        arguments = flags.FLAGS(argv)
        # ml_collections tells of a file that it cannot read when a field is first asked for.
        getattr(_CONFIG.value, 'steps', None)
        return arguments
    except (flags.Error, AttributeError, LookupError, OSError) as error:  # all from ml_collections
        _exit(1, flag_mistake(str(error)))


def flag_mistake(error: str) -> str:
    """The one sentence in what absl and ml_collections say about a flag."""
    if 'Traceback' in error:  # of a config file: the exception stands at its end
        return error.strip().splitlines()[-1].split('UserError: ')[-1]
    # ml_collections quotes quoted messages, ends of lines included.
    text = ' '.join(error.replace('\\n', ' ').replace('\\', '').split())
    for pattern, sentence in (
        (r'\W*(\w+)\W* Did you mean "(\w+)".*', r"No field '\1' in the config: did you mean '\2'?"),
        (r'\W*(\w+)\W*', r"There is no field '\1' in the config."),
        (r'\W*Attribute .* lookup: ([\w.]+)\W*', r"There is no field '\1' in the config."),
        (r"Unknown .* flag 'config\..*", 'No config is named: add --config=configs/base.py.'),
        (r"Unknown .* flag '(.*?)'. Did you mean: (\S+) .*", r'No flag --\1: did you mean --\2?'),
        (r"Unknown .* flag '(.*)'", r'There is no flag --\1.'),
        (r'flag --(.*?)=(.*): invalid literal.*', r"--\1 must be a whole number, not '\2'."),
        (r'flag --(.*?)=(.*): could not convert.*', r"--\1 must be a number, not '\2'."),
        (r"flag --(.*?)=(.*): \('Non-boolean.*", r"--\1 must be true or false, not '\2'."),
        (r'Configuration is not available.*?\[Errno \d+\] (.*)', r'--config cannot be read: \1.'),
    ):
        if match := re.fullmatch(pattern, text):
            return match.expand(sentence)
    return text


def _show_unraisable(unraisable: 'sys.UnraisableHookArgs') -> None:
    """Shows an exception that no caller can catch, but for the echoes of a save or restore.

    TensorStore's threads raise one for each array that comes too late to the save's event loop, and
    Orbax's coroutines one for each array of a damaged checkpoint; the failure itself is raised in
    the main thread.
    """
    late = str(unraisable.exc_value) == 'Event loop is closed'
    if not late and not inspect.iscoroutine(unraisable.object):
        sys.__unraisablehook__(unraisable)


def _exit(code: int, sentence: str) -> NoReturn:
    print(f'chromagan_jax: {sentence}', file=sys.stderr, flush=True)
    if jax.distributed.is_initialized():
        # JAX says farewell to the other processes, so that a mistake that all make ends all with
        # its code. One that is made here alone leaves them waiting for this process: then it goes.
        leave = threading.Timer(_FAREWELL, os._exit, (code,))
        leave.daemon = True
        leave.start()
    sys.exit(code)


def _end_now(code: int, sentence: str) -> NoReturn:
    """Ends without the farewell of `jax.distributed`, which would wait for the others."""
    print(f'chromagan_jax: {sentence}', file=sys.stderr, flush=True)
    os._exit(code)


if __name__ == '__main__':
    sys.unraisablehook = _show_unraisable
    # Errors of background threads come back to the main thread, which tells of them.
    logging.set_verbosity(logging.FATAL)
    app.run(main, flags_parser=parse_flags)
