"""Gray photographs in, colour photographs out, at their own resolution.

    python -m chromagan_jax.colorize --workdir=DIR --output=OUT PATH...

A PATH is a photograph or a folder of them, whose sub-folders are mirrored below OUT. The network
sees each photograph at the size that it was evaluated at; the colours that it finds are laid onto
the photograph's own lightness, at full resolution. `colorize` does the same with arrays.

Exit codes: 0 done; 1 some photographs failed, or a mistake, told in one sentence.
"""

import hashlib
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags, logging
from PIL import Image

from chromagan_jax import checkpoint, color, images, sharding, steps, writers
from chromagan_jax import state as state_lib
from chromagan_jax.data.decode import UnreadableImage
from chromagan_jax.errors import UserError
from chromagan_jax.images import Job
from chromagan_jax.main import flag_mistake
from chromagan_jax.state import System

PyTree = Any
T = TypeVar('T')
# Up to a batch of (size, size, 3) uint8 photographs, and which sample of each (None: the one
# without noise) -> their a*, b*, (n, size, size, 2) float32.
Predict = Callable[[Sequence[np.ndarray], Sequence[int | None]], np.ndarray]

# What may be wrong with one photograph and leave the others alone.
_FAILURES = (OSError, UnreadableImage, MemoryError)
_BATCH_PIXELS = 2**25  # a batch ends early when its photographs have as many pixels


def colorize(
    photographs: Sequence[np.ndarray],
    system: System,
    variables: PyTree,
    size: int,
    batch_size: int = 1,
    sample: int | None = None,
) -> list[np.ndarray]:
    """Colour versions of photographs, each at its own resolution and of its own lightness.

    What becomes of one depends on no other. With a `batch_size` above 1 that holds up to rounding:
    its place in the batch may change the last bits of its ab (by 3e-5, on a CPU), and with them a
    few values in a million by 1.

    Args:
        photographs: sRGB, (H, W) uint8 or uint16, (H, W, 3) or (H, W, 4) uint8. Of colour ones
            only the lightness counts.
        system: of `checkpoint.load`.
        variables: of its generator, `state.generator_variables`.
        size: px, the side of the square that the network sees.
        batch_size: how many photographs it sees at once; there is little to gain above 1.
        sample: for a network with noise, which of its results; drawn by the photograph's content.

    Returns:
        (H, W, 3) uint8 each, (H, W, 4) with the same alpha for RGBA.

    Raises:
        UserError: if the network does not take pictures of `size`, or has no noise to sample.
    """
    predict = make_predict(system, variables, size, batch_size, sample is not None)
    results: list[np.ndarray] = []
    for start in range(0, len(photographs), batch_size):
        batch = photographs[start : start + batch_size]
        small = [images.shrink(pixels, size) for pixels in batch]
        results += map(images.recolor, batch, small, predict(small, [sample] * len(small)))
    return results


def make_predict(
    system: System, variables: PyTree, size: int, batch_size: int, noise: bool = False
) -> Predict:
    """The network as a function of up to `batch_size` small photographs, compiled once.

    Raises:
        UserError: if the network does not take pictures of `size`, or has no `noise`.
    """
    shape = jax.ShapeDtypeStruct((batch_size, size, size, 1), jnp.float32)
    target = jax.eval_shape(partial(steps.predict, system), variables, shape)
    space = {channels: name for name, channels in color.TARGET_CHANNELS.items()}[target.shape[-1]]

    @jax.jit
    def colors(variables: PyTree, condition: jax.Array, seeds: jax.Array) -> jax.Array:
        if noise:  # a stream for each photograph, so that none depends on its neighbours
            target = jax.vmap(
                lambda one, seed: steps.predict(system, variables, one[None], jax.random.key(seed))
            )(condition, seeds)[:, 0]
        else:
            target = steps.predict(system, variables, condition)
        return color.to_lab(condition, target)[..., 1:]

    def predict(small: Sequence[np.ndarray], samples: Sequence[int | None]) -> np.ndarray:
        batch = np.zeros((batch_size, size, size, 3), np.uint8)
        batch[: len(small)] = small
        seeds = np.zeros(batch_size, np.uint32)
        seeds[: len(small)] = [_seed(*pair) for pair in zip(small, samples, strict=True)]
        return np.array(colors(variables, color.encode(batch, space)[0], seeds)[: len(small)])

    if noise:
        gray = np.full((size, size, 3), 128, np.uint8)
        if np.array_equal(predict([gray], [1]), predict([gray], [2])):
            raise UserError(
                'The network has no noise, so all samples would be the same: leave --samples out, '
                'or train one with generator.dropout.'
            )
    return predict


