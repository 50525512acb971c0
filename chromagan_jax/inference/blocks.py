"""The blocks of metadata in files: EXIF, XMP, IPTC and resolution, as they are stored."""

import binascii
import io
import os
import struct
import zlib
from typing import Any, NamedTuple

from chromagan_jax.data.decode import MAX_PIXELS, formats, pillow

IPTC_BLOCK = 0x0404  # among Photoshop's image resources
_MAX_TEXT = 2**24  # bytes of a text in a PNG


class Blocks(NamedTuple):
    """The blocks of a file."""

    exif: bytes = b''
    xmp: bytes = b''
    iptc: bytes = b''
    dpi: tuple[float, float] | None = None


def of_image(data: bytes, name: str) -> Blocks:
    """The blocks of a file of a kind that Pillow or a plug-in opens."""
    image, _ = pillow.open_image(data, formats.BY_NAME[name], MAX_PIXELS)
    info = image.info
    blocks = [info.get(key) or b'' for key in ('exif', 'xmp')]
    exif, xmp = (block if isinstance(block, bytes) else b'' for block in blocks)
    photoshop = info.get('photoshop')
    iptc = photoshop.get(IPTC_BLOCK, b'') if isinstance(photoshop, dict) else b''
    dpi = _jfif_dpi(info) if name == 'JPEG' else info.get('dpi')
    if not isinstance(dpi, tuple) or len(dpi) != 2:
        return Blocks(exif, xmp, iptc)
    return Blocks(exif, xmp, iptc, (float(dpi[0]), float(dpi[1])))


def _jfif_dpi(info: dict[Any, Any]) -> tuple[float, float] | None:
    """The resolution in a JFIF header. Pillow invents 72 dpi where neither it nor EXIF has one."""
    scale = {1: 1.0, 2: 2.54}.get(info.get('jfif_unit', 0))
    across, down = info.get('jfif_density', (0, 0))
    return (across * scale, down * scale) if scale else None


def of_png(data: bytes) -> Blocks:
    """The blocks of a PNG: Pillow gives up where a text is long."""
    found = Blocks()
    start = 8
    while start + 8 <= len(data):
        length, name = struct.unpack_from('>L4s', data, start)
        content = data[start + 8 : start + 8 + length]
        start += 12 + length
        if name == b'eXIf':
            found = found._replace(exif=content)
        elif name == b'pHYs' and len(content) == 9 and content[8] == 1:  # pixels a metre
            across, down = (value * 0.0254 for value in struct.unpack('>LL', content[:8]))
            found = found._replace(dpi=(across, down))
        elif name in (b'tEXt', b'zTXt', b'iTXt'):
            found = _with_text(found, name, content)
    return found


def _with_text(found: Blocks, name: bytes, content: bytes) -> Blocks:
    """Adds a text chunk if it is one of ours: XMP, or a block as ImageMagick and exiv2 write it."""
    key, _, value = content.partition(b'\0')
    if key != b'XML:com.adobe.xmp' and not key.startswith(b'Raw profile type '):
        return found
    packed = name == b'zTXt'
    if name == b'iTXt':
        packed, value = value[:1] == b'\1', value[2:].split(b'\0', 2)[2]
    elif packed:
        value = value[1:]
    if packed:
        value = zlib.decompressobj().decompress(value, _MAX_TEXT)
    if key == b'XML:com.adobe.xmp':
        return found._replace(xmp=value)
    block = binascii.unhexlify(b''.join(value.split()[2:]))
    if key.endswith((b' exif', b' app1')) and block.startswith(b'Exif') and not found.exif:
        return found._replace(exif=block)
    return found._replace(iptc=iptc_of(block) or block) if key.endswith(b' iptc') else found


def iptc_of(resources: bytes) -> bytes:
    """The IPTC records among Photoshop's image resources."""
    file = io.BytesIO(resources.removeprefix(b'Photoshop 3.0\0'))
    while file.read(4) == b'8BIM':
        (number,) = struct.unpack('>H', file.read(2))
        length = file.read(1)[0]
        file.seek(length + (length + 1) % 2, os.SEEK_CUR)  # the name, padded with its length byte
        (length,) = struct.unpack('>L', file.read(4))
        content = file.read(length)
        if number == IPTC_BLOCK:
            return content
        file.seek(length % 2, os.SEEK_CUR)
    return b''
