"""How many pixels the AV1 frames of an AVIF file have."""

import io
import struct
from contextlib import suppress
from typing import Any

import hypothesis.strategies as st
import pytest
from headwise.avif import coded_pixels
from headwise.decoding import UnreadableImage, cost
from hypothesis import given, settings
from PIL import Image, features

pytestmark = pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")


def encoded(size: tuple[int, int], mode: str = "RGB", **options: Any) -> bytes:
    """The content of a file."""
    content = io.BytesIO()
    Image.new(mode, size, 90).save(content, "AVIF", speed=10, **options)
    return content.getvalue()


def said_to_have(content: bytes, width: int, height: int) -> bytes:
    """A file whose container states another size."""
    start = content.index(b"ispe") + 8
    return content[:start] + struct.pack(">II", width, height) + content[start + 8 :]


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from(["L", "RGB", "RGBA"]))
def test_frames_have_the_size_that_was_encoded(width: int, height: int, mode: str) -> None:
    """Whatever the container states."""
    content = encoded((width, height), mode)
    assert coded_pixels(io.BytesIO(content)) == width * height
    assert coded_pixels(io.BytesIO(said_to_have(content, 7, 7))) == width * height


def test_first_frame_of_an_animation_counts() -> None:
    """Found by its track."""
    frames = [Image.new("RGB", (64, 48), (number, 9, 9)) for number in range(50)]
    content = encoded((64, 48), save_all=True, append_images=frames)
    assert coded_pixels(io.BytesIO(content)) == 64 * 48


def test_frames_larger_than_stated_are_in_the_cost() -> None:
    """libavif decodes them before it scales them."""
    content = encoded((2000, 2000))
    assert cost(said_to_have(content, 16, 16), 8, 8).bytes > cost(content, 8, 8).bytes - 5 * 2000 * 2000 > 2000 * 2000


def test_frames_of_too_many_pixels_are_refused() -> None:
    """Though the container states a few."""
    content = said_to_have(encoded((10_001, 10_000)), 16, 16)
    with pytest.raises(UnreadableImage, match=r"frames have 100,010,000 pixels, more than 100,000,000; scale it down"):
        cost(content, 8, 8)


@given(st.data())
def test_damaged_file_is_no_error_of_ours(data: st.DataObject) -> None:
    """libavif says what is wrong with it."""
    content = bytearray(ENCODED)
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, 300))] = data.draw(st.integers(0, 255))
    with suppress(UnreadableImage):
        assert coded_pixels(io.BytesIO(bytes(content))) >= 0


ENCODED = encoded((16, 16)) if features.check("avif") else b""
