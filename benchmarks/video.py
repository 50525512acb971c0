"""Flicker and likeness of colorized films, against each frame by itself, and frames a second.

    python -m benchmarks.video --photos=DIR --clip=a.mp4 --clip=b.mp4

Films in colour are made gray, colorized, and compared with themselves. `--photos` makes films from
photographs by pans and zooms, so that the true flow is known, and adds grain to the gray ones.
`--clip` reads a film; its flow is found on its lightness. For each film and method a JSON line has

- warping_error: mean distance of a*, b* of a pixel and of the same point a frame before;
- cdc: Color Distribution Consistency (Liu et al. 2021, https://arxiv.org/abs/2110.04562), the mean
  Jensen-Shannon divergence of the RGB histograms of frames that are 1, 2 and 4 apart;
- psnr: dB, of all frames.

`--speed=1280x720` prints the frames a second of a film of that size, with reading and encoding, and
the peak memory of the process.
"""

import itertools
import json
import os
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
from absl import flags

from benchmarks import command
from chromagan_jax import color, sharding
from chromagan_jax.config.postprocess import OFF
from chromagan_jax.data.decode import decode
from chromagan_jax.data.listing import Ignored, image_names
from chromagan_jax.inference import layout, photos
from chromagan_jax.inference.layout import Predict
from chromagan_jax.inference.predictor import load, make_predict
from chromagan_jax.inference.video import frames as frames_lib
from chromagan_jax.inference.video import mux, read, run, smoothing
from chromagan_jax.inference.video.smoothing import Blend

