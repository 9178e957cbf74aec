"""What kind of file this is, by its content."""

import io
import struct

import hypothesis.strategies as st
import pytest
from headwise.decoding import CODECS, readable
from headwise.formats import kind_of
from hypothesis import given
from PIL import Image


def tiff(*entries: tuple[int, int, int]) -> bytes:
    """A TIFF header with one directory of (tag, type, value)."""
    rows = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + rows + bytes(4)


@pytest.mark.parametrize("kind", readable())
def test_every_format_that_is_read_announces_itself(kind: str) -> None:
    """As the library that reads it writes it."""
    content = io.BytesIO()
    Image.new("RGB", (16, 16)).save(content, CODECS[kind][0])
    assert kind_of(content.getvalue()) == kind


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (tiff((256, 3, 160), (254, 4, 1)), "camera raw"),
        (tiff((50706, 1, 0x00000401)), "camera raw"),
        (tiff((262, 3, 32803)), "camera raw"),
        (tiff((262, 3, 2), (254, 4, 0)), "TIFF"),
        (tiff((254, 4, 2)), "TIFF"),
        (b"FUJIFILMCCD-RAW 0201", "camera raw"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1", "camera raw"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heicmiaf", "HEIC"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "AVIF"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0", "video"),
        (b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'>", "SVG"),
        (b"BMW parked beside the tree", None),
        (b"P5 is a kind of file", None),
        (b"", None),
    ],
)
def test_kind_is_that_of_the_content(content: bytes, kind: str | None) -> None:
    """A raw file is no TIFF image; a text that starts alike is no image."""
    assert kind_of(content) == kind


@given(st.one_of(st.binary(max_size=64), st.binary(max_size=64).map(lambda rest: b"II*\0" + rest)))
def test_any_content_has_a_kind_or_none(content: bytes) -> None:
    """Nothing raises, and the file stands where it stood."""
    file = io.BytesIO(b"before" + content)
    file.seek(6)
    assert kind_of(file) == kind_of(content)
    assert file.tell() == 6
