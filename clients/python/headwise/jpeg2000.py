"""What a JPEG 2000 file says of its tiles and code blocks, from which OpenJPEG's memory follows.

OpenJPEG decodes a tile at a time, with 4 bytes for each value of each component, and a record for each code block,
which may be as small as 4 x 4. It describes all tiles before it decodes any. Tiles may have code blocks of their own:
the headers of all tile parts are read here, and the tile with most blocks counts.

Source: ISO/IEC 15444-1, annexes A (markers) and I (boxes).
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from headwise.formats import UnreadableImage

MAX_BOXES, MAX_SEGMENTS = 1000, 2**17
SIGNATURE = b"\xff\x4f\xff\x51"  # of a codestream: start, size
SIZE, CODING, COMPONENT_CODING, TILE_PART, DATA, END = 0xFF51, 0xFF52, 0xFF53, 0xFF90, 0xFF93, 0xFFD9
MAX_TILES = 2**14  # of 64 x 64 pixels in the largest image
TILE_BYTES, TILE_COMPONENT_BYTES = 7000, 1600  # of the description of a tile; 755 MiB of 65,535 tiles with 3 components
BLOCK_BYTES = 800  # of the records of a code block and of a precinct around it; 393 measured for the first
LARGEST_PRECINCT, MAX_LEVELS = 0xFF, 32
VALUE_BYTES = 6  # of a value while its tile is decoded, and when it is handed over


@dataclass(frozen=True)
class Header:
    """Of a codestream; sizes in pixels."""

    left: int
    top: int
    right: int
    bottom: int
    components: int
    tiles: int
    tile_pixels: int
    blocks: float  # for each value of a component, in the tile that has most

    levels: int  # of resolution below the full one, that every tile has

    def size(self, reduction: int) -> tuple[int, int]:
        """Width and height at 2 ** -reduction of the full size."""
        left, top, right, bottom = (-(-side // 2**reduction) for side in (self.left, self.top, self.right, self.bottom))
        return right - left, bottom - top

    def decoder_bytes(self, reduction: int) -> int:
        """That OpenJPEG takes at most for an image of 2 ** -reduction the size, beside the image that it writes to."""
        values = min(self.tile_pixels, math.prod(self.size(0))) * self.components
        descriptions = self.tiles * (TILE_BYTES + TILE_COMPONENT_BYTES * self.components)
        return descriptions + math.ceil(values * (VALUE_BYTES * 0.25**reduction + self.blocks * BLOCK_BYTES))


def _codestream(file: BinaryIO) -> int | None:
    """Where the codestream starts."""
    position = 0
    for _ in range(MAX_BOXES):
        file.seek(position)
        head = file.read(16)
        if head.startswith(SIGNATURE):
            return position
        if len(head) < 8:
            return None
        length, kind = struct.unpack(">I4s", head[:8])
        size = 8
        if length == 1 and len(head) == 16:
            length, size = struct.unpack(">Q", head[8:])[0], 16
        if kind == b"jp2c":
            return position + size
        if length < size or length >= 2**62:
            return None
        position += length
    return None


def _segments(file: BinaryIO, position: int) -> Iterator[tuple[int, bytes]]:
    """Markers and contents of the main header and of the headers of all tile parts."""
    part_end = None
    for _ in range(MAX_SEGMENTS):
        file.seek(position)
        head = file.read(4)
        if len(head) < 4:
            return
        marker, length = struct.unpack(">HH", head)
        if marker == END:
            return
        if marker == DATA:
            if part_end is None:
                return
            position = part_end
            continue
        content = file.read(min(max(length - 2, 0), 64))
        if marker == TILE_PART and len(content) >= 6:
            (part_bytes,) = struct.unpack(">I", content[2:6])
            part_end = position + part_bytes if part_bytes >= 12 else None  # 0: to the end of the file
        yield marker, content
        position += 2 + length
    raise UnreadableImage(f"a JPEG 2000 image of more than {MAX_SEGMENTS:,} segments; save it again")


def _blocks(style: bytes, precincts: bool) -> float:
    """Code blocks for each value, from the bytes that start with the number of decompositions.

    Each resolution has a quarter of the values of the next; a precinct may cut its blocks smaller.
    """
    if len(style) < 3:
        return 1.0
    levels = min(style[0], MAX_LEVELS)
    blocks = 0.0
    for level in range(levels + 1):
        size = style[5 + level] if precincts and 5 + level < len(style) else LARGEST_PRECINCT
        cut = 1 if level else 0
        across = min((style[1] & 15) + 2, max((size & 15) - cut, 0))
        down = min((style[2] & 15) + 2, max((size >> 4) - cut, 0))
        blocks += 4.0 ** (level - levels) / 2 ** (across + down)
    return min(blocks, 1.0)


def _grid(content: bytes) -> tuple[int, int, int, int, int, int, int]:
    """Left, top, right, bottom, components, tiles and pixels of a tile."""
    x, y, x0, y0, tile_x, tile_y, tile_x0, tile_y0, components = struct.unpack(">8IH", content[2:36])
    columns, rows = -(-(x - tile_x0) // max(tile_x, 1)), -(-(y - tile_y0) // max(tile_y, 1))
    return x0, y0, x, y, components, max(columns, 0) * max(rows, 0), tile_x * tile_y


def read_header(file: BinaryIO) -> Header | None:
    """The header of a JPEG 2000 file; None where there is none that makes sense.

    Raises:
        UnreadableImage: the file has more tiles, or more parts of tiles, than any encoder writes.
    """
    grid, blocks, levels = None, [0.0], [MAX_LEVELS]
    start = _codestream(file)
    for marker, content in _segments(file, start + 2) if start is not None else ():
        if marker == SIZE and len(content) >= 36:
            grid = _grid(content)
            if grid[5] > MAX_TILES:
                raise UnreadableImage(f"a JPEG 2000 image of {grid[5]:,} tiles, more than {MAX_TILES:,}; save it again")
        elif marker == CODING:
            levels.append(content[5] if len(content) > 5 else 0)
            blocks.append(_blocks(content[5:], content[:1] > b"\0" and bool(content[0] & 1)))
        elif marker == COMPONENT_CODING:
            style = content[1 if grid is None or grid[4] < 257 else 2 :]
            levels.append(style[1] if len(style) > 1 else 0)
            blocks.append(_blocks(style[1:], style[:1] > b"\0" and bool(style[0] & 1)))
    return None if grid is None else Header(*grid, max(blocks), min(levels))
