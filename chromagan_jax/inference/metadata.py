"""EXIF, IPTC, XMP and resolution of photographs, and the note in each result.

The note is in the Software field of EXIF. XMP has the IPTC's term for such images. Both say that
a machine made the colours: https://cv.iptc.org/newscodes/digitalsourcetype/
"""

import os
import re
import struct
import urllib.parse
from pathlib import Path
from typing import NamedTuple

import chromagan_jax
from chromagan_jax.data.decode import formats, process, tiff
from chromagan_jax.data.decode.frame import DAMAGE, open_file
from chromagan_jax.inference import exif as exif_lib
from chromagan_jax.inference.blocks import IPTC_BLOCK, Blocks, iptc_of, of_image, of_png
from chromagan_jax.inference.exif import Exif
from chromagan_jax.inference.files import MARK, ends

_SOURCE_TYPE = 'http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia'
_ORIGIN = re.compile(MARK.encode() + rb' \S+ \(machine-made\) from ([\w.%~-]+)(?:, (\d+) bytes)?')
_MAX_SEGMENT = 65533 - 35  # bytes of a JPEG segment without the longest of its heads
_ON_ITS_SIDE = (5, 6, 7, 8)
_DAMAGED = 'its metadata are damaged and are not kept'
# Camera raw that is built as a TIFF is: as TIFF itself, of Olympus, of Panasonic.
_AS_TIFF = (b'II*\0', b'MM\0*', b'IIRO', b'IIRS', b'MMOR', b'IIU\0')


class Metadata(NamedTuple):
    """What a result keeps of a photograph."""

    exif: Exif = Exif()
    xmp: bytes = b''
    iptc: bytes = b''  # records of IPTC-IIM
    dpi: tuple[float, float] | None = None  # across and down, of the upright image
    notes: tuple[str, ...] = ()


NONE = Metadata()


def read(source: bytes | Path, page: int = 0) -> Metadata:
    """The metadata of an image file; those that are damaged are left out with a note.

    Args:
        source: the whole file, or its path, which takes less memory.
        page: of a TIFF, from 0.

    Raises:
        OSError: the file cannot be read.
    """
    with open_file(source) as file:
        head = file.read(formats.HEAD)
    kind = formats.identify(head)
    if kind is None:
        return NONE
    if kind.reader == 'tiff':
        return _of_tiff(source, page)
    if kind.reader == 'raw':
        if head.startswith(_AS_TIFF):
            return _of_tiff(source)
        return Metadata(notes=('metadata of this kind of camera raw are not read',))
    data = source.read_bytes() if isinstance(source, Path) else source
    try:
        if kind.name == 'PNG':
            stored = of_png(data)
        else:
            stored = (
                process.call(of_image, len(data), data, kind.name)
                if kind.apart
                else of_image(data, kind.name)
            )
        return _of_blocks(stored)
    except DAMAGE:
        return Metadata(notes=(_DAMAGED,))


def _of_tiff(source: bytes | Path, page: int | None = None) -> Metadata:
    """Of a page, or of the first directory."""
    try:
        offsets = () if page is None else tiff.directories(source, page)
        with open_file(source) as file:
            found = exif_lib.parse(file, *offsets)
        values = {tag: value.data for tag, value in found.main.items()}
        iptc = values.get(exif_lib.IPTC, b'') or iptc_of(values.get(exif_lib.PHOTOSHOP, b''))
        return _upright(found, values.get(exif_lib.XMP, b'').rstrip(b'\0'), iptc, None)
    except OSError:  # the file cannot be read
        raise
    except DAMAGE:
        return Metadata(notes=(_DAMAGED,))


def _of_blocks(stored: Blocks) -> Metadata:
    block = re.sub(b'^(Exif\0\0)+', b'', stored.exif)
    notes: tuple[str, ...] = ()
    try:
        found = exif_lib.parse(block) if block else Exif()
    except (ValueError, struct.error):
        found, notes = Exif(), ('its EXIF is damaged and is not kept',)
    return _upright(found, stored.xmp, stored.iptc, stored.dpi)._replace(notes=notes)


def _upright(found: Exif, xmp: bytes, iptc: bytes, dpi: tuple[float, float] | None) -> Metadata:
    """Metadata of the upright image in sRGB without thumbnails."""
    main = found.main
    first = {tag: found.numbers(value)[:1] for tag, value in main.items() if tag in _NUMBERS}
    across, down = (first.get(tag, ()) for tag in (exif_lib.X_RESOLUTION, exif_lib.Y_RESOLUTION))
    if dpi is None and across and down:
        unit = first.get(exif_lib.RESOLUTION_UNIT) or (2,)
        scale = {2: 1.0, 3: 2.54}.get(int(unit[0]), 0.0)
        dpi = (across[0] * scale, down[0] * scale)
    if dpi is not None and not all(1 <= value < 1e5 for value in dpi):
        dpi = None  # an aspect, or a placeholder
    if dpi and first.get(exif_lib.ORIENTATION, (1,)) in [(side,) for side in _ON_ITS_SIDE]:
        dpi = dpi[::-1]
    kept = found._replace(main=exif_lib.descriptive(main))
    return Metadata(kept, _without_layout(xmp), iptc, dpi)


_NUMBERS = (
    exif_lib.X_RESOLUTION,
    exif_lib.Y_RESOLUTION,
    exif_lib.RESOLUTION_UNIT,
    exif_lib.ORIENTATION,
)


