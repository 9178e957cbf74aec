"""Tensors of the Open Inference Protocol: images from those of a request, and those of a reply from arrays.

A request has one input, `images`: UINT8 of the model's size, or BYTES with a file of an image in each element. Nothing
is taken out of a message before its length is compared with the shape, and no size is computed from a shape that was
not compared with the model's.

Shape suffixes: N images, K labels.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from headwise.v1 import service_pb2 as pb
from headwise.v1.bundle_pb2 import ImageInput
from numpy.typing import NDArray

from headwise_server.errors import InvalidArgument
from headwise_server.open_inference import service_pb2 as oip
from headwise_server.replies import top_indices

INPUT = "images"
TYPED_CONTENTS = {"UINT8": "uint_contents", "BYTES": "bytes_contents"}  # of an input's datatype
LENGTH_BYTES = 4  # before each element of BYTES
VALUE_CHARACTERS = len(f"{-np.finfo(np.float32).max:f}")  # the longest value that the classification extension writes
SHOWN = 8  # axes and names that a message repeats
SHOWN_CHARACTERS = 64

Request = oip.ModelInferRequest
Parameters = Mapping[str, oip.InferParameter]


@dataclass(frozen=True)
class Output:
    """A tensor that a model gives for each image."""

    datatype: str
    shape: tuple[int, ...]  # without the axis of the images


@dataclass(frozen=True)
class Wanted:
    """An output that a request asks for."""

    name: str
    classes: int = 0  # of the classification extension: so many of the highest values instead of the tensor


def whole_number(parameters: Parameters, name: str, field: str) -> int:
    """A parameter that counts something; 0 where it is absent.

    Raises:
        InvalidArgument: it is none.
    """
    if name not in parameters:
        return 0
    kind = parameters[name].WhichOneof("parameter_choice")
    if kind not in ("int64_param", "uint64_param"):
        raise InvalidArgument(f"{field}[{name}]", f"expected int64_param or uint64_param, found {kind or 'nothing'}.")
    value = int(getattr(parameters[name], kind))
    if value < 0:
        raise InvalidArgument(f"{field}[{name}]", f"expected at least 0, found {value}.")
    return value


def check_parameters(parameters: Parameters, known: Sequence[str], field: str) -> None:
    """Refuse a parameter that would be of no effect.

    Raises:
        InvalidArgument: there is one beside those known.
    """
    for name in parameters:
        if name not in known:
            expected = f"only {', '.join(known)}" if known else "no parameter"
            raise InvalidArgument(f"{field}[{name[:SHOWN_CHARACTERS]}]", f"expected {expected} here.")


def images_of(request: Request, expected: ImageInput, max_images: int) -> list[pb.Image]:
    """The images of a request.

    Raises:
        InvalidArgument: another input than the model has, or elements that do not fill its shape.
    """
    if len(request.inputs) != 1:
        raise InvalidArgument("inputs", f"expected one input, {INPUT!r}, found {len(request.inputs)}.")
    tensor = request.inputs[0]
    if tensor.name != INPUT:
        raise InvalidArgument("inputs[0].name", f"expected {INPUT!r}, found {tensor.name[:SHOWN_CHARACTERS]!r}.")
    check_parameters(tensor.parameters, (), "inputs[0].parameters")
    if tensor.datatype not in TYPED_CONTENTS:
        shown = tensor.datatype[:SHOWN_CHARACTERS]
        raise InvalidArgument(
            "inputs[0].datatype", f"expected UINT8, or BYTES with a file in each element, found {shown!r}."
        )
    images = _count(tensor, expected, max_images)
    if tensor.datatype == "BYTES":
        return [pb.Image(encoded=content) for content in _files(request, images)]
    height, width, channels = expected.height, expected.width, expected.channels
    size = height * width * channels
    pixels = _pixels(request, images * size)
    return [
        pb.Image(
            tensor=pb.ImageTensor(height=height, width=width, channels=channels, data=pixels[first : first + size])
        )
        for first in range(0, len(pixels), size)
    ]


def _count(tensor: Request.InferInputTensor, expected: ImageInput, max_images: int) -> int:
    """How many images an input's shape says there are."""
    shape = list(tensor.shape[:SHOWN])
    inner = [expected.height, expected.width, expected.channels]
    forms = [inner] if tensor.datatype == "UINT8" else [[], [1]]
    if len(tensor.shape) >= SHOWN or not shape or shape[1:] not in forms:
        wanted = " or ".join(str(["N", *form]).replace("'", "") for form in forms)
        raise InvalidArgument("inputs[0].shape", f"expected {wanted} for {tensor.datatype}, found {shape}.")
    if not 1 <= shape[0] <= max_images:
        raise InvalidArgument(
            "inputs[0].shape", f"expected 1 to {max_images} images, found {shape[0]}; send several calls."
        )
    return shape[0]


def _raw(request: Request) -> bytes | None:
    """The input's elements where they are raw, None where they are typed."""
    tensor, raw = request.inputs[0], request.raw_input_contents
    typed = [field.name for field, _ in tensor.contents.ListFields()]
    if raw:
        if typed:
            raise InvalidArgument(
                "raw_input_contents", f"expected raw contents or typed ones, found both: also {', '.join(typed)}."
            )
        if len(raw) != 1:
            raise InvalidArgument("raw_input_contents", f"expected those of one input, found {len(raw)}.")
        return raw[0]
    allowed = TYPED_CONTENTS[tensor.datatype]
    for name in typed:
        if name != allowed:
            raise InvalidArgument(f"inputs[0].contents.{name}", f"expected {allowed} for {tensor.datatype}.")
    return None


