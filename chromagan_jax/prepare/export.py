"""Export of a prepared data set to folders of image files, for other tools."""

import io
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from chromagan_jax import color
from chromagan_jax.data.decode import decode
from chromagan_jax.errors import UserError
from chromagan_jax.prepare.outcomes import SPLITS
from chromagan_jax.utils import files

QUALITY = 95  # of the gray copies


def export(data_set: Path, folder: Path, threads: int) -> None:
    """Writes SPLIT_y/NAME.jpg, the stored JPEGs, and SPLIT_x/NAME.jpg, gray copies of equal L*.

    Args:
        data_set: folder written by `prepare`.
        folder: missing or empty; written under a temporary name and renamed at the end.
        threads: number of images copied at once.

    Raises:
        UserError: if `folder` is not empty, or cannot be written.
    """
    check_free(folder)
    hidden = folder.absolute().with_name(f'.{folder.name}.incomplete')
    shutil.rmtree(hidden, ignore_errors=True)  # left by a killed run
    for split, records in _splits(data_set).items():
        for suffix in 'xy':
            with files.writing(folder):
                (hidden / f'{split}_{suffix}').mkdir(parents=True)

        def copy(index: int, records: Any = records, split: str = split) -> None:
            record = records[index]
            name, image = f'{record["name"].decode()}.jpg', record['image']
            with files.writing(folder):
                (hidden / f'{split}_y' / name).write_bytes(image)
                (hidden / f'{split}_x' / name).write_bytes(gray_copy(image))

        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(copy, range(len(records))):
                pass
    with files.writing(folder):
        hidden.replace(folder)


def check_free(folder: Path) -> None:
    """Raises UserError unless `folder` is missing or empty."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f'{folder} is not empty: name another --export.')


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
