"""EXIF blocks and the tags of TIFF files, copied value by value without a loss.

Pillow is not used for it because it replaces all letters outside ASCII by question marks. Format:
https://www.cipa.jp/std/documents/download_e.html?DC-008-Translation-2023-E, TIFF 6.0 section 2.
"""

import io
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import BinaryIO, Literal, NamedTuple

ASCII, SHORT, LONG, RATIONAL, UNDEFINED = 2, 3, 4, 5, 7  # types of values
ORIENTATION, SOFTWARE, IPTC, XMP, PHOTOSHOP = 0x0112, 0x0131, 0x83BB, 0x02BC, 0x8649
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 0x011A, 0x011B, 0x0128
EXIF, GPS = 0x8769, 0x8825  # pointers to directories
COLOR_SPACE, WIDTH, HEIGHT = 0xA001, 0xA002, 0xA003  # in the EXIF directory
_INTEROPERABILITY = 0xA005
# Of the first directory: what describes the photograph, not how its pixels are stored.
_DESCRIPTIVE = frozenset(
    {
        *(0x010D, 0x010E, 0x010F, 0x0110, 0x011D, 0x0129, 0x0131, 0x0132, 0x013B, 0x013C),
        *(0x4746, 0x4749, 0x8298, 0x882A, 0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F),
    }
)
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_MAX_BYTES = 2**24  # of one value
_MAX_PLACE = 2**40  # in a file: systems refuse to seek beyond their limits


class Tag(NamedTuple):
    """A value as it is stored."""

    type: int
    number: int  # of values
    data: bytes


Directory = dict[int, Tag]


class Exif(NamedTuple):
    """The directories of a block."""

    order: Literal['<', '>'] = '<'  # byte order of all values, as `struct` writes it
    main: Mapping[int, Tag] = MappingProxyType({})
    exif: Mapping[int, Tag] = MappingProxyType({})
    gps: Mapping[int, Tag] = MappingProxyType({})

    def tag(self, type: int, *values: int) -> Tag:
        """A tag of SHORT or LONG numbers, or of RATIONAL pairs."""
        letter = {SHORT: 'H', LONG: 'L', RATIONAL: 'L'}[type]
        data = struct.pack(f'{self.order}{len(values)}{letter}', *values)
        return Tag(type, len(data) // _SIZES[type], data)

    def numbers(self, tag: Tag) -> tuple[float, ...]:
        """The values of a tag of SHORT, LONG or RATIONAL type; () for others and for x / 0."""
        if tag.type == RATIONAL:
            parts = struct.unpack(f'{self.order}{2 * tag.number}L', tag.data)
            pairs = list(zip(parts[::2], parts[1::2], strict=True))
            return tuple(a / b for a, b in pairs) if all(b for _, b in pairs) else ()
        letter = {SHORT: 'H', LONG: 'L'}.get(tag.type)
        return struct.unpack(f'{self.order}{tag.number}{letter}', tag.data) if letter else ()


def parse(source: bytes | BinaryIO, *offsets: int) -> Exif:
    """Reads an EXIF block or a TIFF file. Thumbnails and other pages are left out.

    Args:
        source: the block, or the file, of which only the directories are read.
        *offsets: of the main directory. Of several, the later ones go before, and what is missing
            there comes from the earlier ones, but the orientation. None: it is the first one.

    Raises:
        ValueError: it is neither.
        struct.error: a directory ends early.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    head = _bytes_at(file, 0, 16)
    if head[:2] not in (b'II', b'MM'):
        raise ValueError('no EXIF')
    order: Literal['<', '>'] = '<' if head[:2] == b'II' else '>'
    big = struct.unpack_from(order + 'H', head, 2)[0] == 43  # BigTIFF
    first = struct.unpack_from(order + ('Q' if big else 'L'), head, 8 if big else 4)[0]
    main: Directory = {}
    for offset in offsets or (first,):
        main.pop(ORIENTATION, None)
        main |= _directory(file, offset, order, big)
    exif, gps = (_pointed(file, main.get(tag), order, big) for tag in (EXIF, GPS))
    exif.pop(_INTEROPERABILITY, None)
    return Exif(order, main, exif, gps)


def descriptive(main: Mapping[int, Tag]) -> Directory:
    """The tags of the first directory that describe the photograph."""
    return {tag: value for tag, value in main.items() if tag in _DESCRIPTIVE}


def _pointed(file: BinaryIO, pointer: Tag | None, order: str, big: bool) -> Directory:
    if pointer is None or len(pointer.data) not in (4, 8):
        return {}
    offset = int.from_bytes(pointer.data, 'little' if order == '<' else 'big')
    try:
        return _directory(file, offset, order, big)
    except struct.error:
        return {}


def _directory(file: BinaryIO, offset: int, order: str, big: bool) -> Directory:
    """The tags of a directory whose values lie inside the file."""
    head, entry, inline = ('Q', 'HHQ8s', 8) if big else ('H', 'HHL4s', 4)
    size, step = struct.calcsize(order + head), struct.calcsize(order + entry)
    (number,) = struct.unpack(order + head, _bytes_at(file, offset, size))
    number = min(number, 2**16)
    table = _bytes_at(file, offset + size, number * step)
    found: Directory = {}
    for index in range(number):
        tag, type_, count, value = struct.unpack_from(order + entry, table, index * step)
        length = _SIZES.get(type_, 0) * count
        if length > inline:
            start = struct.unpack(order + ('Q' if big else 'L'), value)[0]
            value = _bytes_at(file, start, length) if length <= _MAX_BYTES else b''
        if length and len(value) >= length:
            found[tag] = Tag(type_, count, value[:length])
    return found


def _bytes_at(file: BinaryIO, place: int, length: int) -> bytes:
    """The bytes there; fewer at the end of the file."""
    if place > _MAX_PLACE:
        return b''
    file.seek(place)
    return file.read(length)


def to_bytes(exif: Exif) -> bytes:
    """The block, beginning with its byte order."""
    main = dict(exif.main)
    pointers = {tag: part for tag, part in ((EXIF, exif.exif), (GPS, exif.gps)) if part}
    main |= dict.fromkeys(pointers, exif.tag(LONG, 0))
    offset, parts = 8 + len(directory_to_bytes(main, exif.order, 8)), b''
    for tag, part in pointers.items():
        main[tag] = exif.tag(LONG, offset + len(parts))
        parts += directory_to_bytes(part, exif.order, offset + len(parts))
    head = {'<': b'II', '>': b'MM'}[exif.order] + struct.pack(exif.order + 'HL', 42, 8)
    return head + directory_to_bytes(main, exif.order, 8) + parts


def directory_to_bytes(tags: Mapping[int, Tag], order: str, offset: int) -> bytes:
    """A directory that lies at `offset` of its block, with its values behind it."""
    values = b''
    entries = struct.pack(order + 'H', len(tags))
    offset += 2 + 12 * len(tags) + 4
    for tag, (type_, count, data) in sorted(tags.items()):
        value = data.ljust(4, b'\0')
        if len(data) > 4:
            value = struct.pack(order + 'L', offset + len(values))
            values += data + b'\0' * (len(data) % 2)
        entries += struct.pack(order + 'HHL4s', tag, type_, count, value)
    return entries + bytes(4) + values