def _pixels(request: Request, size: int) -> bytes:
    content = _raw(request)
    if content is not None:
        if len(content) != size:
            raise InvalidArgument("raw_input_contents[0]", f"expected {size} bytes, found {len(content)}.")
        return content
    values, field = request.inputs[0].contents.uint_contents, "inputs[0].contents.uint_contents"
    if len(values) != size:
        raise InvalidArgument(field, f"expected {size} elements, found {len(values)}.")
    try:
        return bytes(values)
    except ValueError:
        raise InvalidArgument(field, f"expected elements from 0 to 255, found {max(values)}.") from None


def _files(request: Request, images: int) -> list[bytes]:
    content = _raw(request)
    if content is not None:
        return elements(content, images)
    files = request.inputs[0].contents.bytes_contents
    if len(files) != images:
        raise InvalidArgument("inputs[0].contents.bytes_contents", f"expected {images} elements, found {len(files)}.")
    return list(files)


def elements(content: bytes, count: int) -> list[bytes]:
    """The elements of BYTES, each of which has its length before it.

    Raises:
        InvalidArgument: they do not fill the content.
    """
    field, parts, end = "raw_input_contents[0]", [], 0
    for number in range(count):
        first = end + LENGTH_BYTES
        length = int.from_bytes(content[end:first], "little")
        if first > len(content) or first + length > len(content):
            raise InvalidArgument(
                field,
                f"expected element {number} of {count} and its length from byte {end}, found {len(content)} bytes.",
            )
        end = first + length
        parts.append(content[first:end])
    if end != len(content):
        raise InvalidArgument(field, f"expected {end} bytes with {count} elements, found {len(content)}.")
    return parts


def wanted_outputs(request: Request, outputs: Mapping[str, Output]) -> list[Wanted]:
    """What a request asks for; everything where it names nothing.

    Raises:
        InvalidArgument: an output that the model does not have, or one twice, or with a parameter that it cannot have.
    """
    if len(request.outputs) > len(outputs):
        expected = f"expected at most the model's {len(outputs)} outputs"
        raise InvalidArgument("outputs", f"{expected}, found {len(request.outputs)}.")
    wanted: dict[str, Wanted] = {}
    for position, asked in enumerate(request.outputs):
        field, name = f"outputs[{position}]", asked.name
        if name not in outputs:
            shown = name[:SHOWN_CHARACTERS]
            raise InvalidArgument(f"{field}.name", f"expected one of {', '.join(outputs)}, found {shown!r}.")
        if name in wanted:
            raise InvalidArgument(f"{field}.name", f"expected each output once, found {name!r} again.")
        check_parameters(asked.parameters, ("classification",), f"{field}.parameters")
        classes = whole_number(asked.parameters, "classification", f"{field}.parameters")
        if classes and (outputs[name].datatype != "FP32" or len(outputs[name].shape) != 1):
            described = f"{outputs[name].datatype} {list(outputs[name].shape)} for each image"
            raise InvalidArgument(
                f"{field}.parameters[classification]",
                f"expected it for an output with one number for each label, found {name!r}, {described}.",
            )
        wanted[name] = Wanted(name, classes)
    return list(wanted.values()) or [Wanted(name) for name in outputs]


def classified(values_NK: NDArray[np.float32], count: int, labels: Sequence[str]) -> list[list[bytes]]:
    """The highest values of each image as the classification extension writes them, `value:index:label`."""
    indices_NJ = top_indices(values_NK, count)
    return [
        [f"{values_K[index]:f}:{index}:{labels[index]}".encode() for index in indices_J]
        for values_K, indices_J in zip(values_NK.tolist(), indices_NJ.tolist(), strict=True)
    ]


def add_floats(response: oip.ModelInferResponse, name: str, values: NDArray[np.float32]) -> None:
    """Add an output of FP32."""
    response.outputs.add(name=name, datatype="FP32", shape=values.shape)
    response.raw_output_contents.append(values.astype("<f4", copy=False).tobytes())


def add_texts(response: oip.ModelInferResponse, name: str, rows: Sequence[Sequence[bytes]]) -> None:
    """Add an output of BYTES with a row for each image, all of one length."""
    content = b"".join(len(text).to_bytes(LENGTH_BYTES, "little") + text for row in rows for text in row)
    response.outputs.add(name=name, datatype="BYTES", shape=(len(rows), len(rows[0])))
    response.raw_output_contents.append(content)


def size_bytes(output: Output, wanted: Wanted, labels: Sequence[str]) -> int:
    """The most that an output can take for each image; of texts with the longest labels."""
    if output.datatype == "FP32" and not wanted.classes:
        return 4 * math.prod(output.shape)
    count = min(wanted.classes, len(labels)) if wanted.classes else math.prod(output.shape)
    longest = sorted((len(label.encode()) for label in labels), reverse=True)[:count]
    number = VALUE_CHARACTERS + len(str(len(labels))) + 2 if wanted.classes else 0
    return sum(LENGTH_BYTES + number + length for length in longest)
