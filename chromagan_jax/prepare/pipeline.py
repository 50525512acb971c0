"""The Beam pipeline: from a listing of pictures to what became of each, with their JPEGs staged.

A runner may hold in memory whatever passes through a shuffle (Beam's local one does), so pictures
never do: a worker appends what it encodes to a staging file of its own and hands on a small
`Outcome` that says where. Only outcomes are shuffled, some 300 bytes a picture:

    chunks -> read, process, stage -> one of equal files -> one of near-duplicates
           -> train or test -> plan files, sorted by digest

Every step depends on the pictures alone, not on their order or on who works on which. Workers and
runner must see the same folders: the inputs, and the one that is staged in.
"""

import functools
import os
import shlex
import sys
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import apache_beam as beam
import cv2
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.environments import SubprocessSDKEnvironment

from chromagan_jax import files
from chromagan_jax.prepare import inputs as inputs_lib
from chromagan_jax.prepare import pictures
from chromagan_jax.prepare.duplicates import DropEqual, DropNear, Fields
from chromagan_jax.prepare.inputs import Inputs
from chromagan_jax.prepare.outcomes import Outcome, plan_of, write_plan
from chromagan_jax.prepare.pictures import Dropped, Kept, Options


class Job(NamedTuple):
    """What is done, as a worker has to know it."""

    inputs: Inputs
    listing: str  # file
    staging: str  # folder
    options: Options
    distance: int  # bits in which the hashes of near-duplicates differ at most; -1: keep them
    test: float  # share of the test split
    seed: int  # of the draw for it


class Runner(NamedTuple):
    """Who works on the pipeline."""

    workers: int = 1  # processes on this machine; 1: this one
    arguments: tuple[str, ...] = ()  # Beam's own, which name another runner


def run(job: Job, starts: Sequence[int], runner: Runner) -> None:
    """Works on the chunks of the listing that begin at `starts`.

    What became of the pictures is then told by `outcomes.read_plan`.
    """
    for folder in ('pictures', 'plan', 'done'):
        Path(job.staging, folder).mkdir(parents=True)
    arguments, local = list(runner.arguments), None
    if not arguments:
        arguments, local = [f'--direct_num_workers={runner.workers}'], _local(job, runner.workers)
    # Without a list of arguments Beam would read this command's own flags.
    with beam.Pipeline(local, PipelineOptions(arguments)) as pipeline:
        (
            pipeline
            | 'Chunks' >> beam.Create(starts, reshuffle=False)
            | 'Spread' >> beam.Reshuffle()
            | 'Process' >> beam.ParDo(Process(job))
            | 'Decide' >> Decide(job)
            | 'ByPlan' >> beam.Map(lambda fields: (plan_of(Outcome(*fields)), fields))
            | 'Plans' >> beam.GroupByKey()
            | 'WritePlan' >> beam.MapTuple(functools.partial(write_plan, job.staging))
        )


def _local(job: Job, workers: int) -> FnApiRunner:
    """Beam's runner for one machine. (Its default tries to download another one first.)"""
    if workers == 1:
        return FnApiRunner()
    # As --direct_running_mode=multi_processing, but what the workers log goes to a file.
    worker = f'{shlex.quote(sys.executable)} -m apache_beam.runners.worker.sdk_worker_main'
    log = shlex.quote(os.path.join(job.staging, 'workers.log'))
    command = f'exec {worker} >> {log} 2>&1'
    return FnApiRunner(SubprocessSDKEnvironment.from_command_string(command))


class Process(beam.DoFn):
    """Reads and processes the pictures of a chunk; stages their JPEGs in a file of the bundle's.

    A bundle that the runner tries again writes another file: nothing is written twice.
    """

    def __init__(self, job: Job):
        self._job = job
        self._name = ''
        self._file: BinaryIO
        self._done: Any

    def setup(self) -> None:
        cv2.setNumThreads(1)  # pictures are what runs in parallel

    def start_bundle(self) -> None:
        self._name = uuid.uuid4().hex
        staging = Path(self._job.staging)
        with files.writing(staging):
            self._file = (staging / 'pictures' / self._name).open('wb')
            self._done = (staging / 'done' / self._name).open('wb', buffering=0)

    def process(self, start: int) -> Iterator[Fields]:
        job = self._job
        for name, category, data in inputs_lib.read_chunk(job.inputs, job.listing, start):
            if isinstance(data, OSError):
                digest = pictures.content_digest(os.fsencode(name))
                reason = f'cannot be read ({data.strerror or data})'
                result: Kept | Dropped = Dropped('undecodable', reason, None, digest)
            else:
                result = pictures.process(data, job.options)
            outcome = Outcome.of(result, name, category, self._name, self._file.tell())
            image = result.image if isinstance(result, Kept) else result.thumbnail
            with files.writing(Path(job.staging)):
                self._file.write(image or b'')
                self._done.write(b'.')
            yield tuple(outcome)

    def finish_bundle(self) -> None:
        with files.writing(Path(self._job.staging)):
            self._file.close()
            self._done.close()


class Decide(beam.PTransform):
    """Drops duplicates, then draws the split of what is left: no `fate` stays open.

    In this order nothing in the test split is a near-duplicate of anything in training.
    """

    def __init__(self, job: Job):
        super().__init__()
        self._job = job

    def expand(self, processed: beam.PCollection) -> beam.PCollection:
        job = self._job
        dropped = processed | 'Dropped' >> beam.Filter(_is_decided)
        different = processed | 'Kept' >> beam.Filter(_is_open) | 'Equal' >> DropEqual()
        copies = different | 'Copies' >> beam.Filter(_is_decided)
        unique = different | 'Unique' >> beam.Filter(_is_open)
        if job.distance >= 0:
            unique |= 'NearDuplicates' >> DropNear(job.distance)
        split = unique | 'Split' >> beam.Map(functools.partial(_draw, job.test, job.seed))
        return (dropped, copies, split) | beam.Flatten()


def _is_decided(fields: Fields) -> bool:
    return bool(Outcome(*fields).fate)


def _is_open(fields: Fields) -> bool:
    return not Outcome(*fields).fate


def _draw(test: float, seed: int, fields: Fields) -> Fields:
    outcome = Outcome(*fields)
    if outcome.fate:
        return fields
    return tuple(outcome._replace(fate=pictures.split_of(outcome.digest, test, seed)))
