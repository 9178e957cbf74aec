"""16 bits a channel to 8."""

import io

import hypothesis.strategies as st
import numpy as np
import pytest
from headwise.decoding import decode
from hypothesis import given
from PIL import Image


def grey_png(values: np.ndarray) -> bytes:
    """A PNG of 16-bit greys."""
    content = io.BytesIO()
    Image.fromarray(values.astype(np.uint16)).save(content, "PNG")
    return content.getvalue()


@pytest.mark.parametrize(("bits", "shift"), [(8, 0), (10, 2), (12, 4), (14, 6), (16, 8)])
def test_upper_eight_of_the_bits_in_use_are_taken(bits: int, shift: int) -> None:
    """An image of 12-bit values in 16 bits is not black: its largest value is near white."""
    values = np.linspace(0, 2**bits - 1, 64).reshape(8, 8).astype(np.uint16)
    pixels_YXC = decode(grey_png(values), 8, 8)
    np.testing.assert_array_equal(pixels_YXC[..., 0], (values >> shift).astype(np.uint8))
    assert pixels_YXC.max() == 255


@given(st.integers(0, 65535))
def test_brighter_stays_brighter(largest: int) -> None:
    """Whatever the range, order is kept and nothing wraps around."""
    values = np.sort(np.random.default_rng(largest).integers(0, largest + 1, 64)).reshape(8, 8)
    levels = decode(grey_png(values), 8, 8)[..., 0].astype(int).ravel()
    assert (np.diff(levels) >= 0).all()


def test_tiff_that_states_its_largest_value_is_scaled_by_it() -> None:
    """A dark picture of 16 bits stays dark where the file says that it has all of them."""
    content = io.BytesIO()
    image = Image.fromarray(np.full((8, 8), 1000, np.uint16))
    image.save(content, "TIFF", tiffinfo={281: 16383})
    assert decode(content.getvalue(), 8, 8).max() == 1000 >> 6
