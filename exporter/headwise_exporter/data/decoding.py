"""An image file to pixels: upright, RGB, square, at one size.

The image is turned as its EXIF orientation says and converted to RGB: grey and CMYK by Pillow's formulas, 16-bit grey
by its upper byte, transparent pixels laid on white. Of an animation the first frame counts. Then the shorter side is
scaled to the size and the centre square kept, in one step: the centre square is scaled, with bilinear interpolation and
antialiasing (support widened by the scale). Smaller images are scaled up.

JPEG files that are more than four times as large as wanted are decoded at a reduced scale ("draft") at least twice the
size: much faster, and close to the full decoding, not equal to it.

Shape suffixes: Y rows, X columns, C channels.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

TRANSFORM_VERSION = 1  # to be counted up with every change of the pixels that come out
CHANNELS = 3
MAX_PIXELS = 100_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
WHITE = (255, 255, 255, 255)

Image.MAX_IMAGE_PIXELS = None  # ours is checked below; Pillow's would only warn between one and two times its limit


def readable() -> tuple[str, ...]:
    """The names of the formats that are read, as `headwise.formats` calls them."""
    return ("JPEG", "PNG", "WebP", "BMP", "GIF", "TIFF")


class UnreadableImage(Exception):
    """A file is not an image that can be used; says why."""


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise UnreadableImage(f"expected 8 or 16 bits a channel, found mode {image.mode}")
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", coloured.size, WHITE), coloured)
    return image.convert("RGB")


def _centre_square(image: Image.Image, size: int) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)


def decode(path: Path, size: int) -> NDArray[np.uint8]:
    """The image of a file as (size, size, 3).

    Raises:
        UnreadableImage: the file is not an image, damaged, truncated or above `MAX_PIXELS`.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                size_found = f"{image.width} x {image.height}"
                raise UnreadableImage(f"expected at most {MAX_PIXELS:,} pixels, found {size_found}")
            image.draft(None, (2 * size, 2 * size))
            rgb = _to_rgb(ImageOps.exif_transpose(image))
        return np.asarray(_centre_square(rgb, size), dtype=np.uint8)
    except UnreadableImage:
        raise
    except UnidentifiedImageError:
        raise UnreadableImage("not a JPEG, PNG, WebP, BMP, GIF or TIFF image") from None
    except Exception as error:  # what Pillow's decoders raise on damaged files has no common base
        raise UnreadableImage(f"damaged or truncated: {error}") from error
