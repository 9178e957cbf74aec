"""Small copies of images."""

import io

import numpy as np
import pytest
from headwise_exporter.data.thumbnails import encoded, kind_of, picture
from PIL import Image


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_small_image_comes_back_pixel_by_pixel(channels: int, mode: str) -> None:
    """In grey and in colour, as PNG."""
    image_YXC = np.random.default_rng(0).integers(0, 256, (8, 6, channels), dtype=np.uint8)
    file = Image.open(io.BytesIO(encoded(picture(image_YXC), kind_of(6, 8))))
    assert (file.format, file.mode) == ("PNG", mode)
    assert (np.asarray(file).reshape(image_YXC.shape) == image_YXC).all()


def test_large_image_is_a_jpeg() -> None:
    """From 33 pixels a side on."""
    assert [kind_of(32, 32), kind_of(33, 8), kind_of(8, 33)] == ["png", "jpeg", "jpeg"]
