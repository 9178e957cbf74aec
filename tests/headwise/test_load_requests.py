"""Requests of a load generator."""

from pathlib import Path

import numpy as np
import pytest
from headwise import load_requests
from headwise.load_requests import make_requests, random_images, read_images
from headwise.v1.bundle_pb2 import ImageInput
from headwise.v1.service_pb2 import ClassifyRequest, ExplainRequest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image


@given(st.integers(1, 20), st.integers(1, 9))
def test_every_image_is_sent_and_every_call_is_full(images: int, images_per_call: int) -> None:
    """By both RPCs in the same order, with the model and version that were asked for."""
    files = [bytes([number]) for number in range(images)]
    requests = make_requests(list(files), images_per_call, "digits", "3")
    for kind, serialised in ((ClassifyRequest, requests.classify), (ExplainRequest, requests.explain)):
        parsed = [kind.FromString(data) for data in serialised]
        assert {len(request.images) for request in parsed} == {images_per_call}
        sent = [image.encoded for request in parsed for image in request.images]
        assert sent == (files * images_per_call)[: len(sent)]
        assert set(sent) == set(files)
        assert {(request.model, request.version) for request in parsed} == {("digits", "3")}


def test_random_images_have_the_models_size_and_follow_from_the_seed() -> None:
    """The same seed gives the same pixels, another one others."""
    first, same, other = (random_images(ImageInput(height=3, width=4, channels=2), 5, seed) for seed in (1, 1, 2))
    assert {(image.shape, image.dtype.name) for image in map(np.asarray, first)} == {((3, 4, 2), "uint8")}
    assert len(first) % 5 == 0
    np.testing.assert_array_equal(np.asarray(first), np.asarray(same))
    assert not np.array_equal(np.asarray(first), np.asarray(other))


def test_folder_gives_its_image_files_in_order(tmp_path: Path) -> None:
    """Also those in its folders; what is no image is left out."""
    (tmp_path / "b").mkdir()
    for number, name in enumerate(("c.png", "a.png", "b/z.png")):
        Image.new("L", (2, 2), number).save(tmp_path / name)
    (tmp_path / "labels.csv").write_text("a,0\n", "utf-8")
    assert read_images(tmp_path) == [(tmp_path / name).read_bytes() for name in ("a.png", "b/z.png", "c.png")]


def test_single_file_is_sent_as_it_is(tmp_path: Path) -> None:
    """Whether it is an image is for the server to say."""
    (tmp_path / "damaged.png").write_bytes(b"damaged")
    assert read_images(tmp_path / "damaged.png") == [b"damaged"]


def test_folder_without_images_is_refused(tmp_path: Path) -> None:
    """By its name."""
    with pytest.raises(ValueError, match=f"expected image files, found none in {tmp_path}"):
        read_images(tmp_path)


def test_folder_that_does_not_fit_in_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is read."""
    monkeypatch.setattr(load_requests, "MAX_BYTES", 1 << 20)
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(3 << 20)
    with pytest.raises(ValueError, match="at most 1 MiB of images, found 3 MiB"):
        read_images(tmp_path / "huge.png")


def test_no_images_are_refused() -> None:
    """There is nothing to send."""
    with pytest.raises(ValueError, match="found none"):
        make_requests([], 1)
