"""Netpbm files whose values are read by NumPy."""

import io
from contextlib import suppress

import hypothesis.strategies as st
import numpy as np
import pytest
from headwise.decoding import UnreadableImage, decode
from headwise.netpbm import decoded
from hypothesis import given
from PIL import Image

SPACE = st.sampled_from([b" ", b"\n", b"\t\r\n", b" # a comment\n", b"\n#\r", b"  "])


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A plain file of any kind, or one whose largest value is odd, with comments between and within its values."""
    magic = draw(st.sampled_from([b"P1", b"P2", b"P3", b"P5", b"P6"]))
    width, height = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    largest = 1 if magic == b"P1" else draw(st.sampled_from([1, 15, 254, 1000, 65534]))
    head = b"%s %d %d%s\n" % (magic, width, height, b"" if magic == b"P1" else b" %d" % largest)
    values = draw(st.lists(st.integers(0, largest), min_size=width * height * 3, max_size=width * height * 3))
    if magic in (b"P5", b"P6"):
        return head + np.array(values, ">u2" if largest > 255 else np.uint8).tobytes()
    return head + b"".join(b"%d" % value + draw(SPACE) for value in values)


@given(files())
def test_values_are_those_of_pillow(content: bytes) -> None:
    """Its own decoder takes them one by one."""
    with Image.open(io.BytesIO(content)) as image, Image.open(io.BytesIO(content)) as header:
        np.testing.assert_array_equal(
            np.asarray(decoded(io.BytesIO(content), header)).astype(int),
            np.asarray(image).astype(int) * (255 if image.mode == "1" else 1),
        )


@given(files(), st.data())
def test_file_without_its_last_values_is_truncated(content: bytes, data: st.DataObject) -> None:
    """And not filled up with anything."""
    head = content.index(b"\n")
    with suppress(UnreadableImage):
        decode(content[: data.draw(st.integers(head, len(content)))], 4, 4)
    with pytest.raises(UnreadableImage, match="truncated"):
        decode(content[: head + 1], 4, 4)


@pytest.mark.parametrize("body", [b"16 1 1 1", b"-1 1 1 1", b"1 1 x 1"])
def test_value_that_cannot_be_is_an_error(body: bytes) -> None:
    """Larger than the largest, negative, no number."""
    with pytest.raises(UnreadableImage, match="a damaged or truncated Netpbm"):
        decode(b"P2 2 2 15\n" + body, 2, 2)
