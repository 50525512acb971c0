"""Which photographs the arguments of colorize name, and what of them is left out."""

import errno
import os
import re
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from chromagan_jax.data.decode import count_pages, formats
from chromagan_jax.data.listing import Ignored, image_names
from chromagan_jax.errors import UserError

# The metadata of each result have it, by which a later search knows the result.
MARK = 'colours by chromagan_jax'
_SEARCHED = 2**16  # bytes at either end of a file: metadata are there
_PART = 2**20  # bytes of a file that are searched at a time


class Listed(NamedTuple):
    """A file to colorize."""

    source: Path
    place: Path  # below the output, with the suffix of the source
    page: int | None = None  # of a TIFF, from 0; None: the first


class Found(NamedTuple):
    """What the arguments name."""

    photographs: list[Listed]
    notes: list[str]  # sentences about files that are left out
    failures: list[str]  # sentences about what cannot be read


def find(paths: Sequence[str], output: Path, all_pages: bool = False) -> Found:
    """Searches the folders among `paths`.

    A folder's photographs keep their places relative to it. Those below `output`, and results of
    earlier runs anywhere, are not read again unless they are named themselves.

    Args:
        paths: files and folders.
        output: the folder of the results.
        all_pages: whether each page of a TIFF is a photograph; otherwise the first one is.

    Raises:
        UserError: if `output` is one of the folders, or holds one.
    """
    found = Found([], [], [])
    for path in map(Path, paths):
        if os.path.isdir(path):  # Path.is_dir raises errors of a name that is too long
            if _real(path).is_relative_to(_real(output)):
                raise UserError(
                    f'{path} is read, and --output={output} is the same folder or holds it: '
                    'choose another --output.'
                )
            _search(path, output, found)
        elif sentence := _missing(path):
            found.failures.append(f'{shown(path)} failed: {sentence}')
        else:
            found.photographs.append(Listed(path, Path(path.name)))
    unique = list(dict.fromkeys(found.photographs))
    found.photographs[:] = [p for one in unique for p in (_pages(one) if all_pages else [one])]
    return found


def _missing(path: Path) -> str:
    """Why a path cannot be that of a photograph; '' if it may be."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 'there is no such file: correct the path'
    except OSError as error:
        return f'{error.strerror}'
    if not stat.S_ISREG(mode):  # reading could wait forever
        return 'it is a pipe or device, and a file is needed: save what it gives to a file'
    return ''


def _real(path: Path) -> Path:
    """The path without links. `Path.resolve` raises an error of a link to itself."""
    return Path(os.path.realpath(path))


def read_list(name: str) -> list[str]:
    """The paths in a file, one a line, with any line ends; or NUL between them.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        content = sys.stdin.buffer.read() if name == '-' else Path(name).read_bytes()
    except OSError as error:
        raise UserError(f'--list={name} cannot be read ({error.strerror}).') from error
    if content[:2] in (b'\xff\xfe', b'\xfe\xff'):  # of Windows
        content = content.decode('utf-16', 'replace').encode()
    content = content.removeprefix(b'\xef\xbb\xbf')
    if b'\0' in content:
        lines = content.split(b'\0')
    else:
        lines = content.replace(b'\r', b'\n').split(b'\n')
    return [os.fsdecode(line) for line in lines if line.strip()]


def _search(folder: Path, output: Path, found: Found) -> None:
    """Adds what is below a folder."""
    ignored, results, number = Ignored(), 0, 0
    hidden = _real(output)
    for name in sorted(image_names(str(folder), ignored)):
        source = folder / name
        number += 1
        if _real(source).is_relative_to(hidden):
            continue
        if _is_result(source):
            results += 1
        else:
            found.photographs.append(Listed(source, Path(name)))
    if results:
        what = '1 result is' if results == 1 else f'{results} results are'
        found.notes.append(f'{folder}: {what} not read again (of an earlier run)')
    if sentence := ignored.sentence():
        found.notes.append(f'{folder}: {sentence}')
    found.failures.extend(f'{closed} failed: {reason}' for closed, reason in ignored.closed)
    if not number and not ignored.closed:
        found.failures.append(f'{folder} failed: it holds no photographs')


def _is_result(path: Path) -> bool:
    """Whether a file is a result of colorize, by the note in its metadata."""
    try:
        return MARK.encode() in ends(path)
    except OSError:  # reported when it is read
        return False


def is_marked(path: Path) -> bool:
    """Whether a file has the note of results anywhere; raises OSError if it cannot be read.

    XMP or attachments of a size push it away from the ends.
    """
    mark = MARK.encode()
    if mark in ends(path):
        return True
    last = b''
    with path.open('rb') as file:
        while part := file.read(_PART):
            if mark in last + part:
                return True
            last = part[-len(mark) :]
    return False


def shown(path: Path) -> str:
    """A path in one line: control characters are escaped."""
    return re.sub(r'[\x00-\x1f\x7f]', lambda match: repr(match[0])[1:-1], str(path))


def ends(path: Path) -> bytes:
    """The first and the last bytes of a file, where metadata are; raises OSError if it is none."""
    if not path.is_file():  # a pipe would be waited for
        raise OSError(errno.EINVAL, 'it is no file')
    with path.open('rb') as file:
        head = file.read(_SEARCHED)
        file.seek(max(_SEARCHED, os.fstat(file.fileno()).st_size - _SEARCHED))
        return head + file.read()


def _pages(listed: Listed) -> list[Listed]:
    """One photograph for each page, named with its number from 1."""
    try:
        with listed.source.open('rb') as file:
            kind = formats.identify(file.read(formats.HEAD))
        number = count_pages(listed.source) if kind and kind.name == 'TIFF' else 1
    except OSError:  # reported when it is read
        number = 1
    if number == 1:
        return [listed]
    place = listed.place
    return [
        listed._replace(place=place.with_stem(f'{place.stem}.page{page + 1}'), page=page)
        for page in range(number)
    ]
