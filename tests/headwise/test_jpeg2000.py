"""What a JPEG 2000 file says of its tiles and code blocks."""

import io
import struct
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from headwise.decoding import UnreadableImage, cost, decode
from headwise.jpeg2000 import read_header
from hypothesis import given, settings
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
    assert (header.size(0), header.size(3), header.components) == ((200, 100), (25, 13), 3)
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
    assert small.decoder_bytes(0) > 5 * usual.decoder_bytes(0)


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


def test_large_image_is_decoded_at_a_reduced_scale() -> None:
    """Of at least twice the size wanted; near what the full decoding gives."""
    places = np.arange(1500)
    smooth = np.sin(places[:, None] / 90) * np.cos(places[None, :] / 70) * 120 + 128
    content = io.BytesIO()
    Image.fromarray(smooth.astype(np.uint8)).save(content, "JPEG2000")
    reduced = decode(content.getvalue(), 100, 100, "L")[..., 0].astype(int)
    full = Image.fromarray(smooth.astype(np.uint8)).resize((100, 100), Image.Resampling.BILINEAR)
    assert np.abs(reduced - np.asarray(full)).max() <= 8
    assert cost(content.getvalue(), 100, 100).bytes < cost(content.getvalue(), 700, 700).bytes / 1.3


@settings(max_examples=20, deadline=None)
@given(st.integers(60, 300), st.integers(60, 300))
def test_image_of_any_size_is_decoded(width: int, height: int) -> None:
    """Pillow and OpenJPEG round the sizes of reduced scales in different ways."""
    content = io.BytesIO()
    Image.new("RGB", (width, height), (9, 80, 200)).save(content, "JPEG2000")
    assert np.abs(decode(content.getvalue(), 4, 4).astype(int) - (9, 80, 200)).max() <= 2


def test_large_image_without_reduced_scales_is_refused() -> None:
    """Pillow would hold Python's lock for as long as it takes to decode it."""
    content = encoded(no_jp2=True, num_resolutions=1)
    with pytest.raises(UnreadableImage, match=r"an image of 5000 x 5000 pixels, more than 16,000,000; scale it down"):
        cost(content[:8] + struct.pack(">IIIIII", 5000, 5000, 0, 0, 5000, 5000) + content[32:], 8, 8)