def resources(iptc: bytes) -> bytes:
    """IPTC records as Photoshop's image resources, the content of a JPEG's APP13 segment."""
    head = struct.pack('>4sHHL', b'8BIM', IPTC_BLOCK, 0, len(iptc))
    return b'Photoshop 3.0\0' + head + iptc + b'\0' * (len(iptc) % 2)


def _without_layout(xmp: bytes) -> bytes:
    """XMP of the upright image: orientation 1, no thumbnails."""
    xmp = re.sub(rb'(tiff:Orientation\s*=\s*["\'])\d', rb'\g<1>1', xmp)
    xmp = re.sub(rb'(<tiff:Orientation>\s*)\d', rb'\g<1>1', xmp)
    return re.sub(rb'<xmp:Thumbnails>.*?</xmp:Thumbnails>', b'', xmp, flags=re.DOTALL)


def losses(kept: Metadata, kind: str) -> list[str]:
    """Sentences about metadata that a result of a kind cannot hold."""
    notes = list(kept.notes)
    if kind == 'WebP' and kept.iptc:
        notes.append('WebP has no place for IPTC: it is not kept')
    if kind == 'JPEG':
        blocks = {'EXIF': exif_lib.to_bytes(kept.exif), 'XMP': kept.xmp, 'IPTC': kept.iptc}
        notes += [
            f'its {name} is larger than JPEG allows and is not kept'
            for name, block in blocks.items()
            if len(block) > _MAX_SEGMENT - 2000
        ]
    return notes


def for_jpeg(kept: Metadata) -> Metadata:
    """Without the blocks that `losses` reports for JPEG."""
    most = _MAX_SEGMENT - 2000  # room for the note
    return kept._replace(
        exif=kept.exif if len(exif_lib.to_bytes(kept.exif)) <= most else Exif(),
        xmp=kept.xmp if len(kept.xmp) <= most else b'',
        iptc=kept.iptc if len(kept.iptc) <= most else b'',
    )


def with_note(kept: Metadata, source: Path, width: int, height: int) -> Metadata:
    """Metadata of a result, with the note and what belongs to its pixels.

    Args:
        kept: of the photograph.
        source: of the photograph.
        width: of the result, px.
        height: of the result, px.
    """
    exif = kept.exif
    old = exif.main.get(exif_lib.SOFTWARE, exif_lib.Tag(exif_lib.ASCII, 0, b'')).data.strip(b'\0 ')
    old = old.split(MARK.encode())[0].rstrip(b'; ')
    software = (old + b'; ' if old else b'') + note(source).encode() + b'\0'
    main = dict(exif.main) | {
        exif_lib.SOFTWARE: exif_lib.Tag(exif_lib.ASCII, len(software), software),
        exif_lib.ORIENTATION: exif.tag(exif_lib.SHORT, 1),
    }
    if kept.dpi:
        for tag, value in zip(_NUMBERS[:2], kept.dpi, strict=True):
            main[tag] = exif.tag(exif_lib.RATIONAL, round(value * 1000), 1000)
        main[exif_lib.RESOLUTION_UNIT] = exif.tag(exif_lib.SHORT, 2)
    details = dict(exif.exif)
    if details:
        details |= {
            exif_lib.COLOR_SPACE: exif.tag(exif_lib.SHORT, 1),
            exif_lib.WIDTH: exif.tag(exif_lib.LONG, width),
            exif_lib.HEIGHT: exif.tag(exif_lib.LONG, height),
        }
    return kept._replace(exif=exif._replace(main=main, exif=details), xmp=_marked(kept.xmp))


def note(source: Path) -> str:
    """The note in a result: what made it, and name and size of its photograph or film."""
    name = urllib.parse.quote(os.fsencode(source.name), safe='')
    size = f', {source.stat().st_size} bytes' if source.exists() else ''
    return f'{MARK} {chromagan_jax.__version__} (machine-made) from {name}{size}'


def _marked(xmp: bytes) -> bytes:
    """XMP that says that a trained algorithm took part."""
    term = _SOURCE_TYPE.encode()
    if b'DigitalSourceType' in xmp:
        pattern = rb'(DigitalSourceType\s*(?:=\s*["\']|>\s*))[^<"\']*'
        return re.sub(pattern, lambda match: match[1] + term, xmp)
    described = (
        b'<rdf:Description rdf:about="" '
        b'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
        b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
        b'Iptc4xmpExt:DigitalSourceType="' + term + b'"/>'
    )
    end = xmp.rfind(b'</rdf:RDF>')
    if end >= 0:
        return xmp[:end] + described + xmp[end:]
    if xmp:  # of a form that only a parser could change
        return xmp
    return (
        b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        + described
        + b'</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    )


def source_of(result: Path) -> str | None:
    """The name of the photograph that a result was made of; None if its metadata do not say."""
    found = _origin(result)
    return os.fsdecode(urllib.parse.unquote_to_bytes(found[1])) if found else None


def is_of_another(result: Path, source: Path) -> bool:
    """Whether the note in a result gives another size than that of the photograph `source`."""
    found = _origin(result)
    given = found[2] if found else None
    return given is not None and int(given) != source.stat().st_size


def _origin(result: Path) -> re.Match[bytes] | None:
    try:
        return _ORIGIN.search(_joined(ends(result)))
    except OSError:
        return None


def _joined(data: bytes) -> bytes:
    """MPEG-TS without the heads of the packets (of 188 bytes) that divide a long note."""
    head = rb'G\0\x11[\x10-\x1f]'  # that of a packet that goes on with what is said of a service
    if data[:1] != b'G':  # of a camera or Blu-ray: a time is before each packet
        head = b'(?s:.{4})' + head
    return re.sub(head, b'', data)
