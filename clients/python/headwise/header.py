"""What the header of an image file says: whether it is read here, and what its decoding takes at most.

Nothing is decoded. A file is refused by its header when it has too many pixels, or is built to cost time or memory out
of all proportion: thousands of scans, strips, chunks or segments, or more than `MAX_BYTES`. What is left has a cost:

    bytes = the decoder's own + Pillow's image, twice where it is read twice + the strip that is converted and resized
            + copies of the file + `SMALL_BYTES`

The decoders' own bytes for each pixel are those measured, rounded up (`results/decoding_memory.json`, Pillow 13.0.0);
of JPEG, JPEG 2000 and TIFF they follow from what the header states.
"""

from dataclasses import dataclass
from io import SEEK_END
from typing import BinaryIO

from PIL import Image, ImageFile

from headwise import avif, gif, jpeg, jpeg2000, netpbm, png, tiff
from headwise.depth import other_byte_order
from headwise.formats import UnreadableImage
from headwise.resizing import ROW_BYTES, SAMPLED, Size, working_bytes

MAX_PIXELS = 100_000_000
MAX_JPEG_PIXELS = 250_000_000
MAX_PLAIN_PIXELS = 10_000_000  # of a Netpbm file in decimal digits
MAX_RUN_PIXELS = 4_000_000  # of a run-length encoded BMP, which Pillow unpacks in Python: seconds for a million
PIXEL_LIMITS = {"WebP": 64_000_000, "JPEG 2000": 64_000_000}  # whose decoders take 15 and 24 bytes for each pixel
MAX_LOCKED_PIXELS = 16_000_000  # that OpenJPEG decodes, since Pillow holds Python's lock for seconds meanwhile
MAX_BYTES = 2 * 2**30  # more than any image within these limits takes that is not built for it

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
SIDEWAYS = (5, 6, 7, 8)
TURNED = (2, 3, 4, *SIDEWAYS)
ORIENTATION = 274  # of EXIF

SMALL_BYTES = 8 * 2**20  # rows, tables, colour conversions, what the allocator rounds up
STORED_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}  # of a pixel of Pillow's images; else 4
DECODER_BYTES = {"WebP": 13, "AVIF": 14, "HEIC": 14, "GIF": 1}  # of a pixel, beside Pillow's image
COPIES = {"WebP": 2, "AVIF": 2, "HEIC": 2, "TIFF": 1}  # of the file
MAX_PLANES = 5  # that a TIFF image may store one after the other: CMYK and alpha
CONVERTED_BYTES = {"1": 8, "P": 12, "I;16": 14, "I;16B": 14, "I;16L": 14, "I": 20}  # of a pixel of a strip
LAID_BYTES = 24  # of a pixel of a strip that is laid on white: cut out, as RGBA, white, both, as RGB
SWAPPED_BYTES = 8  # of a pixel of 16-bit greys whose bytes are exchanged
JPEG_ROW_BYTES = 256  # of a pixel of the rows that libjpeg works on


@dataclass(frozen=True)
class DecodingCost:
    """What decoding an image takes at most."""

    pixels: int  # that its header states
    bytes: int  # of memory at a time, beside the content


def _check_pixels(width: int, height: int, limit: int) -> None:
    if width * height > limit:
        raise UnreadableImage(f"an image of {width} x {height} pixels, more than {limit:,}; scale it down")


def _stored_bytes(mode: str, size: Size) -> int:
    """Of an image in Pillow's memory."""
    return size[1] * (size[0] * STORED_BYTES.get(mode, 4) + ROW_BYTES)


def orientation(image: Image.Image) -> int:
    """By EXIF; 1, upright, where it says nothing that makes sense."""
    try:
        number = image.getexif().get(ORIENTATION)
    except Exception:  # what Pillow raises on EXIF blocks that make no sense has no common base
        return 1
    return number if number in TURNED else 1


