"""The kinds of files that are read: suffixes, content, reader and extra of each.

A file is read by its content, whatever its name. The suffixes only choose the files of a folder.
`docs/files.md` has the same table with what is read of each kind.
"""

import importlib.util
from collections.abc import Callable
from typing import NamedTuple


class Format(NamedTuple):
    """A kind of file."""

    name: str
    suffixes: tuple[str, ...]
    matches: Callable[[bytes], bool]  # of the first `HEAD` bytes of a file
    reader: str = 'pillow'  # pillow, tiff or raw
    # Whether the decoder runs in a process of its own: a fault in it must not end the command.
    apart: bool = True
    module: str = ''  # of a package in an extra
    extra: str = ''


HEAD = 64  # bytes
RAW = 'camera raw'

_RAW_SUFFIXES = (
    *('.dng', '.nef', '.nrw', '.cr2', '.cr3', '.crw', '.arw', '.srf', '.sr2', '.raf', '.rw2'),
    *('.orf', '.pef', '.3fr', '.fff', '.iiq', '.mrw', '.x3f', '.erf', '.kdc', '.dcr', '.mos'),
    *('.rwl', '.srw', '.mef', '.raw'),
)
_RAW_HEADS = (b'IIRO', b'IIRS', b'MMOR', b'IIU\0', b'FUJIFILMCCD-RAW', b'FOVb', b'\0MRM')


def _starts(*heads: bytes) -> Callable[[bytes], bool]:
    return lambda data: data.startswith(heads)


def _brands(data: bytes) -> set[bytes]:
    """Of an ISO base media file (HEIF, AVIF, CR3): the major and the compatible ones."""
    if data[4:8] != b'ftyp':
        return set()
    end = min(int.from_bytes(data[:4], 'big'), HEAD)
    return {data[8:12], *(data[i : i + 4] for i in range(16, end - 3, 4))}


def _is_raw(data: bytes) -> bool:
    return (
        data.startswith(_RAW_HEADS)
        or (data[:4] in (b'II*\0', b'MM\0*') and data[8:10] == b'CR')
        or data[6:14] == b'HEAPCCDR'
        or b'crx ' in _brands(data)
    )  # fmt: skip


def _is_pnm(data: bytes) -> bool:
    return data[:1] == b'P' and data[1:2] in b'123456f' and data[2:3] in b' \t\r\n'


FORMATS = (  # the first that matches reads the file
    Format('JPEG', ('.jpg', '.jpeg', '.jpe', '.jfif'), _starts(b'\xff\xd8\xff'), apart=False),
    Format('PNG', ('.png', '.apng'), _starts(b'\x89PNG\r\n\x1a\n'), apart=False),
    Format('WebP', ('.webp',), lambda d: d[:4] == b'RIFF' and d[8:12] == b'WEBP', apart=False),
    Format('GIF', ('.gif',), _starts(b'GIF87a', b'GIF89a'), apart=False),
    Format('BMP', ('.bmp',), _starts(b'BM'), apart=False),
    Format('PNM', ('.pnm', '.ppm', '.pgm', '.pbm'), _is_pnm, apart=False),
    Format(RAW, _RAW_SUFFIXES, _is_raw, 'raw', module='rawpy', extra='raw'),
    Format('TIFF', ('.tif', '.tiff'), _starts(b'II*\0', b'MM\0*', b'II+\0', b'MM\0+'), 'tiff'),
    Format(
        'JPEG 2000',
        ('.jp2', '.j2k', '.j2c', '.jpc', '.jpf', '.jpx'),
        _starts(b'\0\0\0\x0cjP  \r\n\x87\n', b'\xff\x4f\xff\x51'),
    ),
    Format('AVIF', ('.avif', '.avifs'), lambda data: bool(_brands(data) & {b'avif', b'avis'})),
    Format(
        'HEIF',
        ('.heic', '.heif', '.hif', '.heics', '.heifs'),
        lambda data: bool(
            _brands(data)
            & {b'heic', b'heix', b'heim', b'heis', b'hevc', b'hevx', b'mif1', b'msf1', b'mif2'}
        ),
        module='pillow_heif',
        extra='heif',
    ),
    Format(
        'JPEG XL',
        ('.jxl',),
        _starts(b'\xff\x0a', b'\0\0\0\x0cJXL \r\n\x87\n'),
        module='pillow_jxl',
        extra='jxl',
    ),
)
OF_SUFFIX = {suffix: kind for kind in FORMATS for suffix in kind.suffixes}
BY_NAME = {kind.name: kind for kind in FORMATS}


def identify(data: bytes) -> Format | None:
    """The kind of a file by its first bytes; None if it is none of `FORMATS`."""
    head = bytes(data[:HEAD])
    return next((kind for kind in FORMATS if kind.matches(head)), None)


def is_available(kind: Format) -> bool:
    """Whether the package that a kind needs is installed."""
    return not kind.module or importlib.util.find_spec(kind.module) is not None


def suffixes() -> tuple[str, ...]:
    """The suffixes of the files that are read with the packages that are installed."""
    return tuple(s for kind in FORMATS if is_available(kind) for s in kind.suffixes)


def install_hint(kind: Format) -> str:
    """The command that installs what a kind needs."""
    return f"pip install 'chromagan_jax[{kind.extra}]'"
