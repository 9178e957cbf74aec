"""Images and numbers as the wire has them."""

import numpy as np
import support
from headwise.v1 import service_pb2 as pb

SECONDS = support.LONG_SECONDS
IMAGES = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1), dtype=np.uint8)


def tensor(image_YXC: np.ndarray) -> pb.Image:
    """An image as a raw tensor."""
    height, width, channels = image_YXC.shape
    return pb.Image(tensor=pb.ImageTensor(height=height, width=width, channels=channels, data=image_YXC.tobytes()))


def floats(data: bytes) -> np.ndarray:
    """A tensor of a reply."""
    return np.frombuffer(data, "<f4")
