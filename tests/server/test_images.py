"""Images of a request to the tensor that the graphs take."""

import io

import hypothesis.strategies as st
import numpy as np
import pytest
from headwise.decoding import decode
from headwise.v1.bundle_pb2 import (
    COLOR_MODE_GRAYSCALE,
    COLOR_MODE_RGB,
    FRAMING_CENTER,
    FRAMING_STRETCH,
    RESAMPLING_BICUBIC,
    RESAMPLING_BILINEAR,
    ImageInput,
)
from headwise.v1.service_pb2 import Image as ImageMessage
from headwise.v1.service_pb2 import ImageTensor
from headwise_server.errors import InvalidArgument
from headwise_server.images import decoded, view
from hypothesis import given
from hypothesis.extra.numpy import arrays
from PIL import Image

GRAY = ImageInput(height=8, width=8, channels=1, color_mode=COLOR_MODE_GRAYSCALE, resampling=RESAMPLING_BILINEAR)
RGB = ImageInput(height=8, width=6, channels=3, color_mode=COLOR_MODE_RGB, resampling=RESAMPLING_BILINEAR)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> ImageMessage:
    """An image as a client would send it."""
    content = io.BytesIO()
    image.save(content, kind, **options)
    return ImageMessage(encoded=content.getvalue())


@given(arrays(np.uint8, (8, 8, 1)))
def test_png_of_the_models_size_arrives_bit_for_bit(pixels: np.ndarray) -> None:
    """Lossless and of the right size: nothing is changed."""
    message = encoded(Image.fromarray(pixels[..., 0]))
    np.testing.assert_array_equal(decoded(message.encoded, GRAY, "images[0]"), pixels)


@given(arrays(np.uint8, (8, 6, 3)))
def test_tensor_arrives_bit_for_bit(pixels: np.ndarray) -> None:
    """Raw pixels are taken as they are."""
    tensor = ImageTensor(height=8, width=6, channels=3, data=pixels.tobytes())
    np.testing.assert_array_equal(view(ImageMessage(tensor=tensor), RGB, "images[0]"), pixels)


@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    wanted=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    grey=st.booleans(),
    centre=st.booleans(),
    bicubic=st.booleans(),
)
def test_image_is_decoded_as_the_manifest_says(
    size: tuple[int, int], wanted: tuple[int, int], grey: bool, centre: bool, bicubic: bool
) -> None:
    """Size, colour mode, framing and resampling reach the decoder, whose pixels come out as they are."""
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    message = encoded(Image.fromarray(noise))
    expected = ImageInput(
        width=wanted[0],
        height=wanted[1],
        channels=1 if grey else 3,
        color_mode=COLOR_MODE_GRAYSCALE if grey else COLOR_MODE_RGB,
        resampling=RESAMPLING_BICUBIC if bicubic else RESAMPLING_BILINEAR,
        framing=FRAMING_CENTER if centre else FRAMING_STRETCH,
    )
    decoded_YXC = decode(
        message.encoded, *wanted, "L" if grey else "RGB", centre=centre, resampling="bicubic" if bicubic else "bilinear"
    )
    np.testing.assert_array_equal(decoded(message.encoded, expected, "x"), decoded_YXC)


@pytest.mark.parametrize(
    ("message", "field", "expected"),
    [
        (ImageMessage(), "x", "expected `encoded` or `tensor`, found neither"),
        (
            ImageMessage(encoded=b"not an image at all"),
            "x.encoded",
            "expected an image, found no image that is read here (JPEG, PNG",
        ),
        (
            ImageMessage(encoded=encoded(Image.new("L", (8, 8)), "GIF").encoded[:20]),
            "x.encoded",
            "expected an image, found a damaged or truncated GIF: ",
        ),
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
        if message.encoded:
            decoded(message.encoded, GRAY, "x.encoded")
        view(message, GRAY, "x")
    assert caught.value.field == field
    assert expected in caught.value.description
