"""The picture that was sent, as a page shows it.

Shape suffixes: Y rows, X columns, C channels.
"""

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from headwise.v1 import service_pb2

LIMIT_BYTES = 2**21  # of a file that is shown; a notebook keeps every picture of its pages
SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"BM": "image/bmp",
}


def _media_type(content: bytes) -> str | None:
    """Of a file that browsers show."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    if content[4:12] == b"ftypavif":
        return "image/avif"
    return next((kind for signature, kind in SIGNATURES.items() if content.startswith(signature)), None)


def png(pixels_YXC: NDArray[np.uint8]) -> bytes:
    """A PNG file of grey or RGB pixels."""
    height, width, channels = pixels_YXC.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    lines = np.concatenate([np.zeros((height, 1), np.uint8), pixels_YXC.reshape(height, -1)], 1)  # each unfiltered
    data = zlib.compress(lines.tobytes())
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def data_uri(image: service_pb2.Image) -> str:
    """An image as it was sent, for the `src` of a page; empty where browsers do not show it, or it is too large."""
    content, kind = image.encoded, _media_type(image.encoded)
    if image.WhichOneof("content") == "tensor":
        tensor = image.tensor
        shape = (tensor.height, tensor.width, tensor.channels)
        content, kind = png(np.frombuffer(tensor.data, np.uint8).reshape(shape)), "image/png"
    if kind is None or len(content) > LIMIT_BYTES:
        return ""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
