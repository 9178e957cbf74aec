"""Netpbm files that Pillow would read one value at a time in Python, with Python's lock: by NumPy.

Those are the plain ones, in decimal digits (P1, P2, P3), and PGM and PPM files whose largest value is not 255 or
65,535: their values are scaled by what the header states. The values are Pillow's: 8 bits, or 16 for greys of more.
"""

import re
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from headwise.formats import UnreadableImage

CODECS = ("ppm", "ppm_plain")  # Pillow's names of the decoders that this replaces
PLAIN = "ppm_plain"
MAX_HEADER_BYTES = 2**16  # with comments, which Pillow reads one by one
VALUE_BYTES, PLAIN_VALUE_BYTES = (
    3,
    10,
)  # of a value while it is read, beside Pillow's image; of a plain file as a number
TEXT_COPIES = 5  # of a plain file
HEADER = re.compile(rb"P[1-6](?:(?:\s|#[^\r\n]*[\r\n])+\d+){2,3}\s")
NO_VALUE = re.compile(rb"[^\d\s]")
BLOCK_VALUES = 2**18  # are converted at a time
TRUNCATED = "image file is truncated"


def check_header(file: BinaryIO) -> None:
    """Refuse a header that Pillow would read for minutes.

    Raises:
        UnreadableImage: it is longer than any program writes.
    """
    head = file.read(MAX_HEADER_BYTES)
    file.seek(0)
    if len(head) == MAX_HEADER_BYTES and not HEADER.match(head):
        raise UnreadableImage(f"a Netpbm image whose header has more than {MAX_HEADER_BYTES:,} bytes; save it again")


def _table(largest: int, grey16: bool) -> NDArray[np.uint8 | np.uint16]:
    """What each stored value becomes."""
    fractions = np.arange(largest + 1) / largest
    return np.round(fractions * 65535).astype(np.uint16) if grey16 else np.round(fractions * 255).astype(np.uint8)


def _without_comments(text: bytes) -> bytes:
    """The text without what lies between a # and the end of its line, and without that end, as Pillow has it."""
    kept, inside = [], False
    for start in range(0, len(text), BLOCK_VALUES):
        block = np.frombuffer(text[start : start + BLOCK_VALUES], np.uint8)
        places, ends = np.arange(block.size), (block == ord("\n")) | (block == ord("\r"))
        last_mark = np.maximum.accumulate(np.where(block == ord("#"), places, 0 if inside else -1))
        comment = last_mark > np.maximum.accumulate(np.where(ends, places, -1))
        closing = ends & np.concatenate([[inside], comment[:-1]])
        kept.append(block[~(comment | closing)].tobytes())
        inside = bool(comment[-1])
    return b"".join(kept)


def _plain_values(text: bytes, bits: bool) -> NDArray[np.int32] | NDArray[np.uint8]:
    """The values of the text, up to the first that is none."""
    text = _without_comments(text) if b"#" in text else text
    if match := NO_VALUE.search(text):
        text = text[: match.start()]
    if bits:  # which need no space between them
        characters = np.frombuffer(text, np.uint8)
        return characters[characters >= ord("0")] - ord("0")
    return np.fromstring(text, np.int32, sep=" ") if text.strip() else np.empty(0, np.int32)


def decoded(file: BinaryIO, image: ImageFile.ImageFile) -> Image.Image:
    """The image of which Pillow has read the header.

    Raises:
        EOFError: the file is truncated.
        ValueError: a value is larger than the header allows.
    """
    [tile] = image.tile
    arguments: Any = tile.args  # how the samples are stored, and the largest value; of bits no more than that
    bits = image.mode == "1"
    largest = 1 if bits else int(arguments[1])
    table = _table(largest, image.mode == "I")
    shape = (image.height, image.width, len(image.getbands()))
    file.seek(tile.offset)
    if tile.codec_name == PLAIN:
        values = _plain_values(file.read(), bits)[: np.prod(shape)]
        if values.size < np.prod(shape):
            raise EOFError(TRUNCATED)
        if values.min() < 0 or values.max() > largest:
            raise ValueError(f"a value is larger than {largest}, as the header states")
        pixels_YXC = (table[::-1] if bits else table)[values].reshape(shape)
    else:
        pixels_YXC = np.empty(shape, table.dtype)
        stored = np.dtype(">u2" if largest > 255 else np.uint8)
        rows = max(1, BLOCK_VALUES * shape[0] // pixels_YXC.size)
        for top in range(0, shape[0], rows):
            block_YXC = pixels_YXC[top : top + rows]
            if len(data := file.read(block_YXC.size * stored.itemsize)) < block_YXC.size * stored.itemsize:
                raise EOFError(TRUNCATED)
            values = np.minimum(np.frombuffer(data, stored), largest)
            block_YXC[...] = table[values].reshape(block_YXC.shape)
    return Image.fromarray(pixels_YXC[..., 0] if shape[2] == 1 else pixels_YXC)
