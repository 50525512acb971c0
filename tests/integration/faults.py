"""What the soak does to a run's files, and the small disk that they lie on."""

import contextlib
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from skimage import data

from tests.integration import saved

DISK = 48  # MB


def damage(kind: str, workdir: Path, rng: random.Random) -> bool:
    """Damages the newest checkpoint, if there is an older one to fall back to."""
    steps = saved.steps(workdir)
    if len(steps) < 2:
        return False
    newest = workdir / 'checkpoints' / str(steps[-1])
    found = [path for path in newest.rglob('d/*') if path.is_file() and path.stat().st_size]
    victim = rng.choice(sorted(found, key=lambda path: (path.stat().st_size, path.name))[-3:])
    if kind == 'missing file':
        victim.unlink()
    elif kind == 'truncated file':
        os.truncate(victim, rng.randrange(victim.stat().st_size))
    else:
        content = bytearray(victim.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        victim.write_bytes(content)
    return True


def relist(photographs: Path, rng: random.Random) -> None:
    """The same files made anew in another order, with other times."""
    old = photographs.with_name('old')
    photographs.rename(old)
    photographs.mkdir()
    for path in rng.sample(sorted(old.iterdir()), len(list(old.iterdir()))):
        copy = shutil.copyfile(path, photographs / path.name)
        moment = rng.uniform(0, 2 * time.time())
        os.utime(copy, (moment, moment))
    shutil.rmtree(old)


def fill(path: Path) -> None:
    """Takes all the room that is left on the disk."""
    with contextlib.suppress(OSError), path.open('wb') as file:
        while True:
            file.write(bytes(2**16))
            file.flush()


def write_photographs(folder: Path) -> None:
    folder.mkdir()
    for name in ('astronaut', 'chelsea', 'coffee'):
        picture = getattr(data, name)()
        for i in range(8):
            Image.fromarray(picture[20 * i : 20 * i + 96, :128]).save(folder / f'{name}{i}.png')


@contextlib.contextmanager
def small_disk() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix='chromagan_jax_soak.'))
    subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={DISK}m', 'soak', folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(['umount', '-l', folder], check=True)
        folder.rmdir()
