"""The finished segments of a film, in a hidden folder beside its result.

A run continues after them. A segment is a file of video and a file with what the next one needs;
it counts once both exist.
"""

import hashlib
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from chromagan_jax.inference import output
from chromagan_jax.inference.video.smoothing import Colored

_FOLDER = '.chromagan_jax-film'  # end of the name of such a folder


class Done(NamedTuple):
    """What is finished of a film."""

    videos: tuple[Path, ...] = ()
    frames: int = 0
    carry: Colored | None = None  # of the last frame
    end: int = 0  # when the last frame ends, in units of the time base


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
            with np.load(self._state(number)) as state:
                carry = Colored(state['light'], state['ab'])
                frames, end = int(state['frames']), int(state['end'])
            done = Done((*done.videos, self.video(number)), frames, carry, end)
            number += 1
        for path in self.folder.iterdir():
            if path not in {p for v in done.videos for p in (v, v.with_suffix('.npz'))}:
                path.unlink()
        return done

    def video(self, number: int) -> Path:
        return self.folder / f'{number:08}.nut'

    def _state(self, number: int) -> Path:
        return self.folder / f'{number:08}.npz'

    def finish(self, done: Done, frames: int, carry: Colored, end: int) -> Done:
        """Records that the next video is finished, and returns what is finished then."""
        number = len(done.videos)
        state = io.BytesIO()
        np.savez(state, light=carry.light, ab=carry.ab, frames=frames, end=end)
        output.write(self._state(number), [state.getvalue()])
        return Done((*done.videos, self.video(number)), frames, carry, end)

    def remove(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
