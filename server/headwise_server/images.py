"""Images of a request to the uint8 tensor that the graphs take, as the bundle's manifest describes.

Encoded images are decoded by `headwise.decoding`, as the exporter decodes those it trains on: a file gives the same
pixels in both. Tensors must have the model's size already.

Shape suffixes: N images, Y rows, X columns, C channels.
"""

import math

import numpy as np
from headwise.decoding import Mode, Resampling, UnreadableImage, cost, decode
from headwise.v1.bundle_pb2 import (
    COLOR_MODE_GRAYSCALE,
    COLOR_MODE_RGB,
    FRAMING_CENTER,
    RESAMPLING_BICUBIC,
    RESAMPLING_BILINEAR,
    ImageInput,
)
from headwise.v1.service_pb2 import Image as ImageMessage
from numpy.typing import NDArray

from headwise_server.errors import InvalidArgument

MODES: dict[int, Mode] = {COLOR_MODE_GRAYSCALE: "L", COLOR_MODE_RGB: "RGB"}
RESAMPLINGS: dict[int, Resampling] = {RESAMPLING_BILINEAR: "bilinear", RESAMPLING_BICUBIC: "bicubic"}


def decoding_bytes(data: bytes, expected: ImageInput, field: str, limit_bytes: int) -> int:
    """Memory that decoding takes, from the header alone.

    Args:
        field: the path of the image in the request, for the error.

    Raises:
        InvalidArgument: it is none that is read here, or it takes more than the limit.
    """
    try:
        size_bytes = cost(data, expected.width, expected.height).bytes
    except UnreadableImage as error:
        raise InvalidArgument(field, f"expected an image, found {error}.") from error
    if size_bytes > limit_bytes:
        raise InvalidArgument(
            field,
            f"expected an image that takes at most {limit_bytes / 2**20:.0f} MiB to decode, found one that takes "
            f"{size_bytes / 2**20:.0f} MiB. Send a smaller one.",
        )
    return size_bytes


def decoded(data: bytes, expected: ImageInput, field: str) -> NDArray[np.uint8]:
    """An image file as (Y, X, C).

    Raises:
        InvalidArgument: it is damaged, or none that is read here.
    """
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


def view(message: ImageMessage, expected: ImageInput, field: str) -> NDArray[np.uint8]:
    """A tensor as (Y, X, C), not copied.

    Raises:
        InvalidArgument: it has another size, or there is neither a tensor nor a file.
    """
    if message.WhichOneof("content") != "tensor":
        raise InvalidArgument(field, "expected `encoded` or `tensor`, found neither.")
    tensor = message.tensor
    expected_shape = (expected.height, expected.width, expected.channels)
    shape = (tensor.height, tensor.width, tensor.channels)
    if shape != expected_shape:
        raise InvalidArgument(f"{field}.tensor", f"expected height, width, channels {expected_shape}, found {shape}.")
    if len(tensor.data) != (size := math.prod(expected_shape)):
        raise InvalidArgument(f"{field}.tensor.data", f"expected {size} bytes, found {len(tensor.data)}.")
    return np.frombuffer(tensor.data, np.uint8).reshape(expected_shape)
