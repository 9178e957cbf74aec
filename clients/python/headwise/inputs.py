"""Images as callers have them, and as the wire has them.

One image, or any number: paths, bytes, open files, PIL images, uint8 arrays, and `Url`, which alone is fetched. Arrays
at the model's size travel as they are, others as a Netpbm file, which the server resizes.
"""

import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from headwise.v1 import service_pb2

if TYPE_CHECKING:
    import PIL.Image

URL_SECONDS, URL_BYTES = 10.0, 32 * 2**20
URL_SCHEMES = ("http://", "https://")
NETPBM = {1: b"P5", 3: b"P6"}  # by channels
EXPECTED = "a path, bytes, an open file, a PIL image, a uint8 array or a headwise.Url"


class BinaryFile(Protocol):
    """A file that was opened for reading bytes."""

    def read(self, size: int = -1, /) -> bytes:
        """What is left of it."""
        ...


@dataclass(frozen=True)
class Url:
    """An image to be fetched by this client: by http or https, within 10 seconds, of at most 32 MiB."""

    address: str

    def __post_init__(self) -> None:
        if not self.address.startswith(URL_SCHEMES):
            raise ValueError(f"expected an address that begins with http:// or https://, found {self.address!r}")

    def fetch(self) -> bytes:
        """What is there.

        Raises:
            OSError: nothing is, or it cannot be had in time.
            ValueError: it is larger.
        """
        import urllib.request  # most callers never need it

        with urllib.request.urlopen(self.address, timeout=URL_SECONDS) as response:
            content: bytes = response.read(URL_BYTES + 1)
        if len(content) > URL_BYTES:
            raise ValueError(f"expected at most {URL_BYTES >> 20} MiB at {self.address}, found more")
        return content


ImageLike: TypeAlias = Union[
    bytes, bytearray, memoryview, str, PathLike[str], BinaryFile, NDArray[Any], "PIL.Image.Image", Url
]
Images: TypeAlias = ImageLike | Iterable[ImageLike]
Size = tuple[int, int, int]  # height, width, channels


def is_pil(image: Any) -> bool:
    """Whether it is a PIL image; Pillow is not imported for that."""
    return any(kind.__module__ == "PIL.Image" and kind.__name__ == "Image" for kind in type(image).__mro__)


def one_by_one(images: Images) -> Iterator[ImageLike]:
    """Each image of one or many; an array of two or three axes is one image."""
    single = isinstance(images, (bytes, bytearray, memoryview, str, PathLike, Url)) or is_pil(images)
    if isinstance(images, np.ndarray):
        single = images.ndim < 4
    if single or hasattr(images, "read"):
        yield images  # type: ignore[misc]  # one image: mypy does not follow the checks above
        return
    if not isinstance(images, Iterable):
        raise TypeError(f"expected {EXPECTED}, or a list of such, found {type(images).__name__}")
    yield from images  # type: ignore[misc]  # many: nor here


def _pixels(array: NDArray[Any]) -> NDArray[np.uint8]:
    """An array (height, width, channels).

    Raises:
        ValueError: it has another type or number of axes; the message says what to do.
    """
    if array.dtype != np.uint8:
        found, advice = f"an array of {array.dtype}", "convert it"
        if array.dtype.kind == "f":
            advice = "of values in 0 to 1, pass (255 * image).round().astype('uint8')"
        raise ValueError(f"expected a uint8 array of values in 0 to 255, found {found}: {advice}")
    pixels_YXC = array[..., np.newaxis] if array.ndim == 2 else array
    if pixels_YXC.ndim == 3 and pixels_YXC.shape[2] in NETPBM and pixels_YXC.size:
        return pixels_YXC
    advice = ""
    if array.ndim == 3 and array.shape[0] in NETPBM:
        advice = ": channels come last, image.transpose(1, 2, 0)"
    elif array.ndim == 3 and array.shape[2] == 4:
        advice = ": leave out the fourth channel, image[..., :3]"
    raise ValueError(f"expected an array (height, width, channels) with 1 or 3 channels, found {array.shape}{advice}")


def _from_array(array: NDArray[Any], size: Size | None) -> service_pb2.Image:
    pixels_YXC = _pixels(array)
    height, width, channels = pixels_YXC.shape
    if size is None or size == pixels_YXC.shape:
        tensor = service_pb2.ImageTensor(height=height, width=width, channels=channels, data=pixels_YXC.tobytes())
        return service_pb2.Image(tensor=tensor)
    header = b"%s\n%d %d\n255\n" % (NETPBM[channels], width, height)
    return service_pb2.Image(encoded=header + pixels_YXC.tobytes())


def _from_pil(image: Any) -> bytes:
    """A PNG of the same pixels, turned and coloured as the image says."""
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        image = image.convert("RGB")
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1, exif=image.getexif(), icc_profile=image.info.get("icc_profile"))
    return file.getvalue()


def _from_file(file: BinaryFile) -> bytes:
    content = file.read()
    if not isinstance(content, bytes):
        raise TypeError(f"expected a file of bytes, found one that gives {type(content).__name__}: open it with 'rb'")
    return content


def to_image(image: ImageLike, size: Size | None = None) -> service_pb2.Image:
    """One image as the wire has it.

    Args:
        size: that the model takes; an array of another goes as a file. None: every array goes as it is.

    Raises:
        TypeError: it is no image.
        ValueError: an array of another type or number of axes, an address that was not said to be one, or too much.
        OSError: it cannot be read.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image, size)
    if isinstance(image, (bytes, bytearray, memoryview)):
        content = bytes(image)
    elif isinstance(image, Url):
        content = image.fetch()
    elif isinstance(image, (str, PathLike)):
        if os.fspath(image).startswith(URL_SCHEMES):
            raise ValueError(f"expected a path, found the address {image}: to fetch it, pass headwise.Url({image!r})")
        content = Path(image).read_bytes()
    elif is_pil(image):
        content = _from_pil(image)
    elif hasattr(image, "read"):
        content = _from_file(image)
    else:
        raise TypeError(f"expected {EXPECTED}, found {type(image).__name__}")
    return service_pb2.Image(encoded=content)