def _open_jpeg(file: BinaryIO) -> tuple[ImageFile.ImageFile, int]:
    """The image, and what libjpeg and the metadata take."""
    header = jpeg.read_header(file)
    limit = MAX_PIXELS if header.coefficient_bytes else MAX_JPEG_PIXELS
    _check_pixels(header.width, header.height, limit)
    file.seek(0)
    image = Image.open(file, formats=("JPEG",))
    _check_pixels(image.width, image.height, limit)
    return image, header.coefficient_bytes + header.width * JPEG_ROW_BYTES + 4 * header.metadata_bytes


def _open_png(file: BinaryIO) -> tuple[ImageFile.ImageFile, int]:
    """The image, and what its texts, profiles and other chunks take."""
    file, taken = png.without_large_metadata(file)
    return Image.open(file, formats=("PNG",)), taken


def _open_tiff(file: BinaryIO) -> tuple[ImageFile.ImageFile, int]:
    """The image, and what a strip or tile and the tags take."""
    entries = tiff.directory(file)
    values = sum(entry.values for entry in entries if entry.type not in tiff.RAW_BYTES)
    if values > tiff.MAX_VALUES or len(entries) == tiff.MAX_ENTRIES:
        raise UnreadableImage("a TIFF image with more tags, strips or tiles than encoders write; save it again")
    file.seek(0)
    image = Image.open(file, formats=("TIFF",))
    extents = [tile.extents or (0, 0, *image.size) for tile in image.tile]
    covered = sum((right - left) * (lower - upper) for left, upper, right, lower in extents)
    if covered > image.width * image.height * MAX_PLANES:
        raise UnreadableImage("a TIFF image with more strips or tiles than its size needs; save it again")
    tags = getattr(image, "tag_v2", {})
    decoder_bytes = tiff.decoder_bytes(tags, image.width, image.height)
    return image, decoder_bytes + values * tiff.VALUE_BYTES + len(image.tile) * tiff.TILE_BYTES


