"""The Beam pipeline: from a listing of images to their outcomes and staged JPEGs.

A runner may hold shuffled data in memory, as Beam's local runner does. So each worker appends
images and names to a separate staging file and passes on a `TICKET` of 60 bytes with the position.
Only tickets, hashes and marks are shuffled:

    chunks -> read, process, stage -> tickets -> hashes with a band in common -> marks
                                         |                                         |
                                         +-> tickets of a bucket <- better's names +
    tickets and marks of a bucket -> one of equal files, one of near-duplicates, train or test
                                  -> plan files, sorted by digest

Every step depends only on the images, not on their order or their distribution over workers.
Workers and runner must see the same input and staging folders.
"""

import functools
import os
import shlex
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import apache_beam as beam
import cv2
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.environments import SubprocessSDKEnvironment

from chromagan_jax.errors import UserError
from chromagan_jax.prepare import inputs as inputs_lib
from chromagan_jax.prepare import outcomes, pictures
from chromagan_jax.prepare.duplicates import Concatenate, FindNear, better_of, by_worse
from chromagan_jax.prepare.inputs import Inputs
from chromagan_jax.prepare.outcomes import TICKET, Outcome
from chromagan_jax.prepare.pictures import Dropped, Kept, Options
from chromagan_jax.utils import files

# Beam knows this runner by its full name only.
_NAMES = {'--runner=DaskRunner': '--runner=apache_beam.runners.dask.dask_runner.DaskRunner'}


class Job(NamedTuple):
    """The parameters that a worker needs."""

    inputs: Inputs
    listing: str  # file
    staging: str  # folder
    options: Options
    distance: int  # maximum Hamming distance of near-duplicates; -1: keep them
    test: float  # fraction of the test split
    seed: int  # of the test split


class Runner(NamedTuple):
    """The Beam runner and its workers."""

    workers: int = 1  # processes on this machine; 1: the current process
    arguments: tuple[
        str, ...
    ] = ()  # Beam's options, which select another runner; (): the local one


def run(job: Job, starts: Sequence[int], runner: Runner) -> None:
    """Processes the chunks of the listing at the file offsets `starts`.

    `outcomes.read_plan` then returns the outcomes.

    Raises:
        UserError: if Beam does not accept the runner's arguments.
    """
    for folder in ('pictures', 'plan', 'done'):
        Path(job.staging, folder).mkdir(parents=True)
    with _pipeline(job, runner) as pipeline:
        (
            pipeline
            | 'Chunks' >> beam.Create(starts, reshuffle=False)
            | 'Spread' >> beam.Reshuffle()
            | 'Process' >> beam.ParDo(Process(job))
            | 'Decide' >> Decide(job)
        )


def _pipeline(job: Job, runner: Runner) -> beam.Pipeline:
    if not runner.arguments:
        options = PipelineOptions([f'--direct_num_workers={runner.workers}'])
        return beam.Pipeline(_local(job, runner.workers), options)
    # Without a list of arguments Beam would parse this command's flags.
    options = PipelineOptions([_NAMES.get(argument, argument) for argument in runner.arguments])
    try:
        return beam.Pipeline(options=options)
    except (ValueError, ImportError) as error:
        raise UserError(f'Beam refuses the arguments after --: {error}') from error


def _local(job: Job, workers: int) -> FnApiRunner:
    """Beam's runner for one machine, because the default runner tries a download first."""
    if workers == 1:
        return FnApiRunner()
    # As --direct_running_mode=multi_processing, but workers log to a file.
    worker = f'{shlex.quote(sys.executable)} -m apache_beam.runners.worker.sdk_worker_main'
    log = shlex.quote(os.path.join(job.staging, 'workers.log'))
    command = f'exec {worker} >> {log} 2>&1'
    return FnApiRunner(SubprocessSDKEnvironment.from_command_string(command))


