"""The first directory of a TIFF file: its tags, how many values each has, and what libtiff takes to decode its image.

libtiff unpacks a strip or a tile at a time, which may be as large as the image, or larger.

Source: TIFF 6.0, and BigTIFF, whose counts and offsets have 8 bytes.
"""

import struct
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

MAX_ENTRIES = 4096  # of a directory are looked at; real ones have a few dozen
MAX_VALUES = 2**19  # of all tags; 390,625 tiles of 16 x 16 in the largest image
VALUE_BYTES, TILE_BYTES = 100, 700  # that Pillow takes for each, in Python
SHORT = 3  # type of a value of 2 bytes
BITS_PER_SAMPLE, COMPRESSION, SAMPLES_PER_PIXEL, ROWS_PER_STRIP, TILE_WIDTH, TILE_LENGTH = 258, 259, 277, 278, 322, 323
UNCOMPRESSED = 1
PIXEL_BYTES = {
    2: 1,
    3: 1,
    4: 1,
    5: 1,
    8: 1,
    32773: 1,
    32946: 1,
}  # beside the strip, by compression: fax, LZW, Deflate, ...
OTHER_PIXEL_BYTES = 16  # JPEG with its coefficients and its colours, WebP
RAW_BYTES = (1, 2, 7)  # types that are read as one string: BYTE, ASCII, UNDEFINED


class Entry(NamedTuple):
    """One tag; `number` is its value where that is a single one, else where its values are."""

    tag: int
    type: int
    values: int
    number: int


def directory(file: BinaryIO, start: int = 0) -> list[Entry]:
    """The entries of the first directory of the TIFF file at `start`; none if there is no header."""
    file.seek(start)
    head = file.read(16).ljust(16, b"\0")
    order = "<" if head.startswith(b"II") else ">"
    big = struct.unpack(f"{order}H", head[2:4])[0] == 43
    (offset,) = struct.unpack(f"{order}Q", head[8:16]) if big else struct.unpack(f"{order}I", head[4:8])
    if offset >= 2**63:
        return []
    file.seek(start + offset)
    count_bytes, form = (8, f"{order}HHQ8s") if big else (2, f"{order}HHI4s")
    count = int.from_bytes(file.read(count_bytes), "little" if order == "<" else "big")
    size = struct.calcsize(form)
    content = file.read(size * min(count, MAX_ENTRIES))
    entries = []
    for tag, kind, values, field in struct.iter_unpack(form, content[: len(content) // size * size]):
        short = struct.unpack(f"{order}H", field[:2])[0]
        number = short if kind == SHORT else struct.unpack(f"{order}{'Q' if big else 'I'}", field)[0]
        entries.append(Entry(tag, kind, values, number))
    return entries


def decoder_bytes(tags: Mapping[int, Any], width: int, height: int) -> int:
    """That libtiff takes at most, beside the image that it writes to; 0 of an image that is not compressed.

    Args:
        tags: the values of the first directory.
        width: of the image as it lies, as `height`.
    """
    compression = tags.get(COMPRESSION, UNCOMPRESSED)
    if compression == UNCOMPRESSED:
        return 0
    columns, rows = tags.get(TILE_WIDTH, width), tags.get(TILE_LENGTH, min(tags.get(ROWS_PER_STRIP, height), height))
    bits = tags.get(BITS_PER_SAMPLE, (1,))
    sample_bits = max(bits if isinstance(bits, tuple) else (bits,)) * tags.get(SAMPLES_PER_PIXEL, 1)
    return int(columns * rows * (-(-sample_bits // 8) + PIXEL_BYTES.get(compression, OTHER_PIXEL_BYTES)))
