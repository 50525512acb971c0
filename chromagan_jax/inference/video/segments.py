"""The finished segments of a film, in a hidden folder beside its result.

A run continues after them. A segment is a file of video and a file with what the next one needs;
it counts once both exist.
"""

import hashlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np

from chromagan_jax.inference import output
from chromagan_jax.inference.video.smoothing import Colored

_FOLDER = '.chromagan_jax-film'  # end of the name of such a folder
_DAMAGE = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile)  # of NumPy's files


class Done(NamedTuple):
    """What is finished of a film."""

    videos: tuple[Path, ...] = ()
    frames: int = 0
    carry: Colored | None = None  # of the last frame


class Work:
    """The folder of a film."""

    def __init__(self, target: Path, settings: Any):
        """Opens the folder, and removes those of the same film with other settings.

        Args:
            target: the result.
            settings: JSON of all that decides how the result looks.
        """
        name = hashlib.blake2b(os.fsencode(target.name), digest_size=8).hexdigest()
        content = json.dumps(settings, sort_keys=True).encode()
        digest = hashlib.blake2b(content, digest_size=8).hexdigest()
        self.folder = target.parent / f'.{name}-{digest}{_FOLDER}'
        for other in target.parent.glob(f'.{name}-*{_FOLDER}'):
            if other != self.folder:
                shutil.rmtree(other, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)

    def done(self) -> Done:
        """Reads what is finished; removes what is not."""
        done, number = Done(), 0
        while self._state(number).exists():
            try:
                with np.load(self._state(number)) as state:
                    carry = Colored(state['light'], state['ab'])
                    frames = done.frames + len(state['durations'])
            except _DAMAGE:  # of a power cut
                break
            done = Done((*done.videos, self.video(number)), frames, carry)
            number += 1
        for path in self.folder.iterdir():
            if path not in {p for v in done.videos for p in (v, v.with_suffix('.npz'))}:
                path.unlink()
        return done

    def video(self, number: int) -> Path:
        return self.folder / f'{number:08}.nut'

    def _state(self, number: int) -> Path:
        return self.folder / f'{number:08}.npz'

    def finish(self, done: Done, carry: Colored, durations: Sequence[int]) -> Done:
        """Records that the next video is finished, and returns what is finished then.

        Args:
            done: what was finished before.
            carry: of the last frame.
            durations: of each frame, in units of the film's time base.
        """
        number = len(done.videos)
        with self.video(number).open('rb') as video:  # a state must not outlive its video
            os.fsync(video.fileno())
        state = io.BytesIO()
        np.savez(state, light=carry.light, ab=carry.ab, durations=durations)
        output.write(self._state(number), [state.getvalue()])
        return Done((*done.videos, self.video(number)), done.frames + len(durations), carry)

    def remove(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def packets(videos: Sequence[Path], time_base: Fraction) -> Iterator[av.Packet]:
    """The packets of all segments, with their times in units of the film's time base."""
    for path in videos:
        with np.load(path.with_suffix('.npz')) as state:
            durations = iter(state['durations'].tolist())
        with av.open(f'file:{path}') as segment:
            for packet in segment.demux(video=0):
                if packet.size:
                    packet.pts = packet.dts = round(packet.pts * packet.time_base / time_base)
                    packet.duration, packet.time_base = next(durations), time_base
                    yield packet
