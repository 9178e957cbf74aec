"""The first directory of a TIFF file."""

import io
import struct

import pytest
from headwise.tiff import MAX_ENTRIES, Entry, decoder_bytes, directory
from PIL import Image


@pytest.mark.parametrize("big", [False, True])
def test_entries_are_those_that_pillow_reads(big: bool) -> None:
    """Of TIFF and BigTIFF."""
    content = io.BytesIO()
    Image.new("RGB", (30, 20)).save(content, "TIFF", big_tiff=big, tiffinfo={270: "a description"})
    entries = {entry.tag: entry for entry in directory(content)}
    assert (entries[256].number, entries[257].number, entries[258].values) == (30, 20, 3)
    content.seek(0)
    with Image.open(content) as image:
        assert set(entries) == set(getattr(image, "tag_v2", ()))


def test_directory_of_either_byte_order_and_any_length_is_read() -> None:
    """Up to a limit, and as far as the file goes."""
    for order, mark in (("<", b"II*\0"), (">", b"MM\0*")):
        entry = struct.pack(f"{order}HHIHH", 256, 3, 1, 7, 0)
        head = mark + struct.pack(f"{order}IH", 8, 9000)
        assert directory(io.BytesIO(head + entry * 9000)) == [Entry(256, 3, 1, 7)] * MAX_ENTRIES
        assert directory(io.BytesIO(head + entry * 2 + b"\0")) == [Entry(256, 3, 1, 7)] * 2
    assert directory(io.BytesIO(b"II")) == []


def test_strip_or_tile_is_unpacked_as_a_whole() -> None:
    """Uncompressed ones are not; of the image no more than its rows."""
    tags = {258: (8, 8, 8), 259: 5, 277: 3}
    assert decoder_bytes({**tags, 259: 1}, 100, 100) == 0
    assert decoder_bytes({**tags, 278: 10}, 100, 100) == 100 * 10 * 4
    assert decoder_bytes({**tags, 278: 2**32 - 1}, 100, 100) == 100 * 100 * 4
    assert decoder_bytes({**tags, 322: 512, 323: 256}, 100, 100) == 512 * 256 * 4
