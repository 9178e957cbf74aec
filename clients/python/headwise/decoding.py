"""An image file to pixels: the one decoder of the exporter, which trains on files, and the server, which is sent them.

In this order:
1. The content's signature says which format it is, and no other decoder sees it. Of an animation or a file of several
   pages the first image counts.
2. Its header says how many pixels it has, before any is decoded: `MAX_PIXELS` at most. A JPEG whose scans need not be
   held in memory may have `MAX_JPEG_PIXELS`, since large ones are decoded at a reduced scale ("draft"), of at least
   twice the size wanted: much faster, and close to the full decoding, not equal to it.
3. 16 bits a channel become 8: the upper 8 of those in use (`headwise.depth`). Transparent pixels are laid on white.
4. Framing and resizing in one step, antialiased (the filter's support is widened by the scale). Smaller images are
   scaled up. What has to be converted first is converted in strips, so no second copy of a large image is made.
5. The small result is turned as the EXIF orientation says, its colours are converted to sRGB by its ICC profile
   (`headwise.colour`), and it gets the model's colour mode, by Pillow's formulas.

Metadata never makes an image unreadable: an EXIF block that makes no sense is ignored, and so are texts and colour
profiles in a PNG that unpack to more than a megabyte.

Needs Pillow, which the extras [exporter] and [server] bring; nothing else in this package imports this module. The
extra [heif] adds HEIC.

Shape suffixes: Y rows, X columns, C channels.
"""

import io
import math
import os
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError, features

from headwise import netpbm
from headwise.colour import to_srgb
from headwise.depth import add_lower_bytes, bits_of_colours, greys_to_8_bits, other_byte_order, stated_bits
from headwise.formats import RAW, kind_of
from headwise.png import without_large_metadata

try:
    import pillow_heif
except ModuleNotFoundError:
    HEIF = False
else:
    pillow_heif.register_heif_opener(thumbnails=False)
    HEIF = True

__all__ = ["MAX_JPEG_PIXELS", "MAX_PIXELS", "TRANSFORM_VERSION", "UnreadableImage", "decode", "kind_of", "readable"]

TRANSFORM_VERSION = 2  # to be counted up with every change of the pixels that come out
MAX_PIXELS = 100_000_000
MAX_JPEG_PIXELS = 250_000_000
MAX_PLAIN_PIXELS = 10_000_000  # of a Netpbm file in decimal digits, which take a second for a million
PIXEL_LIMITS = {"WebP": 64_000_000, "JPEG 2000": 64_000_000}  # whose decoders take 15 and 19 bytes for each pixel
IN_MEMORY = 64 * 2**20  # bytes of a file that is read before it is decoded
STRIP_PIXELS = 2**22  # of a large image are converted at a time
SUPPORT = 2  # pixels to each side that the widest filter, bicubic, reads at scale 1

Mode = Literal["L", "RGB"]
Resampling = Literal["bilinear", "bicubic"]
Box = tuple[float, float, float, float]  # left, top, right, bottom
Convert = Callable[[Image.Image], Image.Image]

RESAMPLINGS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
CODECS = {  # Pillow's name of each format, and what its build must have to read it
    "JPEG": ("JPEG", "jpg"),
    "PNG": ("PNG", "zlib"),
    "WebP": ("WEBP", "webp"),
    "BMP": ("BMP", None),
    "GIF": ("GIF", None),
    "TIFF": ("TIFF", "libtiff"),
    "AVIF": ("AVIF", "avif"),
    "JPEG 2000": ("JPEG2000", "jpg_2000"),
    "Netpbm": ("PPM", None),
    "HEIC": ("HEIF", None),
}
ADVICE = {
    "HEIC": "which needs: pip install 'headwise[heif]'",
    RAW: "which is not read; develop it to JPEG or TIFF",
    "video": "which is not read; save a frame of it as PNG or JPEG",
}
NOUNS = {RAW: " file", "PDF": " file", "PostScript": " file", "SVG": " drawing", "video": ""}
TURNS = {  # what undoes each EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)
ORIENTATION = 274  # of EXIF
START_OF_SCAN = 0xDA  # of a JPEG, as the next two
FRAMES, SEQUENTIAL = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}, {0xC0, 0xC1}
SAMPLED = ("L", "RGB", "CMYK", "YCbCr", "LAB")  # modes that are resized as they are
PLAIN = {"1": "L", "P": "RGB"}
PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}

Image.MAX_IMAGE_PIXELS = None  # ours is checked below; Pillow's would only warn between one and two times its limit
# Of metadata that make no sense; nobody could act on them, and strangers' images would fill the server's log.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


