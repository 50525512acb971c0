"""Command line: `python -m chromagan_jax.main --config=configs/base.py`.

Exit codes: 0 done; 1 a mistake of the user, told in one sentence; 3 diverged, do not start it
again; 75 start it again: it was asked to stop and has saved, hung for `stall_timeout`, or lost
another process. JAX may be the first to notice that another process died, and ends this one with
SIGABRT (134): start it again too.
"""

import inspect
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import flags, logging

from chromagan_jax import sharding
from chromagan_jax.config import Config, command_line
from chromagan_jax.errors import DivergedError, PreemptedError, UserError, is_lost_process
from chromagan_jax.evaluation import job
from chromagan_jax.training import loop
from chromagan_jax.utils import cli
from chromagan_jax.utils.cli import end_now, exit_with

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


def main(argv: Sequence[str]) -> None:
    """Runs the job that the command line describes, and exits."""
    if {'--help', '-help', '-h'} & set(argv):
        print(f'{__doc__}\n{flags.FLAGS.get_help()}')
        return
    try:
        _run(argv)
    except UserError as error:
        exit_with(1, str(error))
    except PreemptedError as error:
        exit_with(75, str(error))
    except DivergedError as error:
        exit_with(3, str(error))
    except Exception as error:
        if not is_lost_process(error):
            raise
        end_now(
            75,
            'another process ended, or the network to it broke '
            f'({str(error).splitlines()[0][:200]}): started again, the run goes on from its newest '
            'checkpoint.',
        )


def _run(argv: Sequence[str]) -> None:
    line = command_line.split(argv[1:])
    extra = cli.parse(flags.FLAGS, [argv[0], *line.rest])
    if extra:
        raise UserError(f'{extra[0]!r} is no flag: write --config.FIELD=VALUE.')
    config = command_line.make_config(line)
    sharding.disable_async_cpu_dispatch()
    if _DISTRIBUTED.value:
        _join_processes()
    if _COMPILATION_CACHE.value and not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
        jax.config.update('jax_compilation_cache_dir', _COMPILATION_CACHE.value)
    if '://' in _WORKDIR.value:
        raise UserError(
            f'--workdir={_WORKDIR.value} is no folder: mount the bucket or share, and name the '
            'folder under which it is mounted.'
        )
    assert line.spec  # or there would be no config
    name = Path(line.spec.partition(':')[0]).stem
    _train_or_evaluate(config, Path(_WORKDIR.value or f'runs/{name}'))


def _train_or_evaluate(config: Config, workdir: Path) -> None:
    if _MODE.value == 'train':
        loop.train_and_evaluate(config, workdir, _PROFILE.value)
    else:
        job.evaluate_checkpoints(config, workdir)


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
        end_now(75, f'the other processes cannot be found yet ({error}): start it again.')


def _show_unraisable(unraisable: 'sys.UnraisableHookArgs') -> None:
    """Shows an exception that no caller can catch, but for the echoes of a save or restore.

    TensorStore's threads raise one for each array that comes too late to the save's event loop, and
    Orbax's coroutines one for each array of a damaged checkpoint; the failure itself is raised in
    the main thread.
    """
    late = str(unraisable.exc_value) == 'Event loop is closed'
    if not late and not inspect.iscoroutine(unraisable.object):
        sys.__unraisablehook__(unraisable)


if __name__ == '__main__':
    sys.unraisablehook = _show_unraisable
    # Errors of background threads come back to the main thread, which tells of them.
    logging.set_verbosity(logging.FATAL)
    main(sys.argv)
