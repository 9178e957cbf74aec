"""PNG files with more text than pixels."""

import io

import numpy as np
import pytest
from headwise.decoding import decode
from PIL import Image
from PIL.PngImagePlugin import PngInfo


@pytest.mark.parametrize("megabytes", [0, 2, 40])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("international", [False, True])
def test_text_of_any_size_makes_no_png_unreadable(megabytes: int, compressed: bool, international: bool) -> None:
    """The pixels are those of the same file without the text."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    text = PngInfo()
    add = text.add_itxt if international else text.add_text
    for number in range(3):
        add(f"workflow {number}", "x" * (megabytes << 20), zip=compressed)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG", pnginfo=text)
    np.testing.assert_array_equal(decode(content.getvalue(), 8, 8), pixels)