class UnreadableImage(Exception):
    """Why a file is no image that can be used, as a fragment: "a damaged or truncated PNG: ..."."""


def readable() -> tuple[str, ...]:
    """The names of the formats that are read here: by this Pillow, and HEIC where `pillow_heif` is installed."""
    return tuple(
        kind
        for kind, (_, feature) in CODECS.items()
        if (HEIF if kind == "HEIC" else feature is None or features.check(feature))
    )


def _with_article(kind: str) -> str:
    noun = NOUNS.get(kind, " image")
    return f"{'an' if kind[0] in 'AIOSX' else 'a'} {kind}{noun}"


def _refusal(kind: str | None, empty: bool) -> str:
    """Why a file of that kind is not decoded."""
    if empty:
        return "an empty file"
    if kind is None:
        return f"no image that is read here ({', '.join(readable())})"
    return f"{_with_article(kind)}, {ADVICE.get(kind, 'which is not read; convert it to PNG or JPEG')}"


@contextmanager
def _opened(source: BinaryIO | bytes | Path) -> Iterator[BinaryIO]:
    if isinstance(source, bytes):
        yield io.BytesIO(source)
    elif isinstance(source, Path):
        with source.open("rb") as file:
            # As a request is, since decoders may do otherwise with a damaged file on a disk than with one in memory.
            in_memory = os.fstat(file.fileno()).st_size <= IN_MEMORY and kind_of(file) in readable()
            yield io.BytesIO(file.read()) if in_memory else file
    else:
        yield source


def _is_scanned_once(file: BinaryIO) -> bool:
    """Whether a JPEG is sequential, with all components in one scan: libjpeg then keeps no coefficients in memory."""
    file.seek(2)
    components = 0
    while len(head := file.read(4)) == 4:
        while head[1] == 0xFF:  # bytes that fill
            head = head[1:] + file.read(1)
        _, marker, length = struct.unpack(">BBH", head)
        if marker == START_OF_SCAN:
            return file.read(1) == bytes([components])
        if marker in FRAMES:
            if marker not in SEQUENTIAL:
                return False
            components = (file.read(6) + bytes(6))[5]
            length -= 6
        file.seek(length - 2, io.SEEK_CUR)
    return False


def _check_pixels(image: Image.Image, limit: int) -> None:
    if image.width * image.height > limit:
        size = f"{image.width} x {image.height}"
        raise UnreadableImage(f"an image of {size} pixels, more than {limit:,}; scale it down")


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:  # what Pillow raises on EXIF blocks that make no sense has no common base
        return 1
    return orientation if orientation in TURNS else 1


def _unchanged(part: Image.Image) -> Image.Image:
    return part


def _open(file: BinaryIO, kind: str, width: int, height: int) -> ImageFile.ImageFile:
    """The image with its header read and checked; of a JPEG the reduced scale is chosen."""
    scanned_once = kind == "JPEG" and _is_scanned_once(file)
    image = Image.open(file, formats=(CODECS[kind][0],))
    if kind == "JPEG":
        _check_pixels(image, MAX_JPEG_PIXELS if scanned_once else MAX_PIXELS)
        turned = _orientation(image) in SIDEWAYS
        image.draft(None, (2 * height, 2 * width) if turned else (2 * width, 2 * height))
    plain = kind == "Netpbm" and image.tile[0].codec_name == "ppm_plain"
    _check_pixels(image, MAX_PLAIN_PIXELS if plain else PIXEL_LIMITS.get(kind, MAX_PIXELS))
    if image.mode == "F" or (image.mode == "I" and kind != "Netpbm"):
        raise UnreadableImage(f"an image of 32 bits a channel (mode {image.mode}); save it with 8 or 16")
    return image


def _load(file: BinaryIO, kind: str, width: int, height: int) -> tuple[Image.Image, Convert]:
    """The image with all its pixels, or at a reduced scale, and what converts a part of it to 8 bits a channel."""
    image: Image.Image = (opened := _open(file, kind, width, height))
    stated, tiles = stated_bits(opened), other_byte_order(opened)
    if opened.tile and opened.tile[0].codec_name == netpbm.CODEC:
        image = netpbm.scaled(file, opened)
    else:
        image.load()
    if image.mode == "I;16B":  # of which Pillow can take no part
        image = Image.fromarray(np.asarray(image).astype(np.uint16))
    if image.mode.startswith("I"):
        return image, greys_to_8_bits(image, stated)
    if tiles is not None:
        if isinstance(colour := image.info.get("transparency"), tuple):
            image.info["transparency"] = tuple(value >> 8 for value in colour)
        if (bits := bits_of_colours(image, stated)) < 16:
            lower = _open(file, kind, width, height)
            lower.tile = tiles
            lower.load()
            add_lower_bytes(image, lower, bits)
    return image, _unchanged


