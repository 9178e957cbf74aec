"""Images as callers have them."""

import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from headwise import Url, inputs
from headwise.inputs import one_by_one, to_image
from PIL import Image

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


@pytest.mark.parametrize(
    ("image", "kind", "message"),
    [
        (3, TypeError, "expected a path, bytes, an open file, .* found int"),
        (np.zeros((8, 8)), ValueError, r"found an array of float64: of values in 0 to 1, pass \(255 \* image\)"),
        (np.zeros((8, 8), np.int64), ValueError, "found an array of int64: convert it"),
        (np.zeros((8, 8), bool), ValueError, "found an array of bool"),
        (np.zeros((3, 8, 8), np.uint8), ValueError, r"found \(3, 8, 8\): channels come last, image.transpose"),
        (np.zeros((8, 8, 4), np.uint8), ValueError, r"found \(8, 8, 4\): leave out the fourth channel"),
        (np.zeros((2, 8, 8, 3), np.uint8), ValueError, r"found \(2, 8, 8, 3\)"),
        (np.zeros((0, 8, 3), np.uint8), ValueError, r"found \(0, 8, 3\)"),
        ("/nonexistent.png", OSError, "No such file"),
        ("https://example.org/a.png", ValueError, r"to fetch it, pass headwise.Url\('https://example.org/a.png'\)"),
        (io.StringIO("text"), TypeError, "found one that gives str: open it with 'rb'"),
    ],
)
def test_what_is_no_image_is_refused_before_it_is_sent(image: Any, kind: type[Exception], message: str) -> None:
    """What was expected, what was found, and what to do."""
    with pytest.raises(kind, match=message):
        to_image(image)


def test_array_that_is_not_contiguous_is_sent_as_it_reads() -> None:
    """A transposed or cut array has the pixels one sees, not those of the memory behind it."""
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    assert to_image(pixels.T[:, ::2]).tensor.data == pixels.T[:, ::2].copy().tobytes()
    assert to_image(pixels).tensor.channels == 1


@pytest.mark.parametrize("pixels", [PIXELS, PIXELS[..., 0], PIXELS[..., :1]], ids=["colour", "grey", "one channel"])
def test_array_of_another_size_travels_as_a_file_of_the_same_pixels(pixels: np.ndarray) -> None:
    """At the model's own size as it is."""
    height, width, channels = pixels.reshape(5, 7, -1).shape
    assert to_image(pixels, (height, width, channels)).WhichOneof("content") == "tensor"
    with Image.open(io.BytesIO(to_image(pixels, (8, 8, 3)).encoded)) as file:
        np.testing.assert_array_equal(np.asarray(file).reshape(5, 7, -1), pixels.reshape(5, 7, -1))


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1", "CMYK", "I;16"])
def test_pil_image_travels_as_a_file_of_the_same_pixels(mode: str) -> None:
    """In any mode; what PNG has not becomes RGB."""
    image = Image.fromarray(PIXELS).convert("L" if mode == "I;16" else "RGB").convert(mode)
    with Image.open(io.BytesIO(to_image(image).encoded)) as file:
        expected = image.convert("RGB") if mode == "CMYK" else image
        np.testing.assert_array_equal(np.asarray(file.convert(expected.mode)), np.asarray(expected))


def test_pil_image_keeps_its_orientation_and_profile(tmp_path: Path) -> None:
    """It is seen by the server as the file that it was opened from."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turned
    Image.fromarray(PIXELS).save(tmp_path / "photo.png", exif=exif, icc_profile=b"profile")
    with Image.open(tmp_path / "photo.png") as opened:
        sent = to_image(opened).encoded
    with Image.open(io.BytesIO(sent)) as file:
        assert file.getexif()[0x0112] == 6
        assert file.info["icc_profile"] == b"profile"


@pytest.mark.parametrize(
    ("images", "count"),
    [
        (b"one", 1),
        ("one.png", 1),
        (Path("one.png"), 1),
        (PIXELS, 1),
        (PIXELS[..., 0], 1),
        (np.stack([PIXELS] * 4), 4),
        (Image.fromarray(PIXELS), 1),
        (io.BytesIO(b"one"), 1),
        (Url("https://example.org/a.png"), 1),
        ([b"one", "two.png", PIXELS], 3),
        (iter([b"one"]), 1),
        ([], 0),
    ],
)
def test_one_image_is_no_list_of_its_parts(images: Any, count: int) -> None:
    """A path is not its characters, an array not its rows."""
    assert len(list(one_by_one(images))) == count


def test_neither_one_nor_many_is_refused() -> None:
    """With what was expected."""
    with pytest.raises(TypeError, match=r"expected a path, .* or a list of such, found int"):
        list(one_by_one(3))  # type: ignore[arg-type]  # that is the mistake


def test_open_file_is_read_from_where_it_stands() -> None:
    """As `requests` and others have it."""
    assert to_image(io.BytesIO(b"image")).encoded == b"image"


@pytest.fixture
def address() -> Iterator[str]:
    """Where an image is served."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/image" else 404)
            self.end_headers()
            self.wfile.write(b"content")

        def log_message(self, format: str, *values: object) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_url_is_fetched_where_it_is_said_to_be_one(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not there or too large is an error; other schemes, such as files, are none."""
    assert to_image(Url(f"{address}/image")).encoded == b"content"
    with pytest.raises(OSError, match="404"):
        to_image(Url(f"{address}/none"))
    monkeypatch.setattr(inputs, "URL_BYTES", 3)
    with pytest.raises(ValueError, match="expected at most 0 MiB at"):
        to_image(Url(f"{address}/image"))
    with pytest.raises(ValueError, match="begins with http:// or https://, found 'file:///etc/passwd'"):
        Url("file:///etc/passwd")
