"""A PNG without the texts and colour profiles that Pillow would refuse it for.

Pillow unpacks every text chunk when it opens or loads a PNG, and gives the whole file up when one is larger than a
megabyte, since a small file may unpack to gigabytes. Texts of that size are in real files: XMP packets, the workflows
of image generators. They say nothing about the pixels, so the decoder gets the file without them.

Reads the headers of all chunks, and unpacks no more than `MAX_UNPACKED` bytes of each text.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

MAX_UNPACKED = 2**20  # bytes of one text or profile: Pillow's own limit (PngImagePlugin.MAX_TEXT_CHUNK)
MAX_TEXTS = 16 * MAX_UNPACKED  # bytes of all texts that are kept; Pillow's limit is four times that
CHECKED = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Type, start and end of each chunk, as long as there are whole ones; the file stands at a chunk's data."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        start = file.tell() - 8
        yield kind, start, start + 12 + length
        file.seek(start + 12 + length)


def _unpacked_size(kind: bytes, data: bytes) -> int:
    """Bytes that a text or a profile has when it is unpacked; one more than the limit where it is more."""
    _, _, rest = data.partition(b"\0")
    if kind == b"iTXt":
        compressed = rest[:1] == b"\1"
        rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2] if compressed else rest
    else:
        compressed, rest = kind != b"tEXt", rest[1:]
    if not compressed:
        return len(data)
    try:
        return len(zlib.decompressobj().decompress(rest, MAX_UNPACKED + 1))
    except zlib.error:
        return MAX_UNPACKED + 1


def without_large_metadata(file: BinaryIO) -> BinaryIO:
    """A PNG without the texts and profiles that Pillow would refuse it for; the file itself if it has none."""
    dropped: list[tuple[int, int]] = []
    texts = 0
    for kind, start, end in _chunks(file):
        if kind in CHECKED:
            size = _unpacked_size(kind, file.read(end - start - 12))
            texts += size if kind != b"iCCP" else 0
            if size > MAX_UNPACKED or texts > MAX_TEXTS:
                dropped.append((start, end))
                texts -= size if kind != b"iCCP" else 0
    file.seek(0)
    if not dropped:
        return file
    kept = io.BytesIO()
    for start, end in dropped:
        kept.write(file.read(start - file.tell()))
        file.seek(end)
    kept.write(file.read())
    kept.seek(0)
    return kept
