"""16 bits a channel to 8.

Of 16 bits, the upper 8 of those in use are taken. In use are the fewest of 8, 10, 12, 14 or 16 bits that hold the
image's largest value, but no fewer than the file states (TIFF: BitsPerSample, MaxSampleValue; Netpbm, JPEG 2000 and
HEIC state the range of their values, which is scaled to all 16 bits). Values of 10 or 12 bits are often stored in 16
as they are, and would be black by their upper byte [our choice]. So an image that stays below a quarter of full scale
in every pixel is taken for one of fewer bits. PNG's sBIT says nothing about that: values with it fill the 16 bits.

Pillow gives colours of 16 bits by their upper byte alone. Where these bytes are all small, the file is read again in
the other byte order, which gives the lower ones. Grey with alpha and premultiplied colours in 16 bits are by their
upper byte.
"""

import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageFile

DEPTHS = (8, 10, 12, 14, 16)
STRIP_ROWS = 64
BITS_PER_SAMPLE, PHOTOMETRIC, MAX_SAMPLE_VALUE = 258, 262, 281  # TIFF tags
WHITE_IS_ZERO = 0
SCALED = ("ppm", "ppm_plain", "jpeg2k")  # decoders of Pillow that scale values to all 16 bits
TWO_BYTES = re.compile(r"(RGB|RGBA|RGBX|CMYK);16([BLN])")
SWAPPED = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


def _numbers(tag: Any) -> tuple[int, ...]:
    values = tag if isinstance(tag, tuple) else (tag,)
    return tuple(value for value in values if isinstance(value, int))


def stated_bits(image: ImageFile.ImageFile) -> int:
    """Bits that the file says its values have, of 8 to 16; 0 where it says no more than that there are 16.

    To be asked before the image is loaded.
    """
    if image.format == "HEIF" or (image.tile and image.tile[0].codec_name in SCALED):
        return 16
    tags = getattr(image, "tag_v2", {})
    bits = [*_numbers(tags.get(BITS_PER_SAMPLE)), *(n.bit_length() for n in _numbers(tags.get(MAX_SAMPLE_VALUE)))]
    return max((b for b in bits if DEPTHS[0] <= b < DEPTHS[-1]), default=0)


def _bits_in_use(largest: int, stated: int) -> int:
    return max(stated, next(bits for bits in DEPTHS if largest < 2**bits))


def greys_to_8_bits(image: Image.Image, stated: int) -> Callable[[Image.Image], Image.Image]:
    """What converts a part of this image of 16-bit greys to mode L, or to LA where one grey stands for transparent."""
    shift = _bits_in_use(int(np.max(image.getextrema())), stated) - 8
    inverted = getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO
    transparent = image.info.get("transparency")

    def convert(part: Image.Image) -> Image.Image:
        values_YX = np.asarray(part)
        grey_YX = (values_YX >> shift).astype(np.uint8)
        if inverted:
            grey_YX = ~grey_YX
        if not isinstance(transparent, int):
            return Image.fromarray(grey_YX)
        alpha_YX = np.where(values_YX == transparent, np.uint8(0), np.uint8(255))
        return Image.merge("LA", (Image.fromarray(grey_YX), Image.fromarray(alpha_YX)))

    return convert


def other_byte_order(image: ImageFile.ImageFile) -> list[ImageFile._Tile] | None:
    """The tiles that give the lower bytes of an image's colours; None where these have 8 bits, or cannot be had.

    To be asked before the image is loaded.
    """
    tiles = []
    for tile in image.tile:
        arguments = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        match = TWO_BYTES.fullmatch(arguments[0]) if arguments and isinstance(arguments[0], str) else None
        if match is None:
            return None
        swapped = (f"{match[1]};16{SWAPPED[match[2]]}", *arguments[1:])
        tiles.append(tile._replace(args=swapped if isinstance(tile.args, tuple) else swapped[0]))
    return tiles or None


def bits_of_colours(image: Image.Image, stated: int) -> int:
    """Bits in use in an image of 16 bits a channel that was loaded by its upper bytes."""
    extrema = np.array(image.getextrema()[: 4 if image.mode == "CMYK" else 3])  # alpha has all its bits
    return _bits_in_use(256 * int(extrema.max()), stated)


def add_lower_bytes(image: Image.Image, lower: Image.Image, bits: int) -> None:
    """Turn the upper bytes of colours into the upper 8 of the bits in use."""
    colours = 4 if image.mode == "CMYK" else 3
    for top in range(0, image.height, STRIP_ROWS):
        box = (0, top, image.width, min(top + STRIP_ROWS, image.height))
        values_YXC = np.array(image.crop(box))
        lower_YXC = np.asarray(lower.crop(box))[..., :colours]
        upper_YXC = values_YXC[..., :colours]
        values_YXC[..., :colours] = (upper_YXC << (16 - bits)) | (lower_YXC >> (bits - 8))
        image.paste(Image.fromarray(values_YXC, image.mode), (0, top))