def _seed(small: np.ndarray, sample: int | None) -> int:
    """Of the noise: a hash of the photograph's content and the sample's number."""
    content = small.tobytes() + str(sample).encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=4).digest(), 'little')


class Photograph(NamedTuple):
    """A photograph between reading and writing."""

    job: Job
    pixels: np.ndarray
    small: np.ndarray  # (size, size, 3) uint8, what the network sees


class Counts:
    """How many photographs ended how, and the lines about them."""

    def __init__(self, total: int):
        self.colorized = self.failed = 0
        self._progress = writers.Progress(total, 0, 1, unit='photograph')
        self._interval = 1 if sys.stderr.isatty() else 30  # seconds between reports
        self._reported = time.monotonic()
        self.message, self.close = self._progress.message, self._progress.close

    def fail(self, job: Job, error: BaseException) -> None:
        """Names a photograph that is given up."""
        self.failed += 1
        reason = getattr(error, 'strerror', None) or str(error) or 'not enough memory'
        self.message(f'{job.source} failed: {reason}')

    def collect(self, job: Job, writing: Future[None]) -> None:
        """Waits for a photograph to be written; shows the progress if it was not shown just now."""
        try:
            writing.result()
            self.colorized += 1
        except _FAILURES as error:
            self.fail(job, error)
        if time.monotonic() - self._reported >= self._interval:
            self._reported = time.monotonic()
            self._progress.report(self.colorized + self.failed, {})