def _as_pillow_rounds(size: Size, reduction: int) -> Size:
    """The size at a reduced scale that Pillow expects; where OpenJPEG gives another, it fails."""
    return (size[0] + 2**reduction // 2) >> reduction, (size[1] + 2**reduction // 2) >> reduction


def _open_jpeg2000(file: BinaryIO, width: int, height: int) -> tuple[ImageFile.ImageFile, int, Size]:
    """The image, to be decoded at a reduced scale, what OpenJPEG takes, and the size that comes out."""
    header = jpeg2000.read_header(file)
    file.seek(0)
    image = Image.open(file, formats=("JPEG2000",))
    if header is None:
        return image, 0, image.size
    _check_pixels(*header.size(0), PIXEL_LIMITS["JPEG 2000"])
    scale = min(image.width // (2 * width), image.height // (2 * height))
    reduction = min(max(scale.bit_length() - 1, 0), header.levels)
    while _as_pillow_rounds(image.size, reduction) != header.size(reduction) and reduction:
        reduction -= 1
    _check_pixels(*header.size(reduction), MAX_LOCKED_PIXELS)
    image.reduce = reduction  # type: ignore[method-assign,assignment]  # Pillow's own way
    return image, header.decoder_bytes(reduction), header.size(reduction)


def _open_netpbm(file: BinaryIO) -> tuple[ImageFile.ImageFile, int]:
    """The image, and what NumPy takes of one that Pillow would read value by value."""
    netpbm.check_header(file)
    image = Image.open(file, formats=("PPM",))
    own = image.tile[0].codec_name in netpbm.CODECS
    plain = image.tile[0].codec_name == netpbm.PLAIN
    if plain:
        _check_pixels(image.width, image.height, MAX_PLAIN_PIXELS)
    values = image.width * image.height * len(image.getbands()) if own else 0
    if plain:
        return image, values * netpbm.PLAIN_VALUE_BYTES + netpbm.TEXT_COPIES * file.seek(0, SEEK_END)
    return image, values * netpbm.VALUE_BYTES


def _open_bmp(file: BinaryIO) -> tuple[ImageFile.ImageFile, int]:
    """The image, and what unpacking it in Python takes."""
    image = Image.open(file, formats=("BMP",))
    if image.tile and image.tile[0].codec_name == "bmp_rle":
        _check_pixels(image.width, image.height, MAX_RUN_PIXELS)
        return image, 3 * image.width * image.height
    return image, 0


def _open_gif(file: BinaryIO) -> tuple[ImageFile.ImageFile, int]:
    """The image, and what its comments take."""
    blocks, block_bytes = gif.before_image(file)
    file.seek(0)
    return Image.open(file, formats=("GIF",)), 3 * block_bytes + blocks * gif.BLOCK_BYTES


def _open_avif(file: BinaryIO) -> tuple[ImageFile.ImageFile, int]:
    """The image, and what its frames take that are larger than it says."""
    coded_pixels = avif.coded_pixels(file)
    file.seek(0)
    image = Image.open(file, formats=("AVIF",))
    if coded_pixels > MAX_PIXELS:
        raise UnreadableImage(
            f"an AVIF image whose frames have {coded_pixels:,} pixels, more than {MAX_PIXELS:,}; scale it down"
        )
    return image, max(0, coded_pixels - image.width * image.height) * DECODER_BYTES["AVIF"]


OPENERS = {
    "AVIF": _open_avif,
    "GIF": _open_gif,
    "JPEG": _open_jpeg,
    "PNG": _open_png,
    "TIFF": _open_tiff,
    "Netpbm": _open_netpbm,
    "BMP": _open_bmp,
}


def open_image(file: BinaryIO, kind: str, width: int, height: int) -> tuple[ImageFile.ImageFile, DecodingCost]:
    """The image with its header read and checked, of a JPEG at a reduced scale; and what decoding it takes.

    Args:
        file: of a format of `CODECS`, from its start.
        width: wanted, in pixels, as `height`.

    Raises:
        UnreadableImage: what the header says is refused.
        Exception: what Pillow raises of a header that makes no sense; it has no common base.
    """
    size = None
    if kind == "JPEG 2000":
        image, own, size = _open_jpeg2000(file, width, height)
    elif kind in OPENERS:
        image, own = OPENERS[kind](file)
    else:
        image, own = Image.open(file, formats=(CODECS[kind][0],)), 0
    pixels = image.width * image.height
    if kind == "JPEG":
        turned = orientation(image) in SIDEWAYS
        image.draft(None, (2 * height, 2 * width) if turned else (2 * width, 2 * height))
    _check_pixels(image.width, image.height, PIXEL_LIMITS.get(kind, MAX_PIXELS))
    if image.mode == "F" or (image.mode == "I" and kind != "Netpbm"):
        raise UnreadableImage(f"an image of 32 bits a channel (mode {image.mode}); save it with 8 or 16")
    file_bytes = file.seek(0, SEEK_END)
    size = size or image.size
    again = _stored_bytes(image.mode, size) if other_byte_order(image) is not None else 0
    again += pixels * SWAPPED_BYTES if image.mode == "I;16B" else 0
    own += pixels * DECODER_BYTES.get(kind, 0) + file_bytes * COPIES.get(kind, 0)
    converted_bytes = 0 if image.mode in SAMPLED else CONVERTED_BYTES.get(image.mode, LAID_BYTES)
    converted_bytes = LAID_BYTES if image.has_transparency_data else converted_bytes
    wanted = ((width, height), (height, width))  # as it lies, and turned
    working = max(working_bytes(size, upright, converted_bytes) for upright in wanted)
    cost = DecodingCost(pixels, SMALL_BYTES + _stored_bytes(image.mode, size) + own + again + working)
    if cost.bytes > MAX_BYTES:
        taken = f"{cost.bytes // 2**20:,} MiB, more than {MAX_BYTES // 2**20:,}"
        raise UnreadableImage(f"an image whose decoding takes up to {taken}; scale it down, or save it as PNG or JPEG")
    return image, cost
