"""Images of a request to the uint8 tensor that the graphs take, as the bundle's manifest describes.

Size is checked before anything is decoded, so a small file that unpacks to gigabytes is refused at the cost of reading
its header. Encoded images are turned upright (EXIF), converted to the model's colour mode and resized to exactly its
size; of an animation the first frame counts. Tensors must have the model's size already.

Shape suffixes: N images, Y rows, X columns, C channels.
"""

import io

import numpy as np
from headwise.v1.bundle_pb2 import (
    COLOR_MODE_GRAYSCALE,
    COLOR_MODE_RGB,
    RESAMPLING_BICUBIC,
    RESAMPLING_BILINEAR,
    ImageInput,
)
from headwise.v1.service_pb2 import Image as ImageMessage
from headwise.v1.service_pb2 import ImageTensor
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from server.errors import InvalidArgument

MAX_PIXELS = 50_000_000
FORMATS = ("JPEG", "PNG", "WEBP")
MODES = {COLOR_MODE_GRAYSCALE: "L", COLOR_MODE_RGB: "RGB"}
RESAMPLINGS = {RESAMPLING_BILINEAR: Image.Resampling.BILINEAR, RESAMPLING_BICUBIC: Image.Resampling.BICUBIC}

Image.MAX_IMAGE_PIXELS = None  # ours is checked below; Pillow's would only warn between one and two times its limit


def _decode(data: bytes, expected: ImageInput, field: str) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                found = f"{image.width} x {image.height}"
                raise InvalidArgument(
                    field, f"expected at most {MAX_PIXELS:,} pixels, found {found}; send a smaller image."
                )
            if image.mode.startswith(("I", "F")):
                raise InvalidArgument(field, f"expected 8 bits a channel, found mode {image.mode}; convert the image.")
            upright = ImageOps.exif_transpose(image)
            converted = upright.convert(MODES[expected.color_mode])
    except UnidentifiedImageError:
        found = f"{len(data)} bytes of something else" if data else "no bytes"
        raise InvalidArgument(field, f"expected a JPEG, PNG or WebP image, found {found}.") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # what Pillow's decoders raise on damaged files
        raise InvalidArgument(field, f"expected a whole image, found a damaged or truncated one: {error}.") from error
    size = (expected.width, expected.height)
    if converted.size != size:
        converted = converted.resize(size, RESAMPLINGS[expected.resampling])
    return np.asarray(converted, dtype=np.uint8).reshape(expected.height, expected.width, expected.channels)


def _view(tensor: ImageTensor, expected: ImageInput, field: str) -> NDArray[np.uint8]:
    wanted = (expected.height, expected.width, expected.channels)
    found = (tensor.height, tensor.width, tensor.channels)
    if found != wanted:
        raise InvalidArgument(field, f"expected height, width, channels {wanted}, found {found}.")
    if len(tensor.data) != (size := int(np.prod(wanted))):
        raise InvalidArgument(f"{field}.data", f"expected {size} bytes, found {len(tensor.data)}.")
    return np.frombuffer(tensor.data, np.uint8).reshape(wanted)


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
