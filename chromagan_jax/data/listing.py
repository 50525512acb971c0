"""The search for image files below a folder, for training, prepare and colorize.

Files are chosen by their suffix, those without one by their content. Hidden files and the folders
that systems keep beside photographs are left out silently; every other file that is not chosen is
counted, and `Ignored.sentence` tells it.
"""

import os
import pathlib
from collections import Counter
from collections.abc import Callable, Container, Iterator

from chromagan_jax.data.decode import formats

# Folders of thumbnails, deleted files and resource forks: Synology, QNAP, macOS, Windows, Linux.
_SYSTEM_FOLDERS = frozenset(
    {
        *('@eadir', '@recycle', '@recently-snapshot', '#recycle', '#snapshot', '__macosx'),
        *('$recycle.bin', 'system volume information', 'lost+found'),
    }
)
_SYSTEM_FILES = frozenset({'thumbs.db', 'ehthumbs.db', 'desktop.ini', 'icon\r'})


class Ignored:
    """What a search left out."""

    def __init__(self) -> None:
        self.suffixes: Counter[str] = Counter()  # of the files; '' without one
        self.closed: list[tuple[str, str]] = []  # folders that cannot be listed, and why

    def sentence(self) -> str:
        """The files that are of kinds that are not read; '' if there are none."""
        number = self.suffixes.total()
        if not number:
            return ''
        one = number == 1
        kinds = ', '.join(
            f'{suffix or "without a suffix"} {count}{_hint(suffix)}'
            for suffix, count in self.suffixes.most_common()
        )
        what = '1 file is of a kind that is' if one else f'{number} files are of kinds that are'
        return f'{what} not read ({kinds})'


def _hint(suffix: str) -> str:
    kind = formats.OF_SUFFIX.get(suffix)
    return f': {formats.install_hint(kind)}' if kind else ''


def image_names(root: str, ignored: Ignored) -> Iterator[str]:
    """Yields relative paths of the images below `root`, in no order.

    Links are followed, since data sets often consist of links, but not to a folder that they are
    in.

    Args:
        root: the folder.
        ignored: gets what is left out.
    """
    known = formats.suffixes()
    waiting: list[tuple[str, str, tuple[str, ...]]] = [(root, '', (os.path.realpath(root),))]
    while waiting:
        folder, prefix, above = waiting.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            ignored.closed.append((folder, error.strerror or str(error)))
            continue
        for entry in entries:
            name = prefix + entry.name
            if entry.name.startswith('.'):
                continue
            if _is_folder(entry):
                real = os.path.realpath(entry.path)
                if entry.name.lower() not in _SYSTEM_FOLDERS and not _holds(real, above):
                    waiting.append((entry.path, f'{name}/', (*above, real)))
            elif _is_special(entry):
                ignored.suffixes['pipe or device'] += 1
            elif entry.name.lower() not in _SYSTEM_FILES and is_chosen(
                entry.path, known, _head, ignored
            ):
                yield name


def is_hidden(name: str) -> bool:
    """Whether a relative path is hidden, or below a folder that a system keeps."""
    *folders, file = name.lower().split('/')
    return (
        any(part.startswith('.') for part in (*folders, file))
        or not _SYSTEM_FOLDERS.isdisjoint(folders)
        or file in _SYSTEM_FILES
    )


def is_chosen(
    path: str, known: Container[str], head: Callable[[str], bytes], ignored: Ignored
) -> bool:
    """Whether a file is an image, by its suffix, or by its first bytes if it has none.

    Args:
        path: of the file.
        known: suffixes of images.
        head: returns the first bytes of a file.
        ignored: counts the file if it is not an image.
    """
    suffix = _suffix(path)
    if suffix in known or (not suffix and _is_image(head(path))):
        return True
    ignored.suffixes[suffix] += 1
    return False


def _holds(folder: str, others: tuple[str, ...]) -> bool:
    """Whether one of the other folders is this one, or below it."""
    return any(os.path.commonpath([folder, other]) == folder for other in others)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_special(entry: os.DirEntry[str]) -> bool:
    """Whether reading could wait forever: a pipe, a socket or a device."""
    try:
        if entry.is_file():
            return False
        entry.stat()
    except OSError:  # a link to nothing, which is named when it is read
        return False
    return True


def _suffix(name: str) -> str:
    """In small letters; '' for none, and for a number, as in `scan.001`."""
    suffix = pathlib.PurePath(name).suffix.lower()
    return '' if suffix[1:].isdecimal() else suffix


def _head(path: str) -> bytes:
    try:
        with open(path, 'rb') as file:
            return file.read(formats.HEAD)
    except OSError:
        return b''


def _is_image(head: bytes) -> bool:
    kind = formats.identify(head)
    return kind is not None and formats.is_available(kind)
