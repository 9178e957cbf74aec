"""Errors of the client, one for each thing that a caller can do about it.

HeadwiseError
├── InvalidRequest      the request must change; `str()` names the field, what was expected and what was found
│   └── TooLarge        fewer images in a call would pass
├── NotFound            no such model or version
├── Unauthenticated     the server asks for a token that it knows
├── PermissionDenied    the token does not permit that
├── Overloaded          the server's queue is full: try again after `retry_seconds`
├── DeadlineExceeded    the answer did not come in time, or could not have
├── Unavailable         no server there, nothing served (yet), or draining: try again, or another
└── ServerFailure       the server could not do its work; its log says why
"""

from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

DETAILS = "grpc-status-details-bin"  # of the trailing metadata: a google.rpc.Status
TOO_LARGE = "TOO_LARGE"  # reason of a server of ours


class HeadwiseError(Exception):
    """A call failed; `code` is the gRPC status."""

    def __init__(self, message: str, code: grpc.StatusCode) -> None:
        super().__init__(message)
        self.code = code


class InvalidRequest(HeadwiseError):
    """The request must change."""


class TooLarge(InvalidRequest):
    """The call, or its answer, is larger than the server or this client takes: fewer images in a call would pass."""


class NotFound(HeadwiseError):
    """No such model or version."""


class Unauthenticated(HeadwiseError):
    """The server asks for a token that it knows."""


class PermissionDenied(HeadwiseError):
    """The server does not do that for this client."""


class Overloaded(HeadwiseError):
    """The server's queue is full, or this client has sent too much.

    `retry_seconds` says after how long to try again, where the server does.
    """

    retry_seconds: float | None = None


class DeadlineExceeded(HeadwiseError):
    """The answer did not come in time, or could not have."""


class Unavailable(HeadwiseError):
    """No server there, no model served or not yet, or draining."""


class ServerFailure(HeadwiseError):
    """The server could not do its work."""


BY_CODE: dict[grpc.StatusCode, type[HeadwiseError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
}


CLOSED = (
    "the server at {target} closed the connection before it answered: it may ask for TLS, or for a certificate of the "
    "client."
)
CONNECT_FAILURES = (  # by what gRPC says where no connection is made
    ("WRONG_VERSION_NUMBER", "the server at {target} does not speak TLS: connect to it without, or to another port."),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "the certificate of the server at {target} is not valid, or not signed by one of the root certificates given.",
    ),
    (
        "Hostname Verification",
        "the certificate of the server at {target} is for another name: use that name, or say which one to expect.",
    ),
    *((part, CLOSED) for part in ("Socket closed", "reset by peer", "Broken pipe", "End of TCP stream")),
    ("", "no server answers at {target}. Start one with `headwise-server`, or name another address."),
)


def status_code(number: int) -> grpc.StatusCode:
    """The gRPC status of a google.rpc.Code."""
    return next((code for code in grpc.StatusCode if code.value[0] == number), grpc.StatusCode.UNKNOWN)


def make_error(code: grpc.StatusCode, message: str) -> HeadwiseError:
    """The error for a status."""
    return BY_CODE.get(code, ServerFailure)(message, code)


def _details(metadata: Iterable[tuple[str, Any]]) -> tuple[str, float | None]:
    """Reason, and seconds after which to try again, as far as a server says them in its trailing metadata."""
    reason, retry_seconds, status = "", None, status_pb2.Status()
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    try:
        status.ParseFromString(next((value for key, value in metadata if key == DETAILS), b""))
        for detail in status.details:
            if detail.Unpack(info):
                reason = info.reason
            elif detail.Unpack(retry):
                retry_seconds = retry.retry_delay.ToNanoseconds() / 1e9
    except DecodeError:  # of a proxy
        pass
    return reason, retry_seconds


def from_rpc_error(error: Any, target: str) -> HeadwiseError:
    """The error for what grpc raised, from a call to `target`."""
    code, details = error.code(), error.details() or ""
    if code == grpc.StatusCode.UNAVAILABLE and "connect" in details.lower():
        details = next(message for part, message in CONNECT_FAILURES if part in details).format(target=target)
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
        return TooLarge(f"{details}: send fewer or smaller images in one call.", code)
    reason, retry_seconds = _details(error.trailing_metadata() or ())
    if reason == TOO_LARGE:
        return TooLarge(details, code)
    made = make_error(code, details or code.name)
    if isinstance(made, Overloaded):
        made.retry_seconds = retry_seconds
    return made
