"""The part of an image that is kept, at the size wanted, without a second copy of a large image.

A large image that has to be converted first is converted and resized in strips: some rows of the result at a time, with
the rows and columns of the image that the filter reads for them.

Shape suffixes: Y rows, X columns, C channels.
"""

import math
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

STRIP_PIXELS = 2**22  # of a large image are converted at a time
SUPPORT = 2  # pixels to each side that the widest filter, bicubic, reads at scale 1
SAMPLED = ("L", "RGB", "CMYK", "YCbCr", "LAB")  # modes that are resized as they are
PIXEL_BYTES, ROW_BYTES = 4, 8  # of each pixel, and of each row, of Pillow's images

Resampling = Literal["bilinear", "bicubic"]
RESAMPLINGS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
Size = tuple[int, int]  # width, height
Box = tuple[float, float, float, float]  # left, top, right, bottom
Convert = Callable[[Image.Image], Image.Image]


class Part(NamedTuple):
    """Some rows of the result, and the pixels of the image that they are made from."""

    rows: int
    source: tuple[int, int, int, int]  # left, top, right, bottom
    box: Box  # within the source


def frame(source: Size, size: Size, centre: bool) -> Box:
    """The part of an image of that size that is kept."""
    if not centre:
        return (0, 0, *source)
    wide = source[0] * size[1] > source[1] * size[0]
    kept_width = source[1] * size[0] / size[1] if wide else source[0]
    kept_height = source[1] if wide else source[0] * size[1] / size[0]
    left, top = (source[0] - kept_width) / 2, (source[1] - kept_height) / 2
    return (left, top, left + kept_width, top + kept_height)


def _reach(start: float, end: float, scale: float, limit: int) -> Size:
    """The first pixel that the filter reads from start to end, and the one after the last."""
    margin = SUPPORT * max(scale, 1) + 1
    return max(0, math.floor(start - margin)), min(limit, math.ceil(end + margin))


def _strips(source: Size, size: Size, box: Box) -> Iterator[Part]:
    width, height = size
    scale = (box[3] - box[1]) / height
    left, right = _reach(box[0], box[2], (box[2] - box[0]) / width, source[0])
    rows = max(1, height * STRIP_PIXELS // (max(source[0], width) * source[1]))
    if scale * rows + 2 * SUPPORT * max(scale, 1) >= source[1]:  # every strip would be made from nearly all rows
        rows = height
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        upper, lower = box[1] + scale * top, box[1] + scale * bottom
        first, last = _reach(upper, lower, scale, source[1])
        part_box = (box[0] - left, upper - first, min(box[2] - left, right - left), min(lower - first, last - first))
        yield Part(bottom - top, (left, first, right, last), part_box)


def _in_strips(source: Size, converted: bool) -> bool:
    return converted and source[0] * source[1] > STRIP_PIXELS


def working_bytes(source: Size, size: Size, converted_bytes: int) -> int:
    """Most memory that `resized` takes for either framing, if converting takes so many bytes for each pixel."""
    most = 0
    for box in (frame(source, size, True), frame(source, size, False)):
        parts = [(0, 0, *source)]
        if _in_strips(source, converted_bytes > 0):
            parts = [part.source for part in _strips(source, size, box)]
        # Pillow resizes the rows first, or the columns, whichever is less work.
        between = 2 * PIXEL_BYTES * min(size[0] * source[1], size[1] * source[0])
        for left, top, right, bottom in parts:
            converting = (bottom - top) * ((right - left) * converted_bytes + 4 * ROW_BYTES)
            most = max(most, converting + between)
    return most


def resized(image: Image.Image, convert: Convert, converted: bool, size: Size, box: Box, by: Resampling) -> Image.Image:
    """The box of an image at a size.

    Args:
        convert: to a mode that can be resized.
        converted: whether that makes another image; its argument is returned otherwise.
    """
    if not _in_strips(image.size, converted):
        return convert(image).resize(size, RESAMPLINGS[by], box=box)
    parts_YXC = [
        np.asarray(convert(image.crop(part.source)).resize((size[0], part.rows), RESAMPLINGS[by], box=part.box))
        for part in _strips(image.size, size, box)
    ]
    return Image.fromarray(np.concatenate(parts_YXC))
