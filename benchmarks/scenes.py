"""Recall and false cuts of the test for scene changes, against PySceneDetect's if it is installed.

    python -m benchmarks.scenes --photos=DIR

A film is two photographs with one cut. The camera stands still, pans slowly or fast, or there is a
flash in either half. All frames have grain. Prints a JSON line for each kind of film and detector.
"""

import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from absl import flags

from benchmarks import command
from chromagan_jax.data.decode import decode
from chromagan_jax.data.listing import Ignored, image_names
from chromagan_jax.inference import photos
from chromagan_jax.inference.video import scenes

_PHOTOS = flags.DEFINE_string('photos', None, 'Folder of photographs.', required=True)
_FILMS = flags.DEFINE_integer('films', 120, 'Films of each kind.')
_SIDE, _ROOM = 256, 300  # px, of frames and of photographs at least
_LENGTH = 12  # frames before and after the cut
_GRAIN = 6.0  # deviation, 8-bit steps
_SPEEDS = {'still': 0.0, 'pan': 2.0, 'fast pan': 12.0, 'flash': 2.0}  # px a frame

Detector = Callable[[Sequence[np.ndarray]], set[int]]


def main(_: list[str]) -> None:
    """Prints the figures."""
    names = sorted(image_names(_PHOTOS.value, Ignored()))
    order = np.random.default_rng(0).permutation(len(names))
    found = {'own': own} | dict(others())
    for kind in _SPEEDS:
        counts = {name: [0, 0] for name in found}
        for index in range(_FILMS.value):
            rng = np.random.default_rng(index)
            chosen = [names[order[(index + k) % len(names)]] for k in range(2)]
            frames = [frame for name in chosen for frame in shot(name, kind, rng)]
            for name, detect in found.items():
                cuts = detect(frames)
                counts[name][0] += _LENGTH in cuts
                counts[name][1] += len(cuts - {_LENGTH})
        for name, (right, wrong) in counts.items():
            line = {'films': kind, 'detector': name, 'recall': right / _FILMS.value}
            print(json.dumps(line | {'false_cuts': wrong}), flush=True)


def shot(name: str, kind: str, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """(side, side) uint8 lightness of a camera that moves over a photograph."""
    found = photos.to_gray(decode(Path(_PHOTOS.value, name).read_bytes())).astype(np.float32) / 257
    scale = 1.15 * max(_ROOM / side for side in found.shape)
    gray = cv2.resize(found, None, fx=scale, fy=scale)
    room = np.array(gray.shape) - _SIDE
    place, angle = rng.uniform(0, room), rng.uniform(0, 2 * np.pi)
    step = _SPEEDS[kind] * np.array([np.sin(angle), np.cos(angle)])
    for number in range(_LENGTH):
        step = np.where((place + step < 0) | (place + step > room), -step, step)
        place = np.clip(place + step, 0, room)
        top, left = place.astype(int)
        frame = gray[top : top + _SIDE, left : left + _SIDE]
        if kind == 'flash' and number == _LENGTH // 2:
            frame = 1.3 * frame + 60
        grain = rng.normal(0, _GRAIN, frame.shape)
        yield np.clip(frame + grain, 0, 255).astype(np.uint8)


def own(frames: Sequence[np.ndarray]) -> set[int]:
    """The first frames of scenes by the package's test."""
    return {i for i in range(1, len(frames)) if scenes.is_cut(frames[i], frames[i - 1])}


def others() -> Iterator[tuple[str, Detector]]:
    """PySceneDetect's detectors as they are by default, with scenes of any length."""
    if importlib.util.find_spec('scenedetect') is None:
        return
    import scenedetect

    def detector(name: str) -> Detector:
        def detect(frames: Sequence[np.ndarray]) -> set[int]:
            made = getattr(scenedetect, name)(min_scene_len=1)
            cuts = []
            for number, frame in enumerate(frames):
                at = scenedetect.FrameTimecode(number, 25.0)
                cuts += made.process_frame(at, cv2.merge([frame] * 3))
            return {cut.frame_num for cut in [*cuts, *made.post_process(at)]}

        return detect

    for name in ('ContentDetector', 'AdaptiveDetector', 'HistogramDetector'):
        yield name, detector(name)


if __name__ == '__main__':
    command.start(main)
