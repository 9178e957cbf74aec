"""What goes back over HTTP: JSON, and errors as a google.rpc.Status in JSON with the HTTP code for them."""

import asyncio
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.rpc import code_pb2
from starlette.responses import Response

from headwise_server.errors import (
    CHALLENGE,
    InvalidArgument,
    NotReady,
    Overloaded,
    RateLimited,
    ServiceError,
    Unauthenticated,
)

JSON = "application/json"
LARGE_NUMBERS = 2**11  # a reply with more is made in a thread
NOT_READY_RETRY_SECONDS = 1
HTTP_CODES = {
    code_pb2.INVALID_ARGUMENT: 400,
    code_pb2.FAILED_PRECONDITION: 400,
    code_pb2.UNAUTHENTICATED: 401,
    code_pb2.PERMISSION_DENIED: 403,
    code_pb2.NOT_FOUND: 404,
    code_pb2.RESOURCE_EXHAUSTED: 429,
    code_pb2.INTERNAL: 500,
    code_pb2.UNAVAILABLE: 503,
    code_pb2.DEADLINE_EXCEEDED: 504,
}


class BodyTooLarge(InvalidArgument):
    """The body is larger than bodies may be."""

    reason = "BODY_TOO_LARGE"
    http_code: ClassVar[int] = 413


class UnsupportedMediaType(InvalidArgument):
    """The body is of a type that the path does not take."""

    reason = "UNSUPPORTED_MEDIA_TYPE"
    http_code: ClassVar[int] = 415


class NoSuchPath(ServiceError):
    """There is nothing under the path."""

    code, reason = code_pb2.NOT_FOUND, "PATH_NOT_FOUND"


class MethodNotAllowed(ServiceError):
    """The path does not take the method."""

    code, reason = code_pb2.UNIMPLEMENTED, "METHOD_NOT_ALLOWED"
    http_code: ClassVar[int] = 405


def message_json(message: Message) -> dict[str, Any]:
    """A message with all its fields, under their names in the .proto file."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def json_response(value: Mapping[str, Any], status_code: int = 200) -> Response:
    """A reply in JSON."""
    content = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(content, status_code, media_type=JSON)


async def json_reply(make: Callable[[], Mapping[str, Any]], numbers: int) -> Response:
    """A reply in JSON of so many numbers; many are made in a thread, by an encoder that lets other threads run."""
    if numbers <= LARGE_NUMBERS:
        return json_response(make())
    encoder = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    content = await asyncio.to_thread(lambda: "".join(encoder.iterencode(make())).encode())
    return Response(content, media_type=JSON)


def http_code(error: ServiceError) -> int:
    """The HTTP status code of an error."""
    return int(getattr(error, "http_code", HTTP_CODES.get(error.code, 500)))


def error_response(error: ServiceError, path: str) -> Response:
    """An error as a google.rpc.Status; under /v2 also with the field that the Open Inference Protocol has."""
    value = MessageToDict(error.status())
    if path.startswith("/v2"):
        value["error"] = str(error)
    response = json_response(value, http_code(error))
    if isinstance(error, Overloaded | RateLimited):
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_seconds)))
    if isinstance(error, Unauthenticated):
        response.headers["WWW-Authenticate"] = CHALLENGE[1]
    if isinstance(error, NotReady):
        response.headers["Retry-After"] = str(NOT_READY_RETRY_SECONDS)
        response.headers["Connection"] = "close"  # the server may be about to go
    return response
