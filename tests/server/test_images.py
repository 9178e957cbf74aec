"""Images of a request to the tensor that the graphs take."""

import contextlib
import io
import struct
import zlib
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from headwise.v1.bundle_pb2 import (
    COLOR_MODE_GRAYSCALE,
    COLOR_MODE_RGB,
    FRAMING_CENTER,
    RESAMPLING_BILINEAR,
    ImageInput,
)
from headwise.v1.service_pb2 import Image as ImageMessage
from headwise.v1.service_pb2 import ImageTensor
from headwise_exporter.data.decoding import decode
from headwise_server.errors import InvalidArgument
from headwise_server.images import to_array
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

GRAY = ImageInput(height=8, width=8, channels=1, color_mode=COLOR_MODE_GRAYSCALE, resampling=RESAMPLING_BILINEAR)
RGB = ImageInput(height=8, width=6, channels=3, color_mode=COLOR_MODE_RGB, resampling=RESAMPLING_BILINEAR)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> ImageMessage:
    """An image as a client would send it."""
    content = io.BytesIO()
    image.save(content, kind, **options)
    return ImageMessage(encoded=content.getvalue())


def png_of_size(width: int, height: int) -> bytes:
    """A valid PNG of a few kilobytes that claims a size and holds one line."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(width + 1)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


@given(arrays(np.uint8, (8, 8, 1)))
def test_png_of_the_models_size_arrives_bit_for_bit(pixels: np.ndarray) -> None:
    """Lossless and of the right size: nothing is changed."""
    message = encoded(Image.fromarray(pixels[..., 0]))
    np.testing.assert_array_equal(to_array(message, GRAY, "images[0]"), pixels)


@given(arrays(np.uint8, (8, 6, 3)))
def test_tensor_arrives_bit_for_bit(pixels: np.ndarray) -> None:
    """Raw pixels are taken as they are."""
    tensor = ImageTensor(height=8, width=6, channels=3, data=pixels.tobytes())
    np.testing.assert_array_equal(to_array(ImageMessage(tensor=tensor), RGB, "images[0]"), pixels)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "RGBA", "P", "LA", "1"])
def test_every_format_and_colour_mode_is_converted(kind: str, mode: str) -> None:
    """Colour, grey, palette, alpha or CMYK, at any size: the model's mode and size come out."""
    image = Image.new("RGB", (31, 17), (200, 100, 50)).convert(mode)
    try:
        message = encoded(image, kind)
    except OSError:
        return  # no such file exists: the format does not know the mode
    for expected in (GRAY, RGB):
        shape = (expected.height, expected.width, expected.channels)
        assert to_array(message, expected, "x").shape == shape


@pytest.mark.parametrize("size", [(40, 23), (23, 40), (32, 32), (5, 7), (1, 1), (400, 300)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "RGBA", "P", "LA", "1", "I;16"])
def test_image_is_prepared_as_those_that_the_model_was_trained_on(
    tmp_path: Path, mode: str, kind: str, size: tuple[int, int]
) -> None:
    """Server and exporter make the same pixels of a file, bit for bit: whatever its mode, format and shape."""
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    pixels = Image.fromarray(noise, "RGBA")
    image = pixels.convert("L").convert("I").convert("I;16") if mode == "I;16" else pixels.convert(mode)
    try:
        message = encoded(image, kind)
    except (OSError, KeyError):
        return  # no such file exists: the format does not know the mode
    (tmp_path / "image").write_bytes(message.encoded)
    trained = ImageInput(
        height=16,
        width=16,
        channels=3,
        color_mode=COLOR_MODE_RGB,
        resampling=RESAMPLING_BILINEAR,
        framing=FRAMING_CENTER,
    )
    np.testing.assert_array_equal(to_array(message, trained, "x"), decode(tmp_path / "image", 16))


def test_photo_is_turned_upright() -> None:
    """EXIF orientation 6: what lay on its side stands."""
    image = Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 8, 0).repeat(4, 1))  # left black, right white
    exif = Image.Exif()
    exif[274] = 6  # turn by 90 degrees clockwise to stand
    turned = to_array(encoded(image, exif=exif), GRAY, "x")[..., 0]
    assert turned[0].max() == 0
    assert turned[-1].min() == 255


def test_animation_counts_by_its_first_frame() -> None:
    """An animated WebP is its first picture."""
    frames = [Image.new("RGB", (8, 8), color) for color in ("black", "white")]
    message = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert to_array(message, GRAY, "x").max() == 0


@pytest.mark.parametrize(
    ("message", "field", "expected"),
    [
        (ImageMessage(), "x", "expected `encoded` or `tensor`, found neither"),
        (ImageMessage(encoded=b""), "x.encoded", "found no bytes"),
        (
            ImageMessage(encoded=b"not an image at all"),
            "x.encoded",
            "expected a JPEG, PNG or WebP image, found 19 bytes",
        ),
        (encoded(Image.new("L", (8, 8)), "BMP"), "x.encoded", "expected a JPEG, PNG or WebP image"),
        (encoded(Image.new("L", (8, 8)), "GIF"), "x.encoded", "expected a JPEG, PNG or WebP image"),
        (
            ImageMessage(tensor=ImageTensor(height=9, width=8, channels=1, data=bytes(72))),
            "x.tensor",
            r"expected height, width, channels (8, 8, 1), found (9, 8, 1)",
        ),
        (
            ImageMessage(tensor=ImageTensor(height=8, width=8, channels=1, data=bytes(63))),
            "x.tensor.data",
            "expected 64 bytes, found 63",
        ),
    ],
)
def test_what_is_no_image_is_refused_by_name(message: ImageMessage, field: str, expected: str) -> None:
    """The field, what was expected and what was found."""
    with pytest.raises(InvalidArgument) as caught:
        to_array(message, GRAY, "x")
    assert caught.value.field == field
    assert expected in caught.value.description


def test_huge_image_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A PNG of 30,000 x 30,000 pixels costs the reading of its header."""
    message = ImageMessage(encoded=png_of_size(30_000, 30_000))
    loaded: list[object] = []
    monkeypatch.setattr(PngImageFile, "load", loaded.append)
    with pytest.raises(InvalidArgument, match=r"at most 50,000,000 pixels, found 30000 x 30000"):
        to_array(message, GRAY, "x")
    assert loaded == []


@given(st.data())
def test_truncated_image_is_refused(data: st.DataObject) -> None:
    """A file cut off anywhere is refused, never half-decoded and never an unforeseen error."""
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP"]))
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(noise), kind).encoded
    length = data.draw(st.integers(0, int(len(whole) * 0.9)))
    with pytest.raises(InvalidArgument, match=r"^x.encoded: expected a"):
        to_array(ImageMessage(encoded=whole[:length]), RGB, "x")


@settings(max_examples=200)
@given(st.data())
def test_damaged_image_is_decoded_or_refused(data: st.DataObject) -> None:
    """Whatever bytes are changed, there is an array or an InvalidArgument."""
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP"]))
    content = bytearray(encoded(Image.new("RGB", (16, 16), (9, 99, 199)), kind).encoded)
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InvalidArgument):
        assert to_array(ImageMessage(encoded=bytes(content)), RGB, "x").shape == (8, 6, 3)
