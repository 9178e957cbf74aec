"""Tensors of the Open Inference Protocol, taken out of messages and put into them."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from headwise.v1.bundle_pb2 import ImageInput
from headwise_server.errors import InvalidArgument
from headwise_server.open_inference import service_pb2 as oip
from headwise_server.tensors import Output, Wanted, add_floats, add_texts, classified, images_of, size_bytes
from hypothesis import assume, given

EXPECTED = ImageInput(height=3, width=2, channels=1)
MAX_IMAGES = 5
Request = oip.ModelInferRequest


def files_request(files: list[bytes]) -> Request:
    """Files as raw BYTES."""
    tensor = Request.InferInputTensor(name="images", datatype="BYTES", shape=[len(files)])
    content = b"".join(len(file).to_bytes(4, "little") + file for file in files)
    return Request(inputs=[tensor], raw_input_contents=[content])


FILES = st.lists(st.binary(max_size=20), min_size=1, max_size=MAX_IMAGES)


@given(FILES)
def test_files_are_those_that_were_sent(files: list[bytes]) -> None:
    """Each element as it is, empty ones too."""
    assert [image.encoded for image in images_of(files_request(files), EXPECTED, MAX_IMAGES)] == files


@given(FILES, st.integers(0, 2**32 - 1), st.data())
def test_length_that_is_not_that_of_an_element_is_refused(files: list[bytes], length: int, data: st.DataObject) -> None:
    """However large it says that the element is: the content is not read past its end."""
    request = files_request(files)
    content = bytearray(request.raw_input_contents[0])
    position = data.draw(st.integers(0, len(files) - 1))
    first = sum(4 + len(file) for file in files[:position])
    content[first : first + 4] = length.to_bytes(4, "little")
    request.raw_input_contents[0] = bytes(content)
    assume(length > len(content))
    with pytest.raises(InvalidArgument, match=f"expected element {position} of {len(files)}"):
        images_of(request, EXPECTED, MAX_IMAGES)


@given(FILES, st.binary(min_size=1, max_size=9), st.data())
def test_content_that_is_cut_or_too_long_is_refused(files: list[bytes], more: bytes, data: st.DataObject) -> None:
    """The elements must fill the content, and the content hold the elements."""
    request = files_request(files)
    whole = request.raw_input_contents[0]
    cut = st.integers(0, len(whole) - 1).map(lambda end: whole[:end])
    request.raw_input_contents[0] = data.draw(st.just(whole + more) | cut)
    with pytest.raises(InvalidArgument) as caught:
        images_of(request, EXPECTED, MAX_IMAGES)
    assert caught.value.field == "raw_input_contents[0]"


@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 6), max_size=10), st.integers(0, 40))
def test_pixels_are_taken_where_they_fill_a_shape_of_the_model(shape: list[int], size: int) -> None:
    """Any other shape, and any other number of bytes, is refused."""
    pixels = bytes(range(size))
    tensor = Request.InferInputTensor(name="images", datatype="UINT8", shape=shape)
    request = Request(inputs=[tensor], raw_input_contents=[pixels])
    fits = len(shape) == 4 and shape[1:] == [3, 2, 1] and 1 <= shape[0] <= MAX_IMAGES
    if fits and math.prod(shape) == size:
        images = images_of(request, EXPECTED, MAX_IMAGES)
        assert b"".join(image.tensor.data for image in images) == pixels
        assert {(image.tensor.height, image.tensor.width, image.tensor.channels) for image in images} == {(3, 2, 1)}
    else:
        with pytest.raises(InvalidArgument) as caught:
            images_of(request, EXPECTED, MAX_IMAGES)
        assert caught.value.field == ("raw_input_contents[0]" if fits else "inputs[0].shape")


@pytest.mark.parametrize("images", range(1, MAX_IMAGES + 1))
def test_as_many_images_as_the_shape_says(images: int) -> None:
    """From one to as many as a request may have."""
    pixels = np.arange(images * 6, dtype=np.uint8).tobytes()
    tensor = Request.InferInputTensor(name="images", datatype="UINT8", shape=[images, 3, 2, 1])
    messages = images_of(Request(inputs=[tensor], raw_input_contents=[pixels]), EXPECTED, MAX_IMAGES)
    assert [message.tensor.data for message in messages] == [pixels[n * 6 : n * 6 + 6] for n in range(images)]


LABELS = st.lists(st.text(max_size=9), min_size=1, max_size=9)


@given(LABELS, st.integers(1, 3), st.integers(1, 12), st.integers(0, 9), st.floats(-3e38, 3e38))
def test_output_takes_no_more_than_was_known(
    labels: list[str], images: int, classes: int, seed: int, value: float
) -> None:
    """Of numbers exactly; of texts an upper bound, whatever the values are."""
    values_NK = np.random.default_rng(seed).normal(size=(images, len(labels))).astype(np.float32)
    values_NK[0, 0] = value
    output, response = Output("FP32", (len(labels),)), oip.ModelInferResponse()
    add_floats(response, "logits", values_NK)
    add_texts(response, "logits", classified(values_NK, classes, labels))
    floats, texts = response.raw_output_contents
    assert len(floats) == images * size_bytes(output, Wanted("logits"), labels)
    assert len(texts) <= images * size_bytes(output, Wanted("logits", classes), labels)
    assert list(response.outputs[1].shape) == [images, min(classes, len(labels))]


def test_classes_are_written_as_triton_does() -> None:
    """Six decimals, then the index, then the label."""
    values = np.array([[0.25, 1.5, -2.0]], np.float32)
    assert classified(values, 2, ["a", "b:c", "d"]) == [[b"1.500000:1:b:c", b"0.250000:0:a"]]