_PHOTOS = flags.DEFINE_string('photos', None, 'Folder of photographs that become films.')
_FILMS = flags.DEFINE_integer('films', 12, 'Films from photographs.')
_CLIPS = flags.DEFINE_multi_string('clip', [], 'A film in colour.')
_FRAMES = flags.DEFINE_integer('frames', 48, 'Frames of each film, at most.')
_GRAIN = flags.DEFINE_float('grain', 6.0, 'Deviation of the grain, 8-bit steps.')
_SPEED = flags.DEFINE_string('speed', '', 'Also the frames a second at this size, as 1280x720.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'Run whose network colorizes (the released one).')
_OPTIONS = {
    'strength': flags.DEFINE_float('strength', Blend().strength, 'Of the blend.'),
    'lightness': flags.DEFINE_float('lightness', Blend().lightness, 'Of the blend.'),
    'slack': flags.DEFINE_float('slack', Blend().slack, 'Of the blend.'),
}
_SIZE = (320, 240)  # px, width and height of films from photographs
_BATCH = 8
_APART = (1, 2, 4)  # frames, of CDC


class Clip(NamedTuple):
    """A film in colour and the one that is colorized."""

    name: str
    frames: list[np.ndarray]  # (H, W, 3) uint8
    gray: list[np.ndarray]  # (H, W) uint16
    flows: list[tuple[np.ndarray, np.ndarray]]  # from each frame but the first, and where it holds


def main(_: list[str]) -> None:
    """Prints a line for each film and method, and the means."""
    sharding.disable_async_cpu_dispatch()
    trained = load(_WORKDIR.value)
    predict = make_predict(trained.generator, trained.variables, (trained.size,), _BATCH)
    blend = Blend(**{name: flag.value for name, flag in _OPTIONS.items()})
    figures: dict[str, list[dict[str, float]]] = {}
    for clip in clips():
        found = {'the film itself': clip.frames} | {
            name: colorized(clip, predict, trained.size, how)
            for name, how in (('frame by frame', None), ('carried', blend))
        }
        for method, frames in found.items():
            line = measure(clip, frames)
            figures.setdefault(method, []).append(line)
            print(json.dumps({'film': clip.name, 'method': method} | line), flush=True)
    for method, lines in figures.items():
        means = {key: float(np.mean([line[key] for line in lines])) for key in lines[0]}
        print(json.dumps({'film': f'mean of {len(lines)}', 'method': method} | means), flush=True)
    if _SPEED.value:
        width, height = map(int, _SPEED.value.split('x'))
        print(json.dumps(speed(predict, trained.size, width, height)), flush=True)


def clips() -> Iterator[Clip]:
    """The films that the flags name."""
    if _PHOTOS.value:
        names = sorted(image_names(_PHOTOS.value, Ignored()))
        for index in range(_FILMS.value):
            name = names[index * len(names) // _FILMS.value]
            pixels = decode(Path(_PHOTOS.value, name).read_bytes())
            yield from_photograph(name, pixels, np.random.default_rng(index))
    for path in _CLIPS.value:
        yield from_file(Path(path))


def from_photograph(name: str, pixels: np.ndarray, rng: np.random.Generator) -> Clip:
    """A pan with a zoom over a photograph, with grain that changes from frame to frame."""
    width, height = _SIZE
    tall, wide = pixels.shape[:2]
    fit = min(wide / width, tall / height)
    scales = fit * np.linspace(rng.uniform(0.6, 0.95), rng.uniform(0.6, 0.95), _FRAMES.value)
    ends = rng.uniform(0, 1, (2, 2))
    maps = []
    for scale, share in zip(scales, np.linspace(0, 1, _FRAMES.value), strict=True):
        room = np.array([wide - scale * width, tall - scale * height])
        corner = room * (ends[0] + share * (ends[1] - ends[0]))
        maps.append((scale, corner))
    frames, gray, flows = [], [], []
    grid = np.dstack(np.meshgrid(np.arange(width), np.arange(height))).astype(np.float32)
    for number, (scale, corner) in enumerate(maps):
        matrix = np.array([[scale, 0, corner[0]], [0, scale, corner[1]]])
        flags_ = cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR
        frame = cv2.warpAffine(pixels, matrix, _SIZE, flags=flags_ | cv2.WARP_INVERSE_MAP)
        frames.append(frame)
        noise = rng.standard_normal(frame.shape[:2]) * _GRAIN.value * 257
        gray.append(np.clip(photos.to_gray(frame) + noise, 0, 65535).astype(np.uint16))
        if number:
            scale_before, corner_before = maps[number - 1]
            before = (grid * scale + corner - corner_before) / scale_before
            inside = (before >= 0) & (before <= np.array(_SIZE) - 1)
            flows.append(((before - grid).astype(np.float32), inside.all(axis=2)))
    return Clip(name, frames, gray, flows)


def from_file(path: Path) -> Clip:
    """The first frames of a film; its flow is that of its lightness where it is certain."""
    film = read.probe(path)
    frames = []
    for frame in read.Frames(film):
        frames.append(frame.to_ndarray(format='rgb24'))
        if len(frames) == _FRAMES.value:
            break
    gray = [photos.to_gray(frame) for frame in frames]
    light = [np.rint(photos.lightness(one) * 2.55).astype(np.uint8) for one in gray]
    flows = []
    for before, now in itertools.pairwise(light):
        backward = smoothing.flow(now, before)
        certain = smoothing.trust(now, before, backward, smoothing.flow(before, now), Blend())
        flows.append((backward, certain > 0.5))
    return Clip(path.name, frames, gray, flows)


def colorized(clip: Clip, predict: Predict, size: int, blend: Blend | None) -> list[np.ndarray]:
    """The gray film in colour."""
    results: list[np.ndarray] = []
    carry = None
    for start in range(0, len(clip.gray), _BATCH):
        looks: list[frames_lib.Look] = []
        for pixels in clip.gray[start : start + _BATCH]:
            light = looks[-1].light if looks else (carry.light if carry else None)
            looks.append(frames_lib.look(pixels, light, size, OFF, layout.content_box(pixels)))
        colors = frames_lib.color(looks, carry, predict, _BATCH, blend=blend)
        carry = colors[-1]
        results += [frames_lib.recolor(*pair) for pair in zip(looks, colors, strict=True)]
    return results


def measure(clip: Clip, frames: Sequence[np.ndarray]) -> dict[str, float]:
    """The figures of a colorized film."""
    ab = [color.encode(frame, 'lab')[1] * color.AB_SCALE for frame in frames]
    errors = [
        np.linalg.norm(now - smoothing.warp(before, flow), axis=2)[certain].mean()
        for before, now, (flow, certain) in zip(ab[:-1], ab[1:], clip.flows, strict=True)
        if certain.any()
    ]
    pairs = zip(frames, clip.frames, strict=True)
    squares = [np.square(one.astype(np.float32) - other).mean() for one, other in pairs]
    return {
        'frames': len(frames),
        'warping_error': float(np.mean(errors)),
        'cdc': color_distribution_consistency(frames),
        'psnr': float(10 * np.log10(255**2 / max(np.mean(squares), 1e-9))),
    }


def color_distribution_consistency(frames: Sequence[np.ndarray]) -> float:
    """CDC of (H, W, 3) uint8 frames; less is steadier."""
    histograms = np.array(
        [
            [np.bincount(frame[..., channel].ravel(), minlength=256) for channel in range(3)]
            for frame in frames
        ]
    )
    shares = histograms / histograms[0, 0].sum()
    steps = [step for step in _APART if step < len(frames)]
    return float(np.mean([_divergence(shares[:-step], shares[step:]).mean() for step in steps]))


def _divergence(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence over the last axis, natural logarithm."""
    middle = (one + other) / 2

    def to_middle(share: np.ndarray) -> np.ndarray:
        ratio = np.divide(share, middle, out=np.ones_like(share), where=share > 0)
        return (share * np.log(ratio)).sum(axis=-1)

    return (to_middle(one) + to_middle(other)) / 2


def speed(predict: Predict, size: int, width: int, height: int) -> dict[str, Any]:
    """Frames a second of a gray film that moves, from file to file, after compilation."""
    rng = np.random.default_rng(0)
    ground = cv2.resize(rng.integers(0, 255, (45, 80), np.uint8), (2 * width, 2 * height))
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, 'film.mp4')
        with av.open(str(path), 'w') as container:
            stream = container.add_stream('libx264', rate=25, options={'preset': 'ultrafast'})
            stream.width, stream.height, stream.pix_fmt = width, height, 'yuv420p'
            for number in range(_FRAMES.value):
                window = ground[number : number + height, 2 * number : 2 * number + width]
                noisy = window.astype(np.int16) + rng.integers(-4, 5, window.shape, np.int16)
                frame = av.VideoFrame.from_ndarray(np.clip(noisy, 0, 255).astype(np.uint8), 'gray')
                frame.pts, frame.time_base = number, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        film = read.probe(path)
        suffix, copied, _ = mux.choose_suffix(film)
        one = np.zeros((size, size, 3), np.uint8)
        predict([one], [None], [one.astype(np.float32)])  # compiles for a last, smaller batch
        began = time.monotonic()
        run.colorize_film(
            film,
            Path(scratch, f'result{suffix}'),
            copied,
            predict,
            size,
            '',
            run.Options(_BATCH, os.cpu_count() or 1),
            lambda: False,
        )
        seconds = time.monotonic() - began
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rate = _FRAMES.value / seconds
    line = {'name': 'video', 'size': f'{width}x{height}', 'frames_per_second': rate}
    return line | {'peak_bytes': peak} | command.describe()


if __name__ == '__main__':
    os.environ.setdefault('JAX_PLATFORMS', 'cpu')
    command.start(main)
