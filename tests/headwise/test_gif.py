"""How much a GIF file says before its first image."""

import io

import pytest
from headwise.formats import UnreadableImage
from headwise.gif import MAX_BLOCKS, before_image
from PIL import Image


def with_comment(blocks: bytes) -> io.BytesIO:
    """A GIF with a comment of these blocks before its image."""
    content = io.BytesIO()
    Image.new("P", (4, 4)).save(content, "GIF")
    start = content.getvalue().index(b",\0\0\0\0")
    return io.BytesIO(content.getvalue()[:start] + b"!\xfe" + blocks + b"\0" + content.getvalue()[start:])


def test_blocks_before_the_image_are_counted() -> None:
    """And their bytes; those after it do not matter."""
    none, some = before_image(with_comment(b"")), before_image(with_comment(b"\x05hello\x03you"))
    assert (some[0] - none[0], some[1] - none[1]) == (2, 8)


def test_blocks_are_limited() -> None:
    """Whether in one comment or in many."""
    for blocks in (b"\1a" * (MAX_BLOCKS + 1), b"\1a\0!\xfe" * (MAX_BLOCKS // 2 + 1)):
        with pytest.raises(UnreadableImage, match="a GIF image with more than 65,536 blocks before it; save it again"):
            before_image(with_comment(blocks))
