"""Images of a request to the uint8 tensor that the graphs take, as the bundle's manifest describes.

Size is checked before anything is decoded, so a small file that unpacks to gigabytes is refused at the cost of reading
its header. Encoded images are turned upright (EXIF), laid on white where they are transparent, converted to the model's
colour mode, framed and resized to exactly its size, as the exporter does with the images it trains on; of an animation
the first frame counts. Tensors must have the model's size already.

Shape suffixes: N images, Y rows, X columns, C channels.
"""

import io

import numpy as np
from headwise.v1.bundle_pb2 import (
    COLOR_MODE_GRAYSCALE,
    COLOR_MODE_RGB,
    FRAMING_CENTER,
    RESAMPLING_BICUBIC,
    RESAMPLING_BILINEAR,
    ImageInput,
)
from headwise.v1.service_pb2 import Image as ImageMessage
from headwise.v1.service_pb2 import ImageTensor
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from headwise_server.errors import InvalidArgument

MAX_PIXELS = 50_000_000
FORMATS = ("JPEG", "PNG", "WEBP")
MODES = {COLOR_MODE_GRAYSCALE: "L", COLOR_MODE_RGB: "RGB"}
RESAMPLINGS = {RESAMPLING_BILINEAR: Image.Resampling.BILINEAR, RESAMPLING_BICUBIC: Image.Resampling.BICUBIC}

Image.MAX_IMAGE_PIXELS = None  # ours is checked below; Pillow's would only warn between one and two times its limit


def _converted(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured).convert("RGB")
    return image.convert(mode)


def _frame(size: tuple[int, int], expected: ImageInput) -> tuple[float, float, float, float]:
    """The part of an image of that size that is kept: left, top, right, bottom."""
    width, height = size
    if expected.framing != FRAMING_CENTER:
        return (0, 0, width, height)
    scale = min(width / expected.width, height / expected.height)
    kept_width, kept_height = scale * expected.width, scale * expected.height
    left, top = (width - kept_width) / 2, (height - kept_height) / 2
    return (left, top, left + kept_width, top + kept_height)


def _decode(data: bytes, expected: ImageInput, field: str) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                pixels = f"{image.width} x {image.height}"
                raise InvalidArgument(
                    field, f"expected at most {MAX_PIXELS:,} pixels, found {pixels}; send a smaller image."
                )
            if image.mode in ("I", "F"):
                raise InvalidArgument(
                    field, f"expected 8 or 16 bits a channel, found mode {image.mode}; convert the image."
                )
            image.draft(None, (2 * expected.width, 2 * expected.height))  # large photos are read at a reduced scale
            converted = _converted(ImageOps.exif_transpose(image), MODES[expected.color_mode])
    except UnidentifiedImageError:
        content = f"{len(data)} bytes of something else" if data else "no bytes"
        raise InvalidArgument(field, f"expected a JPEG, PNG or WebP image, found {content}.") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # what Pillow's decoders raise on damaged files
        raise InvalidArgument(field, f"expected a whole image, found a damaged or truncated one: {error}.") from error
    size, box = (expected.width, expected.height), _frame(converted.size, expected)
    converted = converted.resize(size, RESAMPLINGS[expected.resampling], box=box)
    return np.asarray(converted, dtype=np.uint8).reshape(expected.height, expected.width, expected.channels)


def _view(tensor: ImageTensor, expected: ImageInput, field: str) -> NDArray[np.uint8]:
    expected_shape = (expected.height, expected.width, expected.channels)
    shape = (tensor.height, tensor.width, tensor.channels)
    if shape != expected_shape:
        raise InvalidArgument(field, f"expected height, width, channels {expected_shape}, found {shape}.")
    if len(tensor.data) != (size := int(np.prod(expected_shape))):
        raise InvalidArgument(f"{field}.data", f"expected {size} bytes, found {len(tensor.data)}.")
    return np.frombuffer(tensor.data, np.uint8).reshape(expected_shape)


def to_array(message: ImageMessage, expected: ImageInput, field: str) -> NDArray[np.uint8]:
    """One image of a request as (Y, X, C).

    Args:
        field: the path of the message in the request, for the error.

    Raises:
        InvalidArgument: not an image, damaged, too large, or a tensor of another size.
    """
    match message.WhichOneof("content"):
        case "encoded":
            return _decode(message.encoded, expected, f"{field}.encoded")
        case "tensor":
            return _view(message.tensor, expected, f"{field}.tensor")
        case _:
            raise InvalidArgument(field, "expected `encoded` or `tensor`, found neither.")
