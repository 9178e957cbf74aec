"""What a JPEG file says before its first pixel: size, scans, and what libjpeg has to keep in memory to decode it.

libjpeg decodes a sequential file whose components are all in its first scan row by row. Of any other file (progressive,
or a scan for each component) it keeps every coefficient, 2 bytes each, until it has read the last scan; and it goes
over the whole image for each scan, however few bytes that has. So the scans are counted here, as the authors of
libjpeg-turbo advise: nothing in the format limits them. Encoders write about 10 of a progressive image.

Markers are found as libjpeg finds them: bytes between segments are skipped, and so are markers without a length.
"""

import io
import mmap
import re
import struct
from dataclasses import dataclass
from typing import BinaryIO

from headwise.formats import UnreadableImage

MAX_SCANS = 100  # ten times what encoders write
MAX_SEGMENTS = 2000  # 64 kB each hold 125 MB of metadata
MAX_EXIF_SEGMENTS = 32  # of 64 kB; Pillow copies all that came before with each
MAX_FILL_BYTES = 2**16  # between segments, which Pillow reads one by one
BLOCK, COEFFICIENT_BYTES = 8, 2

MARKER = re.compile(rb"\xff+([\xc0-\xcf\xd8-\xfe])", re.DOTALL)  # that ends coded data, and starts or ends a segment
START, END, SCAN, APP1 = 0xD8, 0xD9, 0xDA, 0xE1
START_OF_SCAN = bytes([0xFF, SCAN])
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
SEQUENTIAL = {0xC0, 0xC1}


@dataclass(frozen=True)
class Header:
    """Of a JPEG file; all zero where there is none that makes sense."""

    width: int = 0
    height: int = 0
    coefficient_bytes: int = 0  # that libjpeg keeps until the end; 0 of an image that it decodes row by row
    metadata_bytes: int = 0  # of all segments before the image


def _bytes(file: BinaryIO) -> bytes | mmap.mmap:
    """The content without a copy of it, where there is none yet."""
    if isinstance(file, io.BytesIO):
        return file.getvalue()
    try:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):
        file.seek(0)
        return file.read()


def _coefficient_bytes(frame: bytes, width: int, height: int) -> int:
    """Of all components of a frame, whose blocks fill whole units of the largest sampling factors."""
    factors = [(max(1, byte >> 4), max(1, byte & 15)) for byte in frame[7::3]]
    across, down = (max((pair[axis] for pair in factors), default=1) for axis in (0, 1))
    units = -(-width // (BLOCK * across)) * -(-height // (BLOCK * down))
    return units * sum(x * y for x, y in factors) * BLOCK * BLOCK * COEFFICIENT_BYTES


def _may_have_many_scans(content: bytes | mmap.mmap, position: int) -> bool:
    """Quicker than to walk over them. Coded data has no such bytes; what follows the image may have."""
    scans = 0
    while scans < MAX_SCANS and position >= 0:
        position = content.find(START_OF_SCAN, position + 1)
        scans += 1
    return position >= 0


def read_header(file: BinaryIO) -> Header:
    """The header of a JPEG, and a walk over all of its scans where libjpeg reads them all.

    Raises:
        UnreadableImage: more scans, or more segments, than any encoder writes.
    """
    content = _bytes(file)
    header, held, components, position = Header(), False, 0, 2
    scans = exif_segments = fill_bytes = 0
    for _ in range(MAX_SEGMENTS):
        match = MARKER.search(content, position)
        if match is None or match[1][0] == END:
            return header
        marker, start = match[1][0], match.end()
        fill_bytes += start - 2 - position if scans == 0 else 0
        exif_segments += marker == APP1 and content[start + 2 : start + 6] == b"Exif"
        if fill_bytes > MAX_FILL_BYTES or exif_segments > MAX_EXIF_SEGMENTS:
            break
        if marker == START:
            position = start
            continue
        length = int.from_bytes(content[start : start + 2], "big")
        position = start + max(length, 2)
        if marker in FRAMES:
            frame = content[start + 2 : position]
            height, width, components = struct.unpack(">xHHB", frame[:6].ljust(6, b"\0"))
            held = marker not in SEQUENTIAL
            header = Header(width, height, _coefficient_bytes(frame, width, height), start)
        elif marker == SCAN:
            scans += 1
            if scans == 1:
                held = held or content[start + 2 : start + 3] != bytes([components])
                coefficient_bytes = header.coefficient_bytes if held else 0
                header = Header(header.width, header.height, coefficient_bytes, start)
                if not held or not _may_have_many_scans(content, start):
                    return header
            if scans > MAX_SCANS:
                raise UnreadableImage(f"a JPEG image of more than {MAX_SCANS} scans; save it again")
    raise UnreadableImage(
        "a JPEG image of more segments, or more bytes between them, than encoders write; save it again"
    )
