"""What a report shows of a run, read from its workdir."""

import functools
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from chromagan_jax.config import Config, flatten, from_dict
from chromagan_jax.errors import UserError
from chromagan_jax.gan.workdir import read_run
from chromagan_jax.utils import paths, writers

DETAILS = 'images_eval.json'  # values of each image in the newest evaluation of a job
SAMPLES = 20  # most sample grids
_SAMPLE_WIDTH = 1600  # px, at most
_SAMPLE_BYTES = 150_000  # of a sample grid as JPEG


class Curve(NamedTuple):
    """A metric over the steps of a run."""

    steps: np.ndarray  # (N,) increasing
    values: np.ndarray  # (N,) finite


class RunRecord(NamedTuple):
    """A run as its report shows it."""

    name: str
    config: dict[str, Any]  # of config.json, by dotted name
    defaults: dict[str, Any]  # of the same fields
    data: dict[str, Any]
    versions: dict[str, str]
    training: dict[str, Curve]  # of metrics.jsonl
    job: dict[str, Curve]  # of metrics_eval.jsonl
    samples: dict[int, bytes]  # JPEG of a grid by step
    details: dict[str, Any]  # of images_eval.json; {} without an evaluation job


def read(workdir: Path) -> RunRecord:
    """Reads a run.

    Raises:
        UserError: if `workdir` is not that of a run, or one of its files is damaged.
    """
    described = read_run(workdir)
    try:
        details = json.loads(paths.read(workdir / DETAILS) or '{}')
    except ValueError as error:
        raise UserError(f'{workdir / DETAILS} is damaged: remove it.') from error
    return RunRecord(
        name=workdir.name,
        config=_flat(described['config']),
        defaults=_defaults(described['config']),
        data=described['data'],
        versions=described['versions'],
        training=curves(writers.read_metrics(workdir / 'metrics.jsonl')),
        job=curves(writers.read_metrics(workdir / 'metrics_eval.jsonl')),
        samples=_samples(workdir / 'samples'),
        details=details,
    )


def curves(lines: Iterable[Mapping[str, Any]]) -> dict[str, Curve]:
    """The values of each metric in lines of a metrics file, without null."""
    found: dict[str, dict[int, float]] = {}
    for line in lines:
        for name, value in line.items():
            if name != 'step' and value is not None:
                found.setdefault(name, {})[line['step']] = value
    return {
        name: Curve(np.array(steps), np.array([values[step] for step in steps], np.float64))
        for name, values in found.items()
        if (steps := sorted(values))
    }


def _samples(folder: Path) -> dict[int, bytes]:
    """The newest grid and evenly spaced earlier ones, at most `SAMPLES`."""
    grids = [path for path in folder.glob('step_*.png') if path.stem[5:].isdecimal()]
    found = {int(path.stem[5:]): path for path in grids}
    steps = sorted(found)
    # Twice the stride at a time, so that a growing run shows mostly the same grids.
    stride = 1
    while len(steps) > SAMPLES * stride:
        stride *= 2
    shown = sorted({*steps[::stride], *steps[-1:]})[-SAMPLES:]
    jpegs = {step: _sample_jpeg(found[step]) for step in shown}
    return {step: jpeg for step, jpeg in jpegs.items() if jpeg}


@functools.lru_cache(4 * SAMPLES)
def _sample_jpeg(path: Path) -> bytes | None:
    """A sample grid as JPEG of about `_SAMPLE_BYTES`; None if it cannot be read.

    It is kept in memory, so that a report of a training reads each grid once.
    """
    content = paths.read(path)
    try:
        grid = Image.open(io.BytesIO(content or b'')).convert('RGB')
    except OSError:
        return None
    grid.thumbnail((_SAMPLE_WIDTH, 4 * _SAMPLE_WIDTH))
    for quality in (85, 75, 65, 50, 35):
        jpeg = encode_jpeg(grid, quality)
        if len(jpeg) <= _SAMPLE_BYTES:
            break
    return jpeg


def encode_jpeg(image: Image.Image, quality: int) -> bytes:
    """Encodes an image as the bytes of a JPEG file."""
    buffer = io.BytesIO()
    image.save(buffer, 'JPEG', quality=quality)
    return buffer.getvalue()


def _flat(values: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """{'group.field': value} of nested dicts."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f'{prefix}{name}.')
        else:
            flat[prefix + name] = tuple(value) if isinstance(value, list) else value
    return flat


def _defaults(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults of all fields; of another network than the default one, those of its class.

    The options of a network that this process does not know have none.
    """
    defaults = flatten(Config())
    for kind in ('generator', 'discriminator'):
        name = defaults[f'{kind}.name']
        if saved[kind]['name'] == name:
            continue
        try:
            options = flatten(from_dict(Config, {kind: {'name': saved[kind]['name']}}))
        except UserError:  # registered by a config file
            options = {}
        defaults = {f: v for f, v in defaults.items() if not f.startswith(f'{kind}.')}
        defaults |= {f: v for f, v in options.items() if f.startswith(f'{kind}.')}
        defaults[f'{kind}.name'] = name
    return defaults
