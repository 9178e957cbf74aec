"""Requests for a load generator, serialised once: what it sends must cost it next to nothing.

Shape suffixes: Y height, X width, C channels.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headwise import messages
from headwise.formats import kind_of
from headwise.inputs import ImageLike, to_image
from headwise.messages import Question
from headwise.v1.bundle_pb2 import ImageInput

RANDOM_REQUESTS = 8  # distinct ones, so that no cache of the processor holds all there is
MAX_BYTES = 256 * 2**20  # of image files


@dataclass(frozen=True)
class Requests:
    """Serialised requests of the same images for both RPCs, sent in turn."""

    classify: tuple[bytes, ...]
    explain: tuple[bytes, ...]
    images_per_call: int


def make_requests(images: list[ImageLike], images_per_call: int, model: str = "", version: str = "") -> Requests:
    """Requests that hold every image at least once; the last is filled up with the first images.

    Raises:
        ValueError: there are no images.
    """
    if not images:
        raise ValueError("expected images, found none")
    calls = -(-len(images) // images_per_call)
    encoded = [to_image(image) for image in images]
    filled = [encoded[number % len(images)] for number in range(calls * images_per_call)]
    parts = [filled[first : first + images_per_call] for first in range(0, len(filled), images_per_call)]
    return Requests(
        classify=tuple(messages.classify_request(part, model, version, 0).SerializeToString() for part in parts),
        explain=tuple(messages.explain_request(part, model, version, Question()).SerializeToString() for part in parts),
        images_per_call=images_per_call,
    )


def random_images(size: ImageInput, images_per_call: int, seed: int) -> list[ImageLike]:
    """Arrays (Y, X, C) of random pixels at the model's size."""
    shape = (RANDOM_REQUESTS * images_per_call, size.height, size.width, size.channels)
    return list(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


def _is_image(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return kind_of(file) is not None


def read_images(path: Path) -> list[ImageLike]:
    """The bytes of a file, or of every image file of a folder and its folders, in the order of their names.

    Raises:
        OSError: a file cannot be read.
        ValueError: no image file in the folder, or more than `MAX_BYTES`.
    """
    paths = sorted(filter(_is_image, path.rglob("*"))) if path.is_dir() else [path]
    if not paths:
        raise ValueError(f"expected image files, found none in {path}")
    if (size_bytes := sum(file.stat().st_size for file in paths)) > MAX_BYTES:
        raise ValueError(f"expected at most {MAX_BYTES >> 20} MiB of images, found {size_bytes >> 20} MiB in {path}")
    return [file.read_bytes() for file in paths]
