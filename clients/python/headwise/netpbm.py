"""PGM and PPM files whose largest value is not 255 or 65,535: values scaled by what the header states.

Pillow reads their header and gives the same values (8 bits, or 16 for greys of more), but takes them one by one in
Python, a microsecond for each pixel and most of it with Python's lock.
"""

from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageFile

CODEC = "ppm"  # Pillow's name of the decoder that this replaces


def scaled(file: BinaryIO, image: ImageFile.ImageFile) -> Image.Image:
    """The image of which Pillow has read the header.

    Raises:
        EOFError: the file is truncated.
    """
    [tile] = image.tile
    arguments: Any = tile.args  # how the samples are stored, and the largest value
    largest = int(arguments[1])
    grey16 = image.mode == "I"
    fractions = np.arange(largest + 1) / largest
    table = np.round(fractions * 65535).astype(np.uint16) if grey16 else np.round(fractions * 255).astype(np.uint8)
    shape = (image.height, image.width, len(image.getbands()))
    stored = np.dtype(">u2" if largest > 255 else np.uint8)
    pixels_YXC = np.empty(shape, table.dtype)
    file.seek(tile.offset)
    for row_XC in pixels_YXC:
        if len(data := file.read(row_XC.size * stored.itemsize)) < row_XC.size * stored.itemsize:
            raise EOFError("image file is truncated")
        row_XC[...] = table[np.minimum(np.frombuffer(data, stored).reshape(row_XC.shape), largest)]
    return Image.fromarray(pixels_YXC[..., 0] if shape[2] == 1 else pixels_YXC)
