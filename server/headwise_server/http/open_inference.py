"""The Open Inference Protocol, version 2, over HTTP with JSON tensors; without the binary tensor extension.

Requests become the message of the gRPC service, which says what they may hold. Elements of BYTES are base64 in a
request, because a file of an image is no text, and text in a reply.
"""

import base64
import math
from typing import Any

import numpy as np
from google.protobuf.json_format import MessageToDict
from starlette.responses import Response

from headwise_server.errors import InvalidArgument
from headwise_server.http.bodies import check_query, json_body, parsed, shown
from headwise_server.http.reception import TIMEOUT, Received
from headwise_server.http.replies import JSON, UnsupportedMediaType, json_reply, json_response
from headwise_server.inference import State
from headwise_server.model_descriptions import metadata, served
from headwise_server.open_inference import service_pb2 as oip
from headwise_server.services.inference import model_infer, server_metadata
from headwise_server.tensors import elements

EXTENSIONS = ("classification",)
BINARY_HEADER = "inference-header-content-length"
INPUT_KEYS = ("name", "shape", "datatype", "parameters", "data")
JSON_REPLY_COPIES = 16  # of the protobuf reply, while its numbers are Python's
RAW_CONTENTS, DATA = "raw_input_contents[0]", "inputs[0].data"


async def server(state: State, received: Received) -> Response:
    """GET /v2."""
    check_query(received.query, ())
    return json_response(MessageToDict(server_metadata(EXTENSIONS)))


async def model(state: State, received: Received) -> Response:
    """GET /v2/models/NAME."""
    check_query(received.query, ())
    asked = served(state, received.path["name"], received.path.get("version", ""))
    value = MessageToDict(metadata(state, asked))
    for tensor in (*value["inputs"], *value["outputs"]):
        tensor["shape"] = [int(size) for size in tensor["shape"]]  # proto3 JSON writes 64 bits as text
    return json_response(value)


def _parameter(value: object) -> dict[str, object]:
    """A parameter as proto3 JSON has it."""
    kinds = ((bool, "boolParam"), (int, "int64Param"), (float, "doubleParam"), (str, "stringParam"))
    for kind, name in kinds:
        if isinstance(value, kind):
            return {name: value}
    raise InvalidArgument("parameters", f"expected booleans, numbers and strings, found {shown(value)}.")


def _with_parameters(value: object, field: str) -> dict[str, Any]:
    """A copy of a JSON object with its parameters as proto3 JSON has them."""
    if not isinstance(value, dict):
        raise InvalidArgument(field, "expected a JSON object, found another value.")
    parameters = value.get("parameters", {})
    if not isinstance(parameters, dict):
        raise InvalidArgument(f"{field}.parameters", "expected a JSON object, found another value.")
    return {**value, "parameters": {name: _parameter(each) for name, each in parameters.items()}}


def _flat(values: object) -> list[Any]:
    """The elements of a tensor, row by row, however deep they are nested."""
    if not isinstance(values, list):
        raise InvalidArgument(DATA, "expected a list, found another value.")
    while values and isinstance(values[0], list):
        if not all(isinstance(row, list) for row in values):
            raise InvalidArgument(DATA, "expected rows of one depth, found elements beside rows.")
        values = [element for row in values for element in row]
    return values


def _content(datatype: object, data: object) -> bytes:
    """The elements of an input as the protocol's raw contents."""
    values = _flat(data)
    try:
        if datatype == "BYTES":
            files = [base64.b64decode(value, validate=True) for value in values]
            return b"".join(len(file).to_bytes(4, "little") + file for file in files)
        if any(type(value) is not int for value in values):
            raise ValueError("they are no integers")
        return bytes(values)
    except (TypeError, ValueError) as error:
        expected = "base64 texts for BYTES" if datatype == "BYTES" else "integers from 0 to 255 for UINT8"
        raise InvalidArgument(DATA, f"expected {expected}, found others: {shown(error)}.") from None


def infer_request(document: dict[str, Any], name: str, version: str) -> oip.ModelInferRequest:
    """The message for a request in the protocol's JSON.

    Raises:
        InvalidArgument: it has another form.
    """
    value = _with_parameters(document, "body")
    inputs, outputs = value.pop("inputs", []), value.pop("outputs", [])
    if not isinstance(inputs, list) or not isinstance(outputs, list):
        raise InvalidArgument("body", "expected lists as inputs and outputs, found other values.")
    for key in value:
        if key not in ("id", "parameters"):
            raise InvalidArgument("body", f"expected id, parameters, inputs and outputs, found {shown(key)!r}.")
    value["inputs"] = [_with_parameters(each, f"inputs[{position}]") for position, each in enumerate(inputs)]
    value["outputs"] = [_with_parameters(each, f"outputs[{position}]") for position, each in enumerate(outputs)]
    contents = []
    for position, each in enumerate(value["inputs"]):
        if unknown := each.keys() - set(INPUT_KEYS):
            expected = f"expected {', '.join(INPUT_KEYS)}"
            raise InvalidArgument(f"inputs[{position}]", f"{expected}, found {shown(min(unknown))!r}.")
        contents.append(_content(each.get("datatype"), each.pop("data", [])))
    request = parsed(value, oip.ModelInferRequest())
    request.model_name, request.model_version = name, version
    request.raw_input_contents.extend(contents)
    return request


def _reply(response: oip.ModelInferResponse) -> dict[str, Any]:
    """The reply as the protocol's JSON."""
    outputs = []
    for tensor, content in zip(response.outputs, response.raw_output_contents, strict=True):
        data: list[Any]
        if tensor.datatype == "BYTES":
            data = [element.decode() for element in elements(content, math.prod(tensor.shape))]
        else:
            data = np.frombuffer(content, "<f4").tolist()
        outputs.append({"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape), "data": data})
    value = {
        "model_name": response.model_name,
        "model_version": response.model_version,
        "parameters": {name: parameter.string_param for name, parameter in response.parameters.items()},
        "outputs": outputs,
    }
    return value | {"id": response.id} if response.id else value


async def infer(state: State, received: Received) -> Response:
    """POST /v2/models/NAME/infer."""
    check_query(received.query, (TIMEOUT,))
    if BINARY_HEADER in received.headers:
        raise InvalidArgument(BINARY_HEADER, "expected JSON alone: this server has no binary tensors over HTTP.")
    if received.media_type != JSON:
        expected = f"expected {JSON}, found {shown(received.media_type) or 'none'!r}"
        raise UnsupportedMediaType("content-type", f"{expected}. Send pictures to /v1, and tensors over gRPC.")
    name, version = received.path["name"], received.path.get("version", "")
    request = await json_body(received.content, lambda document: infer_request(document, name, version))
    try:
        response = await model_infer(state, request, received.caller)
    except InvalidArgument as error:
        raise InvalidArgument(error.field.replace(RAW_CONTENTS, DATA), error.description) from error
    with state.memory.hold(received.caller.client, JSON_REPLY_COPIES * response.ByteSize()):
        return await json_reply(lambda: _reply(response), sum(math.prod(tensor.shape) for tensor in response.outputs))