class Process(beam.DoFn):
    """Reads and processes the images of a chunk; stages their JPEGs in one file per bundle.

    A retried bundle writes to a new file.
    """

    def __init__(self, job: Job):
        self._job = job
        self._name = ''
        self._file: BinaryIO
        self._done: Any

    def setup(self) -> None:
        cv2.setNumThreads(1)  # images run in parallel

    def start_bundle(self) -> None:
        self._name = uuid.uuid4().hex
        staging = Path(self._job.staging)
        with files.writing(staging):
            self._file = (staging / 'pictures' / self._name).open('wb')
            self._done = (staging / 'done' / self._name).open('wb', buffering=0)

    def process(self, start: int) -> Iterator[bytes]:
        job = self._job
        for name, category, data in inputs_lib.read_chunk(job.inputs, job.listing, start):
            if isinstance(data, OSError):
                digest = pictures.content_digest(os.fsencode(name))
                reason = f'cannot be read ({data.strerror or data})'
                result: Kept | Dropped = Dropped('undecodable', reason, None, digest)
            else:
                result = pictures.process(data, job.options)
            with files.writing(Path(job.staging)):
                ticket = outcomes.stage(self._file, self._name, result, (name, category))
                self._done.write(b'.')
            yield ticket

    def finish_bundle(self) -> None:
        with files.writing(Path(self._job.staging)):
            self._file.close()
            self._done.close()


class Decide(beam.PTransform):
    """Drops duplicates, then draws the splits, and writes the plan.

    In this order no image of the test split is a near-duplicate of a training image. Tickets are
    grouped by bucket, the first byte of the digest, which equal files share.
    """

    def __init__(self, job: Job):
        super().__init__()
        self._job = job

    def expand(self, tickets: beam.PCollection) -> beam.PCollection:
        job = self._job
        grouped = (
            tickets
            | 'ByBucket' >> beam.Map(lambda ticket: (ticket[0], ticket))
            | 'Buckets' >> beam.CombinePerKey(Concatenate())
        )
        joined = {'tickets': grouped}
        if job.distance >= 0:
            marks = tickets | 'NearDuplicates' >> FindNear(job.distance)
            joined['marks'] = (
                {'tickets': grouped, 'marks': marks}
                | 'Better' >> beam.CoGroupByKey()
                | 'Names' >> beam.FlatMapTuple(functools.partial(_name, job.staging))
            )
        return (
            joined
            | 'Join' >> beam.CoGroupByKey()
            | 'WritePlan' >> beam.MapTuple(functools.partial(_settle, job))
        )


def _name(
    staging: str, _: int, joined: Mapping[str, Iterable[bytes]]
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """The marks of a bucket with the names of the better images, as in `by_worse`."""
    marks = b''.join(joined['marks'])
    if not marks:
        return
    better = better_of(marks)
    names: dict[bytes, str] = {}
    for ticket in np.frombuffer(b''.join(joined['tickets']), TICKET):
        if (digest := ticket['digest'].tobytes()) in better:
            name = outcomes.read_staged(staging, ticket).name
            names[digest] = min(name, names.get(digest, name))
    yield from by_worse(marks, names)


def _settle(job: Job, bucket: int, joined: Mapping[str, Iterable[Any]]) -> None:
    """Decides the outcomes of a bucket, and writes its part of the plan."""
    better: dict[str, tuple[Any, ...]] = {}
    for worse, *rank_and_name in joined.get('marks', ()):
        other = tuple(rank_and_name)
        better[worse.hex()] = min(other, better.get(worse.hex(), other))
    tickets = np.frombuffer(b''.join(joined['tickets']), TICKET)
    first: dict[str, str] = {}  # of equal files, by digest
    plans: dict[str, list[Outcome]] = {plan: [] for plan in (*outcomes.SPLITS, 'dropped')}
    for one in sorted(outcomes.read_staged(job.staging, ticket) for ticket in tickets):
        if not one.decision:
            if one.digest in first:
                one = one.duplicate(f'the same file as {first[one.digest]}')
            elif one.digest in better:
                one = one.duplicate(f'looks like {os.fsdecode(better[one.digest][-1])}')
            else:
                one = one._replace(decision=pictures.split_of(one.digest, job.test, job.seed))
            first.setdefault(one.digest, one.name)
        plans[one.decision if one.decision in outcomes.SPLITS else 'dropped'].append(one)
    for plan, some in plans.items():
        if some:
            outcomes.write_plan(job.staging, (plan, outcomes.BUCKETS[bucket]), some)
