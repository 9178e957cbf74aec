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

from headwise.formats import UnreadableImage

MAX_UNPACKED = 2**20  # bytes of one text or profile: Pillow's own limit (PngImagePlugin.MAX_TEXT_CHUNK)
MAX_TEXTS = 16 * MAX_UNPACKED  # bytes of all that are looked at, and may be kept; Pillow's limit is four times that
MAX_CHUNKS = 2**16  # half a gigabyte of pixels in libpng's chunks of 8 kB
CHUNK_BYTES = 150  # that Pillow takes for a chunk it does not know, in Python
COPIES, TEXT_COPIES = 3, 6  # of a chunk; of a text, as bytes and as characters of up to 4 bytes
LAST = b"IEND"  # type of the last chunk
CHECKED = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Type, start and end of each chunk, to the last and as long as there are whole ones.

    The file stands at a chunk's data. What stands behind the last is no part of the image: no decoder reads it.
    """
    file.seek(8)
    kind = b""
    while kind != LAST and len(head := file.read(8)) == 8:
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


def without_large_metadata(file: BinaryIO) -> tuple[BinaryIO, int]:
    """A PNG without the texts and profiles that Pillow would refuse it for; the file itself if it has none.

    Returns:
        The PNG, and the bytes that Pillow takes at most for what is not pixels, with the copy if one was made.

    Raises:
        UnreadableImage: the file has more chunks than any encoder writes.
    """
    dropped: list[tuple[int, int]] = []
    looked_at = taken = 0
    file_bytes = file.seek(0, io.SEEK_END)
    for number, (kind, start, end) in enumerate(_chunks(file)):
        if number == MAX_CHUNKS:
            raise UnreadableImage(f"a PNG image of more than {MAX_CHUNKS:,} chunks; save it again")
        taken += CHUNK_BYTES + (COPIES * (min(end, file_bytes) - start) if kind != b"IDAT" else 0)
        if kind in CHECKED:
            size = _unpacked_size(kind, file.read(end - start - 12)) if looked_at <= MAX_TEXTS else MAX_UNPACKED + 1
            looked_at += size
            if size > MAX_UNPACKED:
                dropped.append((start, end))
            else:
                taken += TEXT_COPIES * size
    file.seek(0)
    if not dropped:
        return file, taken
    kept = io.BytesIO()
    for start, end in dropped:
        kept.write(file.read(start - file.tell()))
        file.seek(end)
    kept.write(file.read())
    taken += COPIES * kept.tell()
    kept.seek(0)
    return kept, taken
