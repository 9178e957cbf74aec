"""An image file to pixels: the one decoder of the exporter, which trains on files, and the server, which is sent them.

In this order:
1. The content's signature says which format it is, and no other decoder sees it. Of an animation or a file of several
   pages the first image counts.
2. Its header says how many pixels it has, before any is decoded, and what decoding it takes (`headwise.header`, which
   has the limits). A large JPEG or JPEG 2000 is decoded at a reduced scale, of at least twice the size wanted:
   much faster, and close to the full decoding, not equal to it.
3. 16 bits a channel become 8: the upper 8 of those in use (`headwise.depth`). Transparent pixels are laid on white.
4. Framing and resizing in one step, antialiased (the filter's support is widened by the scale). Smaller images are
   scaled up. What has to be converted first is converted in strips (`headwise.resizing`), so no second copy of a large
   image is made.
5. The small result is turned as the EXIF orientation says, its colours are converted to sRGB by its ICC profile
   (`headwise.colour`), and it gets the model's colour mode, by Pillow's formulas.

Metadata never makes an image unreadable: an EXIF block that makes no sense is ignored, and so are texts and colour
profiles in a PNG that unpack to more than a megabyte. A file with thousands of chunks or segments is no such image.

Needs Pillow, which the extras [exporter] and [server] bring; nothing else in this package imports this module. The
extra [heif] adds HEIC.

Shape suffixes: Y rows, X columns, C channels.
"""

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError, features

from headwise import netpbm
from headwise.colour import to_srgb
from headwise.depth import add_lower_bytes, bits_of_colours, greys_to_8_bits, other_byte_order, stated_bits
from headwise.formats import RAW, UnreadableImage, kind_of
from headwise.header import CODECS, SIDEWAYS, DecodingCost, open_image, orientation
from headwise.resizing import SAMPLED, Convert, Resampling, frame, resized

try:
    import pillow_heif
except ModuleNotFoundError:
    HEIF = False
else:
    pillow_heif.register_heif_opener(thumbnails=False)
    HEIF = True

__all__ = [
    "TRANSFORM_VERSION",
    "DecodingCost",
    "Resampling",
    "UnreadableImage",
    "cost",
    "decode",
    "kind_of",
    "readable",
]

TRANSFORM_VERSION = 3  # to be counted up with every change of the pixels that come out
IN_MEMORY = 64 * 2**20  # bytes of a file that is read before it is decoded

Mode = Literal["L", "RGB"]

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
PLAIN = {"1": "L", "P": "RGB"}
PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}

Image.MAX_IMAGE_PIXELS = (
    None  # ours is checked by `headwise.header`; Pillow's would only warn between one and two times its limit
)
# Of metadata that make no sense; nobody could act on them, and strangers' images would fill the server's log.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


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


def _unchanged(part: Image.Image) -> Image.Image:
    return part


def _load(file: BinaryIO, kind: str, width: int, height: int) -> tuple[Image.Image, Convert]:
    """The image with all its pixels, or at a reduced scale, and what converts a part of it to 8 bits a channel."""
    opened, _ = open_image(file, kind, width, height)
    image: Image.Image = opened
    stated, tiles = stated_bits(opened), other_byte_order(opened)
    if opened.tile and opened.tile[0].codec_name in netpbm.CODECS:
        image = netpbm.decoded(file, opened)
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
            lower, _ = open_image(file, kind, width, height)
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


def _pixels(
    file: BinaryIO, kind: str, width: int, height: int, mode: Mode, centre: bool, resampling: Resampling
) -> NDArray[np.uint8]:
    image, to_8_bits = _load(file, kind, width, height)
    turn, profile = orientation(image), image.info.get("icc_profile")
    size = (height, width) if turn in SIDEWAYS else (width, height)
    converted = image.mode not in SAMPLED or image.has_transparency_data
    box = frame(image.size, size, centre)
    small = resized(image, lambda part: _flat(to_8_bits(part)), converted, size, box, resampling)
    if turn in TURNS:
        small = small.transpose(TURNS[turn])
    pixels_YXC = np.asarray(to_srgb(small, profile).convert(mode), dtype=np.uint8)
    return pixels_YXC.reshape(height, width, len(mode))


@contextmanager
def _explained(source: BinaryIO | bytes | Path) -> Iterator[tuple[BinaryIO, str]]:
    """A file and its format; whatever is raised of it becomes the reason why it is no image that can be used."""
    kind = None
    try:
        with _opened(source) as file:
            kind = kind_of(file)
            if kind not in readable():
                raise UnreadableImage(_refusal(kind, empty=not file.read(1)))
            yield file, kind
            return
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


def cost(source: BinaryIO | bytes | Path, width: int, height: int) -> DecodingCost:
    """What `decode` takes at most to make an image of that size, by the file's header; nothing is decoded.

    Raises:
        UnreadableImage: `decode` refuses the file by its header.
    """
    with _explained(source) as (file, kind):
        return open_image(file, kind, width, height)[1]


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
    with _explained(source) as (file, kind):
        return _pixels(file, kind, width, height, mode, centre, resampling)
