"""Names of results: the same in every run, whatever files arrive beside the photographs."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path

from chromagan_jax.data.decode import formats
from chromagan_jax.errors import UserError
from chromagan_jax.inference.files import Listed
from chromagan_jax.inference.outcomes import Job

_MAX_NAME = 255  # bytes, of most file systems
_CANONICAL = {'JPEG': '.jpg', 'PNG': '.png', 'WebP': '.webp', 'TIFF': '.tif'}


def plan(
    found: Sequence[Listed],
    output: Path,
    format: str,
    samples: int = 0,
    source_of: Callable[[Path], str | None] = lambda path: None,
) -> list[Job]:
    """Which photograph becomes which file below `output`.

    Folders are mirrored. `a.jpg` becomes `a.png`. If another photograph has that name, it becomes
    `a.jpg.png`, then `a.jpg.2.png`, and so on. A result that exists stays with its photograph.

    Args:
        found: the photographs.
        output: folder of the results.
        format: suffix of the results without its dot, or `same` for the kind of each photograph.
        samples: results of each photograph, `a.1.png`, `a.2.png`, ...; 0: one, `a.png`.
        source_of: the file name of the photograph that a result was made of, None if it is unknown.

    Raises:
        UserError: if a result would replace a photograph.
    """
    sources = {os.path.realpath(listed.source) for listed in found}
    taken: set[str] = set()
    chosen: dict[int, Path] = {}

    def claim(index: int, target: Path) -> None:
        chosen[index] = target
        taken.add(_key(target))

    def first(target: Path) -> Path:
        return target.with_stem(_shortened(target, '.1')) if samples else target

    # Photographs with results choose first, so that a new neighbour cannot take their names.
    for index, listed in enumerate(found):
        for target in _candidates(listed, output, format):
            if not first(target).exists():
                break
            if _key(target) not in taken and source_of(first(target)) == listed.source.name:
                claim(index, target)
                break
    for index, listed in enumerate(found):
        if index not in chosen:
            for target in _candidates(listed, output, format):
                owner = source_of(first(target)) if first(target).exists() else None
                if _key(target) not in taken and owner in (None, listed.source.name):
                    claim(index, target)
                    break
    jobs = []
    for index, (source, _, page) in enumerate(found):
        if os.path.realpath(chosen[index]) in sources:
            raise UserError(f'{chosen[index]} is a photograph to be read: choose another --output.')
        for sample in range(1, samples + 1) if samples else (None,):
            target = chosen[index]
            if sample is not None:
                target = target.with_stem(_shortened(target, f'.{sample}'))
            jobs.append(Job(source, target, sample, page))
    return jobs


def _key(target: Path) -> str:
    """Equal for names that differ only in case, which many file systems do not distinguish."""
    return str(target).casefold()


def _candidates(listed: Listed, output: Path, format: str) -> Iterator[Path]:
    """Names of a result, the preferred one first."""
    place = listed.place
    suffix = _suffix(listed) if format == 'same' else f'.{format}'
    known = place.suffix.lower() in formats.OF_SUFFIX  # else it may be part of the name: scan.001
    stems = [place.stem, place.name] if known else [place.name]
    for stem in stems:
        yield output / place.with_name(_fitted(stem, suffix))
    for number in count(2):
        yield output / place.with_name(_fitted(place.name, f'.{number}{suffix}'))


def _suffix(listed: Listed) -> str:
    """The suffix of a photograph if its kind can be written; otherwise that of PNG."""
    try:
        with listed.source.open('rb') as file:
            kind = formats.identify(file.read(formats.HEAD))
    except OSError:  # reported when it is read
        kind = None
    if kind is None or kind.name not in _CANONICAL:
        return '.png'
    suffix = listed.place.suffix
    return suffix if suffix.lower() in kind.suffixes else _CANONICAL[kind.name]


def _shortened(target: Path, end: str) -> str:
    """The stem of a file with an end that leaves room for the suffix."""
    return _fitted(target.stem, end + target.suffix).removesuffix(target.suffix)


def _fitted(stem: str, end: str) -> str:
    """`stem + end`, with a hash in place of the last characters if it is too long for a name."""
    if len(os.fsencode(stem + end)) <= _MAX_NAME:
        return stem + end
    digest = hashlib.blake2b(os.fsencode(stem), digest_size=4).hexdigest()
    while len(os.fsencode(f'{stem}.{digest}{end}')) > _MAX_NAME:
        stem = stem[:-1]
    return f'{stem}.{digest}{end}'
