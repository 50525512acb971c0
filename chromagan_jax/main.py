r"""Trains a conditional GAN that colorizes photographs, or scores the checkpoints of a run.

    python -m chromagan_jax.main --config=configs/base.py
    python -m chromagan_jax.main --config=configs/photos.py --workdir=runs/mine \
        --config.data.source=DIR --config.eval.source=HELD_OUT_DIR

The same command resumes an interrupted run.

Exit codes:
  0    done
  1    wrong input or environment; a one-sentence message gives the fix
  3    diverged; do not restart
  75   restart: the run was asked to stop and has saved, made no progress for `stall_timeout`,
       lost another process, or a bucket did not answer
  134  SIGABRT: JAX noticed first that another process died; restart
"""

import inspect
import logging as standard_logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags, logging

from chromagan_jax import sharding
from chromagan_jax.config import Config, command_line
from chromagan_jax.config import files as config_files
from chromagan_jax.errors import (
    EXIT_DIVERGED,
    EXIT_RESTART,
    EXIT_USER_ERROR,
    DivergedError,
    PreemptedError,
    UserError,
    is_lost_process,
    is_out_of_memory,
    is_outage,
)
from chromagan_jax.evaluation import job
from chromagan_jax.training import loop
from chromagan_jax.utils import allocator, cli, cluster, paths, programs, progress

_WORKDIR = flags.DEFINE_string(
    'workdir',
    '',
    'Folder of the run, also as gs://BUCKET/FOLDER or s3://BUCKET/FOLDER; a restarted run resumes '
    'from it. Default: runs/CONFIG.',
)
_MODE = flags.DEFINE_enum(
    'mode', 'train', ['train', 'eval'], 'Train, or score checkpoints in --workdir.'
)
_PROFILE = flags.DEFINE_bool('profile', False, 'Write a trace of a few steps to WORKDIR/profile.')
_DISTRIBUTED = flags.DEFINE_bool(
    'distributed',
    False,
    'Join a run of several processes. They are detected under SLURM, Open MPI, Kubernetes and on '
    'TPUs; elsewhere set --coordinator, --num_processes and --process_id.',
)
_COORDINATOR = flags.DEFINE_string('coordinator', None, 'HOST:PORT of process 0.')
_NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'Number of all processes.')
_PROCESS_ID = flags.DEFINE_integer('process_id', None, 'Number of this process, from 0.')
_STARTUP_TIMEOUT = flags.DEFINE_integer(
    'startup_timeout', 300, 'Time that --distributed waits for all processes to start, s.', 1
)
_COMPILATION_CACHE = flags.DEFINE_string(
    'compilation_cache',
    programs.FOLDER,
    "Folder that caches compiled functions for the next start; '' for no cache.",
)

# In the order of --help.
_JOB: tuple[flags.FlagHolder[Any], ...] = (_WORKDIR, _MODE, _PROFILE, _COMPILATION_CACHE)
_PROCESSES: tuple[flags.FlagHolder[Any], ...] = (
    *(_DISTRIBUTED, _COORDINATOR, _NUM_PROCESSES, _PROCESS_ID, _STARTUP_TIMEOUT),
)


def main(argv: Sequence[str]) -> None:
    """Runs the job that the command line describes, and exits."""
    if cli.asks_for_help(argv):
        print(_help())
        return
    try:
        _run(argv)
    except UserError as error:
        cli.exit_with(EXIT_USER_ERROR, str(error))
    except PreemptedError as error:
        cli.exit_with(EXIT_RESTART, str(error))
    except DivergedError as error:
        cli.exit_with(EXIT_DIVERGED, str(error))
    except Exception as error:
        if is_lost_process(error):
            cause = 'another process ended, or the network to it failed'
        elif is_outage(error):
            cause = 'the bucket did not answer'
        elif is_out_of_memory(error):
            cli.exit_with(
                EXIT_USER_ERROR,
                'A device has not enough memory: set grad_accum_steps=2 or more, remat=True, '
                'dtype=bfloat16 or a smaller batch_size (docs/faq.md, Out of memory).',
            )
        else:
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        cli.end_now(
            EXIT_RESTART,
            f'{cause} ({reason}): start the run again. It resumes from its newest checkpoint.',
        )


def _run(argv: Sequence[str]) -> None:
    line = command_line.split(argv[1:])
    extra = cli.parse(flags.FLAGS, [argv[0], *line.rest])
    if extra:
        raise UserError(f'{extra[0]!r} is not a flag: write --config.FIELD=VALUE.')
    config = command_line.make_config(line)
    sharding.disable_async_cpu_dispatch()
    if _DISTRIBUTED.value:
        _join_processes()
    if sharding.find_devices(local=True)[0].platform == 'cpu':
        allocator.keep_freed_memory()
    assert line.spec  # make_config raises without it
    file = config_files.find(line.spec.partition(':')[0])
    _use_compilation_cache(file)
    _train_or_evaluate(config, paths.as_path(_WORKDIR.value or f'runs/{file.stem}'))


def _train_or_evaluate(config: Config, workdir: Path) -> None:
    if _MODE.value == 'train':
        loop.train_and_evaluate(config, workdir, _PROFILE.value)
    else:
        job.evaluate_checkpoints(config, workdir)


def _join_processes() -> None:
    try:
        cluster.join(
            *(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value, _STARTUP_TIMEOUT.value)
        )
    except RuntimeError as error:  # the cluster's API denies access or is not ready yet
        if isinstance(error, PreemptedError):
            raise
        if '403' in str(error):
            raise UserError(
                f'--distributed may not list the processes of the cluster ({error}): give the job '
                'the permissions in launch/kubernetes/setup.yaml.'
            ) from error
        cli.end_now(
            EXIT_RESTART, f'the other processes cannot be found yet ({error}): start the run again.'
        )


def _use_compilation_cache(config_file: Path) -> None:
    """Sets the folder of compiled functions; says so if it cannot be used."""
    folder = _COMPILATION_CACHE.value
    if reason := programs.use_cache(folder, [config_file]):
        progress.announcer()(
            f'no cache of compiled functions, {folder} cannot be written ({reason}): '
            '--compilation_cache names another folder'
        )


def _help() -> str:
    """The description of the command and its flags, without those of libraries."""
    flag_lines = [
        ('config=FILE', 'Config file, or the name of one in the package. Required.'),
        ('config.FIELD=VALUE', 'Value of a field; chromagan_jax/config/schema.py lists them.'),
    ]
    groups = [('The job', flag_lines + cli.described(flags.FLAGS[f.name] for f in _JOB))]
    groups.append(('Several processes', cli.described(flags.FLAGS[f.name] for f in _PROCESSES)))
    shown = [f'{title}:\n{cli.flag_lines(lines)}' for title, lines in groups]
    return '\n\n'.join([str(__doc__).rstrip(), *shown])


def _show_unraisable(unraisable: 'sys.UnraisableHookArgs') -> None:
    """An unraisable hook that hides duplicates of errors in a save or restore.

    The main thread raises the error itself. For each array, TensorStore's threads may raise "Event
    loop is closed", and Orbax's coroutines may raise the error of a damaged checkpoint.
    """
    late = str(unraisable.exc_value) == 'Event loop is closed'
    if not late and not inspect.iscoroutine(unraisable.object):
        sys.__unraisablehook__(unraisable)


if __name__ == '__main__':
    sys.unraisablehook = _show_unraisable
    # The main thread reports the errors of background threads and of Orbax's coroutines.
    logging.set_verbosity(logging.FATAL)
    standard_logging.getLogger('asyncio').setLevel(standard_logging.CRITICAL)
    main(sys.argv)
