"""Requests from images."""

import numpy as np
import pytest
from headwise.messages import to_image


def test_what_is_no_image_is_refused_before_it_is_sent() -> None:
    """The type or shape that was expected, and the one that was found."""
    with pytest.raises(TypeError, match="expected bytes, a path or a uint8 array, found int"):
        to_image(3)
    with pytest.raises(ValueError, match=r"expected a uint8 array .*, found float64 \(8, 8\)"):
        to_image(np.zeros((8, 8)))
    with pytest.raises(ValueError, match=r"found uint8 \(1, 8, 8, 1\)"):
        to_image(np.zeros((1, 8, 8, 1), np.uint8))
    with pytest.raises(OSError, match="No such file"):
        to_image("/nonexistent.png")


def test_array_that_is_not_contiguous_is_sent_as_it_reads() -> None:
    """A transposed or cut array has the pixels one sees, not those of the memory behind it."""
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    assert to_image(pixels.T[:, ::2]).tensor.data == pixels.T[:, ::2].copy().tobytes()
    assert to_image(pixels).tensor.channels == 1
