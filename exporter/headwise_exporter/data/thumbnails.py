"""Small copies of images, as a page or a bundle has them."""

import io
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LOSSLESS_PIXELS = 32  # a side up to which an image is small enough that every pixel counts
Kind = Literal["png", "jpeg"]


def picture(image_YXC: NDArray[np.uint8]) -> Image.Image:
    """Pixels in grey or colour as a picture."""
    return Image.fromarray(image_YXC.squeeze(-1) if image_YXC.shape[-1] == 1 else image_YXC)


def kind_of(width: int, height: int) -> Kind:
    """PNG for images of few pixels, JPEG for larger ones."""
    return "png" if max(width, height) <= LOSSLESS_PIXELS else "jpeg"


def encoded(image: Image.Image, kind: Kind) -> bytes:
    """The file of a picture."""
    content = io.BytesIO()
    image.save(content, kind, optimize=True)
    return content.getvalue()
