"""Export of a prepared data set to folders of image files, for other tools."""

import functools
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from chromagan_jax import color
from chromagan_jax.data.decode import decode
from chromagan_jax.errors import PreemptedError, UserError
from chromagan_jax.prepare import hidden
from chromagan_jax.prepare.outcomes import SPLITS
from chromagan_jax.utils import files

QUALITY = 95  # of the gray copies
MARK = 'export.json'  # in an export: a copy of the `hidden.MARK` of its data set


def export(data_set: Path, folder: Path, threads: int, stopping: Callable[[], bool]) -> None:
    """Writes SPLIT_y/NAME.jpg, the stored JPEGs, and SPLIT_x/NAME.jpg, gray copies of equal L*.

    Files that an earlier call has written are kept, so an interrupted export goes on.

    Args:
        data_set: folder written by `prepare`.
        folder: missing, empty, or an export of this data set.
        threads: number of images copied at once.
        stopping: returns whether to stop early.

    Raises:
        UserError: if `folder` contains anything else, or cannot be written.
        PreemptedError: if `stopping` returns true.
    """
    check_free(data_set, folder)
    folder = hidden.locate(folder)
    files.write_atomically(folder / MARK, (data_set / hidden.MARK).read_bytes())
    for split, records in _splits(data_set).items():
        for suffix in 'xy':
            with files.writing(folder):
                (folder / f'{split}_{suffix}').mkdir(exist_ok=True)

        def copy(index: int, records: Any = records, split: str = split) -> None:
            if stopping():
                raise PreemptedError(
                    'Interrupted: the export is incomplete; run the command again to go on.'
                )
            record = records[index]
            name, image = f'{record["name"].decode()}.jpg', record['image']
            with files.writing(folder):
                _add(folder / f'{split}_y' / name, lambda: image)
                _add(folder / f'{split}_x' / name, functools.partial(gray_copy, image))

        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(copy, range(len(records))):
                pass


def check_free(data_set: Path, folder: Path) -> None:
    """Raises UserError unless `folder` is missing, empty, or an export of the data set."""
    if hidden.is_free(folder):
        return
    mark, wanted = folder / MARK, data_set / hidden.MARK
    if not (mark.is_file() and wanted.is_file() and mark.read_bytes() == wanted.read_bytes()):
        raise UserError(
            f'{folder} is not empty, and no export of {data_set}: name another --export.'
        )


def _add(path: Path, make: Callable[[], bytes]) -> None:
    """Writes a file that is missing, or empty, as a power failure leaves one."""
    if path.exists() and path.stat().st_size:
        return
    temporary = path.with_name(f'.{path.name}.tmp')
    temporary.write_bytes(make())
    temporary.replace(path)


def gray_copy(image: bytes) -> bytes:
    """Encodes a gray JPEG with the L* of the JPEG `image`."""
    gray = color.encode(decode(image), 'rgb')[0][..., 0]
    buffer = io.BytesIO()
    Image.fromarray(np.rint(gray * 255).astype(np.uint8)).save(buffer, 'JPEG', quality=QUALITY)
    return buffer.getvalue()


def _splits(data_set: Path) -> dict[str, Any]:
    import tensorflow_datasets as tfds

    (version,) = data_set.glob('*/dataset_info.json')
    builder = tfds.builder_from_directory(version.parent)
    decoders = {'image': tfds.decode.SkipDecoding()}
    return {
        split: builder.as_data_source(split=split, decoders=decoders)
        for split in SPLITS
        if split in builder.info.splits
    }
