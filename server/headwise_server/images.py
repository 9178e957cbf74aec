"""Images of a request to the uint8 tensor that the graphs take, as the bundle's manifest describes.

Encoded images are decoded by `headwise.decoding`, as the exporter decodes those it trains on: a file gives the same
pixels in both. Tensors must have the model's size already.

Shape suffixes: N images, Y rows, X columns, C channels.
"""

import numpy as np
from headwise.decoding import Mode, Resampling, UnreadableImage, decode
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

from headwise_server.errors import InvalidArgument

MODES: dict[int, Mode] = {COLOR_MODE_GRAYSCALE: "L", COLOR_MODE_RGB: "RGB"}
RESAMPLINGS: dict[int, Resampling] = {RESAMPLING_BILINEAR: "bilinear", RESAMPLING_BICUBIC: "bicubic"}


def _decode(data: bytes, expected: ImageInput, field: str) -> NDArray[np.uint8]:
    try:
        return decode(
            data,
            expected.width,
            expected.height,
            MODES[expected.color_mode],
            centre=expected.framing == FRAMING_CENTER,
            resampling=RESAMPLINGS[expected.resampling],
        )
    except UnreadableImage as error:
        raise InvalidArgument(field, f"expected an image, found {error}.") from error


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