def colorize_files(
    jobs: Sequence[Job],
    predict: Predict,
    size: int,
    batch_size: int = 1,
    threads: int = 2,
    max_pixels: int = 200_000_000,
) -> tuple[int, int]:
    """Reads, colorizes and writes; names on standard error what fails, and goes on.

    Threads read and write while the network runs. In memory are a batch, of at most `batch_size`
    photographs and about 33 megapixels, and no more than `threads` photographs before it and as
    many after it.

    Returns:
        How many were colorized and how many failed.

    Raises:
        UserError: if nothing more can be written.
    """
    counts = Counts(len(jobs))
    batch: list[Photograph] = []
    writing: deque[tuple[Job, Future[None]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            readings = (pool.submit(_read, job, size, max_pixels) for job in jobs)
            for job, reading in _ahead(zip(jobs, readings, strict=True), threads):
                try:
                    photograph, notes = reading.result()
                except _FAILURES as error:
                    counts.fail(job, error)
                    continue
                for note in notes:
                    counts.message(f'{job.source}: {note}')
                batch.append(photograph)
                pixels = sum(p.pixels.shape[0] * p.pixels.shape[1] for p in batch)
                if len(batch) == batch_size or pixels >= _BATCH_PIXELS:
                    writing += _start_writing(batch, predict, pool)
                    batch = []
                while len(writing) > threads:
                    counts.collect(*writing.popleft())
            if batch:
                writing += _start_writing(batch, predict, pool)
            for job, future in writing:
                counts.collect(job, future)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            counts.close()
    return counts.colorized, counts.failed


def _ahead(items: Iterable[T], ahead: int) -> Iterator[T]:
    """The items in order; as one is handed out, `ahead` of those after it were already made."""
    pending: deque[T] = deque()
    for item in items:
        pending.append(item)
        if len(pending) > ahead:
            yield pending.popleft()
    while pending:
        yield pending.popleft()


def _read(job: Job, size: int, max_pixels: int) -> tuple[Photograph, list[str]]:
    pixels, frames = images.read(job.source, max_pixels)
    notes = [f'the first of its {frames} frames is colorized'] if frames > 1 else []
    if pixels.shape[2:] == (4,) and job.target.suffix == '.jpg':
        notes.append('JPEG has no transparency: its transparent parts become white')
    return Photograph(job, pixels, images.shrink(pixels, size)), notes


def _start_writing(
    batch: Sequence[Photograph], predict: Predict, pool: ThreadPoolExecutor
) -> list[tuple[Job, Future[None]]]:
    """Runs the network, and leaves the rest to the threads."""
    colors = predict([p.small for p in batch], [p.job.sample for p in batch])
    return [(p.job, pool.submit(_write, p, ab)) for p, ab in zip(batch, colors, strict=True)]


def _write(photograph: Photograph, ab: np.ndarray) -> None:
    result = images.recolor(photograph.pixels, photograph.small, ab)
    target = photograph.job.target
    images.write(target, images.on_white(result) if target.suffix == '.jpg' else result)


def make_flags() -> flags.FlagValues:
    """The flags of the command; not absl's global ones, for this module is also imported."""
    values = flags.FlagValues()
    define = partial(flags.DEFINE_string, flag_values=values)
    define('workdir', None, 'The workdir of the run whose network colorizes.')
    define('output', None, 'The folder that the colour versions go to.')
    define('checkpoint', 'newest', 'newest, best, or a step that is still kept.')
    flags.DEFINE_enum(
        'format', 'png', ['png', 'jpg'], 'Of the colour versions.', flag_values=values
    )
    flags.DEFINE_bool(
        'overwrite', False, 'Replace what is there; otherwise it is skipped.', flag_values=values
    )
    for name, default, help_string in (
        ('size', 0, 'px, the square that the network sees; 0: as it was evaluated.'),
        ('batch_size', 1, 'Photographs that the network sees at once.'),
        (
            'samples',
            0,
            'Results of each photograph, from the noise of the network; 0: one without.',
        ),
        ('threads', min(8, os.cpu_count() or 1), 'Threads that read and write photographs.'),
        ('max_megapixels', 200, 'Larger photographs are named and left out; 17 bytes a pixel.'),
    ):
        flags.DEFINE_integer(
            name, default, help_string, lower_bound=0 if default == 0 else 1, flag_values=values
        )
    return values


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    values = make_flags()
    if {'--help', '-help', '-h'} & set(argv):
        print(f'{__doc__}\n{values.get_help()}')
        return 0
    try:
        try:
            paths = values(argv)[1:]
        except flags.Error as error:
            raise UserError(flag_mistake(str(error))) from error
        return _run(values, paths)
    except UserError as error:
        print(f'chromagan_jax: {error}', file=sys.stderr)
        return 1


def _run(values: flags.FlagValues, paths: Sequence[str]) -> int:
    for name, value, example in (
        ('workdir', values.workdir, '--workdir=runs/base'),
        ('output', values.output, '--output=colorized'),
        ('photograph', paths, 'a file or a folder'),
    ):
        if not value:
            raise UserError(f'No {name} is named: add {example}.')
    output = Path(values.output)
    jobs = images.plan(paths, output, f'.{values.format}', values.samples)
    wanted = [job for job in jobs if values.overwrite or not job.target.exists()]
    images.check_writable(output)
    colorized = failed = 0
    if wanted:
        cv2.setNumThreads(1)  # photographs are what runs in parallel
        one = sharding.make_mesh(devices=jax.local_devices()[:1])
        run = checkpoint.load(Path(values.workdir), values.checkpoint, one)
        size = values.size or run.config.eval.size or run.config.data.size
        variables = state_lib.generator_variables(run.state)
        predict = make_predict(run.system, variables, size, values.batch_size, values.samples > 0)
        print(
            f'{values.workdir}, step {int(run.state.step)}, colorizes at {size} px into {output}: '
            f'{len(wanted)} to do',
            file=sys.stderr,
        )
        colorized, failed = colorize_files(
            wanted,
            predict,
            size,
            values.batch_size,
            values.threads,
            values.max_megapixels * 1_000_000,
        )
    skipped = len(jobs) - len(wanted)
    hint = ' (there already; --overwrite replaces them)' if skipped else ''
    print(f'{colorized} colorized, {failed} failed, {skipped} skipped{hint}', file=sys.stderr)
    return 1 if failed else 0


if __name__ == '__main__':
    logging.set_verbosity(logging.ERROR)
    Image.MAX_IMAGE_PIXELS = None  # --max_megapixels is the bound
    sys.exit(main(sys.argv))
