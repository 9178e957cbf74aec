"""How many pixels the AV1 frames of an AVIF file have, which its container may state otherwise.

libavif decodes the frames at the size that their sequence headers state, up to 268 million pixels, and scales them to
the size that the container states. So the sequence headers are read here: of all items that are coded as AV1, and of
the first sample of each track. A frame that overrides the size of its sequence header is not seen.

Sources: ISO/IEC 14496-12 (boxes, `iloc`, `iinf`, `stco`), AV1 bitstream specification 5.3 and 5.5.
"""

import io
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

from headwise.formats import UnreadableImage

MAX_PARTS = 4096  # boxes in a box, items, extents of an item, units of a frame
CONTAINERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
SEQUENCE_HEADER, DELIMITER = 1, 2  # types of units; a delimiter starts a frame


class _Bits:
    """Numbers of so many bits, one after the other; zeros after the end."""

    def __init__(self, data: bytes) -> None:
        self.number, self.left = int.from_bytes(data, "big"), 8 * len(data)

    def __call__(self, count: int) -> int:
        self.left -= count
        return (self.number >> self.left if self.left >= 0 else 0) & ((1 << count) - 1)

    def skip_variable(self) -> None:
        """A number in uvlc()."""
        zeros = 0
        while self.left > 0 and not self(1):
            zeros += 1
        self(zeros if zeros < 32 else 0)


def _frame_pixels(header: bytes) -> int:
    """Of the frames after a sequence header."""
    bits = _Bits(header[:128])
    bits(4)
    if bits(1):  # of a still picture, reduced
        bits(5)
    else:
        delay_bits = 0
        if bits(1):  # timing
            bits(64)
            if bits(1):
                bits.skip_variable()
            if bits(1):  # decoder model
                delay_bits = bits(5) + 1
                bits(42)
        display_delay = bits(1)
        for _ in range(bits(5) + 1):
            bits(12)
            if bits(5) > 7:
                bits(1)
            if delay_bits and bits(1):
                bits(2 * delay_bits + 1)
            if display_delay and bits(1):
                bits(4)
    width_bits, height_bits = bits(4) + 1, bits(4) + 1
    return (bits(width_bits) + 1) * (bits(height_bits) + 1)


def _coded_pixels(sample: bytes, *, one_frame: bool = False) -> int:
    """Of the largest sequence header of a coded image, or of the first frame of several."""
    position = most = 0
    for number in range(MAX_PARTS):
        if position >= len(sample):
            return most
        first = sample[position]
        position += 2 if first & 4 else 1
        size = len(sample) - position
        if first & 2:
            size = shift = 0
            for byte in sample[position : position + 8]:
                size, shift, position = size | (byte & 127) << shift, shift + 7, position + 1
                if byte < 128:
                    break
        kind = (first >> 3) & 15
        if one_frame and kind == DELIMITER and number > 0:
            return most
        if kind == SEQUENCE_HEADER:
            most = max(most, _frame_pixels(sample[position : position + size]))
        position += size
    raise UnreadableImage(f"an AVIF image of more than {MAX_PARTS:,} parts; save it again")


def _boxes(content: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of the content of each box."""
    for _ in range(MAX_PARTS):
        if start + 8 > end:
            return
        length, kind = struct.unpack_from(">I4s", content, start)
        head = 8
        if length == 1:
            length, head = struct.unpack_from(">Q", content, start + 8)[0], 16
        last = end if length == 0 else min(end, start + length)
        if last < start + head:
            return
        yield kind, start + head, last
        start = last


def _item_types(content: bytes, start: int, end: int) -> dict[int, bytes]:
    """Of the items in a box `iinf`."""
    types = {}
    for _, first, last in _boxes(content, start + (6 if content[start] == 0 else 8), end):
        version = content[first]
        number_bytes = 4 if version == 3 else 2
        place = first + 4 + number_bytes + 2
        types[int.from_bytes(content[first + 4 : first + 4 + number_bytes], "big")] = content[
            place : min(place + 4, last)
        ]
    return types


def _extents(content: bytes, start: int) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
    """Number, kind of place and the (start, length) of each extent of the items in a box `iloc`."""
    version = content[start]
    file = io.BytesIO(content[start + 4 : start + 2**20])

    def number(size: int) -> int:
        return int.from_bytes(file.read(size), "big")

    sizes, other = number(1), number(1)
    offset_bytes, length_bytes, base_bytes, index_bytes = sizes >> 4, sizes & 15, other >> 4, other & 15
    for _ in range(min(number(4 if version == 2 else 2), MAX_PARTS)):
        item = number(4 if version == 2 else 2)
        method = number(2) & 15 if version else 0
        number(2)
        base, extents = number(base_bytes), []
        for _ in range(min(number(2), MAX_PARTS)):
            number(index_bytes if version else 0)
            extents.append((base + number(offset_bytes), number(length_bytes)))
        yield item, method, extents


def _items(content: bytes, start: int, end: int) -> Iterator[tuple[bytes, bytes]]:
    """Type and data of the items that a box `meta` describes."""
    boxes = {kind: (first, last) for kind, first, last in _boxes(content, start + 4, end)}
    if b"iloc" not in boxes or b"iinf" not in boxes:
        return
    types = _item_types(content, *boxes[b"iinf"])
    own = boxes.get(b"idat", (0, 0))[0]
    read = 0
    for item, method, extents in _extents(content, boxes[b"iloc"][0]):
        kind = types.get(item, b"")
        if kind != b"av01":
            yield kind, b""
            continue
        shift = own if method == 1 else 0
        parts = [content[shift + first : shift + first + length if length else None] for first, length in extents]
        read += sum(map(len, parts))
        if read > 4 * len(content):
            raise UnreadableImage("an AVIF image whose parts overlap; save it again")
        yield kind, b"".join(parts)


def _samples(content: bytes, start: int, end: int) -> Iterator[bytes]:
    """The first sample, and what follows it, of each track."""
    for kind, first, last in _boxes(content, start, end):
        if kind in CONTAINERS:
            yield from _samples(content, first, last)
        elif kind in (b"stco", b"co64"):
            (offset,) = struct.unpack_from(">I" if kind == b"stco" else ">Q", content, first + 8)
            yield content[offset : offset + 2**16]


def coded_pixels(file: BinaryIO) -> int:
    """That libavif may decode to get the first image: of the largest item, of all if they form a grid.

    Raises:
        UnreadableImage: the file has more parts than any encoder writes.
    """
    content = file.getvalue() if isinstance(file, io.BytesIO) else file.read()
    pixels, grid = [0], False
    with suppress(struct.error, IndexError):  # a damaged file, of which libavif says so
        for kind, start, end in _boxes(content, 0, len(content)):
            if kind == b"meta":
                for item, data in _items(content, start, end):
                    grid = grid or item == b"grid"
                    pixels.append(_coded_pixels(data))
            elif kind == b"moov":
                pixels += [_coded_pixels(sample, one_frame=True) for sample in _samples(content, start, end)]
    return sum(pixels) if grid else max(pixels)