def _flat(image: Image.Image) -> Image.Image:
    """An image as a mode that can be resized, transparent pixels laid on white."""
    if image.mode in PREMULTIPLIED:
        image = image.convert(PREMULTIPLIED[image.mode])
    if not image.has_transparency_data:
        return image.convert(PLAIN[image.mode]) if image.mode in PLAIN else image
    grey = image.mode in ("1", "L", "LA")
    coloured = image.convert("RGBA")
    flat = Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured)
    return flat.convert("L" if grey else "RGB")


def _frame(size: tuple[int, int], width: int, height: int, centre: bool) -> Box:
    """The part of an image of that size that is kept: left, top, right, bottom."""
    if not centre:
        return (0, 0, *size)
    wide = size[0] * height > size[1] * width
    kept_width = size[1] * width / height if wide else size[0]
    kept_height = size[1] if wide else size[0] * height / width
    left, top = (size[0] - kept_width) / 2, (size[1] - kept_height) / 2
    return (left, top, left + kept_width, top + kept_height)


def _resized(image: Image.Image, convert: Convert, size: tuple[int, int], box: Box, filter_: Resampling) -> Image.Image:
    """The box of an image at a size; a large image is converted in strips."""
    if image.width * image.height <= STRIP_PIXELS or (image.mode in SAMPLED and not image.has_transparency_data):
        return convert(image).resize(size, RESAMPLINGS[filter_], box=box)
    width, height = size
    scale = (box[3] - box[1]) / height
    margin = SUPPORT * max(scale, 1) + 1
    rows = max(1, height * STRIP_PIXELS // (image.width * image.height))
    parts: list[Image.Image] = []
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        upper, lower = box[1] + scale * top, box[1] + scale * bottom
        first, last = max(0, math.floor(upper - margin)), min(image.height, math.ceil(lower + margin))
        strip = convert(image.crop((0, first, image.width, last)))
        part_box = (box[0], upper - first, box[2], min(lower - first, strip.height))
        parts.append(strip.resize((width, bottom - top), RESAMPLINGS[filter_], box=part_box))
    return Image.fromarray(np.concatenate([np.asarray(part) for part in parts]))


def _pixels(
    file: BinaryIO, kind: str, width: int, height: int, mode: Mode, centre: bool, resampling: Resampling
) -> NDArray[np.uint8]:
    image, to_8_bits = _load(without_large_metadata(file) if kind == "PNG" else file, kind, width, height)
    orientation, profile = _orientation(image), image.info.get("icc_profile")
    size = (height, width) if orientation in SIDEWAYS else (width, height)
    box = _frame(image.size, *size, centre)
    small = _resized(image, lambda part: _flat(to_8_bits(part)), size, box, resampling)
    if orientation in TURNS:
        small = small.transpose(TURNS[orientation])
    pixels_YXC = np.asarray(to_srgb(small, profile).convert(mode), dtype=np.uint8)
    return pixels_YXC.reshape(height, width, len(mode))


def decode(
    source: BinaryIO | bytes | Path,
    width: int,
    height: int,
    mode: Mode = "RGB",
    *,
    centre: bool = True,
    resampling: Resampling = "bilinear",
) -> NDArray[np.uint8]:
    """The image of a file as (height, width, 3), or (height, width, 1) in mode L.

    Args:
        source: the content, a path, or a file that can be searched, from its start.
        width: in pixels, as `height`.
        centre: keep the largest centred part of the shape wanted; otherwise the whole image is stretched to it.

    Raises:
        UnreadableImage: the file cannot be read, or is no image that is read here, damaged, truncated or too large.
    """
    kind = None
    try:
        with _opened(source) as file:
            kind = kind_of(file)
            if kind not in readable():
                raise UnreadableImage(_refusal(kind, empty=not file.read(1)))
            return _pixels(file, kind, width, height, mode, centre, resampling)
    except UnreadableImage:
        raise
    except UnidentifiedImageError:
        reason = "its header makes no sense, or is of a variant that is not read"
    except MemoryError:
        raise UnreadableImage("an image that takes more memory than there is") from None
    except OSError as error:
        if error.errno:
            raise UnreadableImage(f"a file that cannot be read: {error.strerror}") from error
        reason = str(error)
    except Exception as error:  # what decoders raise on damaged files has no common base
        reason = str(error) or type(error).__name__
    raise UnreadableImage(f"a damaged or truncated {kind}: {' '.join(reason.split())}")
