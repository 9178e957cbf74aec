"""What a JPEG 2000 file says of its tiles and code blocks."""

import io
import struct
from typing import Any

import pytest
from headwise.decoding import UnreadableImage, cost
from headwise.jpeg2000 import read_header
from PIL import Image


def encoded(**options: Any) -> bytes:
    """A JPEG 2000 file of 200 x 100 pixels."""
    content = io.BytesIO()
    Image.new("RGB", (200, 100), (9, 80, 200)).save(content, "JPEG2000", **options)
    return content.getvalue()


@pytest.mark.parametrize("bare", [True, False])
def test_tiles_are_counted(bare: bool) -> None:
    """In a codestream and in a file of boxes."""
    header = read_header(io.BytesIO(encoded(tile_size=(64, 64), no_jp2=bare)))
    assert header is not None
    assert (header.width, header.height, header.components) == (200, 100, 3)
    assert (header.tiles, header.tile_pixels) == (4 * 2, 64 * 64)


def test_small_code_blocks_cost_more_than_their_pixels() -> None:
    """And small precincts cut code blocks; those of low resolutions hardly count."""
    usual, small = (read_header(io.BytesIO(encoded(codeblock_size=(size, size)))) for size in (64, 4))
    cut = read_header(io.BytesIO(encoded(precinct_size=(128, 128))))
    assert usual is not None
    assert small is not None
    assert cut is not None
    assert small.blocks == pytest.approx(1 / 16, rel=0.5)
    assert usual.blocks < cut.blocks < 8 * usual.blocks < small.blocks
    assert small.bytes > 5 * usual.bytes


def test_thousands_of_tiles_are_refused() -> None:
    """A few hundred bytes describe them, and OpenJPEG describes each in kilobytes."""
    content = encoded(no_jp2=True)
    many = content[:8] + struct.pack(">IIIIII", 255 * 257, 257, 0, 0, 257, 1) + content[32:]
    with pytest.raises(UnreadableImage, match=r"a JPEG 2000 image of 65,535 tiles, more than 16,384; save it again"):
        cost(many, 8, 8)


def test_codestream_that_is_larger_than_the_file_states_is_refused() -> None:
    """Its own size counts."""
    content = encoded()
    start = content.index(b"\xff\x4f\xff\x51") + 8
    with pytest.raises(UnreadableImage, match=r"an image of 9000 x 9000 pixels, more than 64,000,000"):
        cost(content[:start] + struct.pack(">II", 9000, 9000) + content[start + 8 :], 8, 8)
