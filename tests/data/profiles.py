"""ICC profiles made by hand."""

import struct


def gray_profile(gamma: float) -> bytes:
    """Of gray with a power curve (ICC.1:2001, version 2, D50)."""
    text = b'gray test profile'
    description = b'desc\0\0\0\0' + struct.pack('>I', len(text) + 1) + text + b'\0' + bytes(78)
    blocks = {
        b'desc': description + bytes(-len(description) % 4),
        b'cprt': b'text\0\0\0\0none' + bytes(4),
        b'wtpt': b'XYZ \0\0\0\0' + struct.pack('>III', 0xF6D6, 0x10000, 0xD32D),
        b'kTRC': b'curv\0\0\0\0' + struct.pack('>IH', 1, round(gamma * 256)) + bytes(2),
    }
    place, table, content = 128 + 4 + 12 * len(blocks), b'', b''
    for name, block in blocks.items():
        table += name + struct.pack('>II', place + len(content), len(block))
        content += block
    body = struct.pack('>I', len(blocks)) + table + content
    kinds = b'mntr', b'GRAY', b'XYZ '
    header = struct.pack('>I4sI4s4s4s', 128 + len(body), bytes(4), 0x02100000, *kinds)
    header += struct.pack('>6H', 2000, 1, 1, 0, 0, 0) + b'acsp' + bytes(28)
    header += struct.pack('>III', 0xF6D6, 0x10000, 0xD32D) + bytes(48)
    return header + body
