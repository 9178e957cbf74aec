"""Errors that reach a client, each with a gRPC code and google.rpc details.

    ServiceError
    ├── InvalidArgument    INVALID_ARGUMENT     BadRequest: the fields, and what was expected of them
    │   └── TooLarge                            fewer images in a call would pass; its reason is TOO_LARGE
    ├── NotFound           NOT_FOUND            ResourceInfo: which model or version
    ├── Overloaded         RESOURCE_EXHAUSTED   RetryInfo: when to try again
    ├── RateLimited        RESOURCE_EXHAUSTED   RetryInfo: when this client may send again
    ├── DeadlineUnmet      DEADLINE_EXCEEDED
    ├── NotReady           UNAVAILABLE          still loading, nothing served, or draining
    ├── NotLoadable        FAILED_PRECONDITION  a model of the repository cannot be served
    ├── NotInBundle        FAILED_PRECONDITION  the model was exported without what was asked for
    ├── Unauthenticated    UNAUTHENTICATED      no token that is known
    ├── NotAllowed         PERMISSION_DENIED    this server does not do that for this client
    └── Internal           INTERNAL             an engine failed, or a reply did not pass its own check

Every one carries an ErrorInfo of the domain "headwise" with the class's reason.
"""

import math
from typing import Any, ClassVar

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

DOMAIN = "headwise"
CHALLENGE = ("www-authenticate", 'Bearer realm="headwise"')
SHUTTING_DOWN = "the server is shutting down; send the request to another."


class ServiceError(Exception):
    """A request cannot be answered; the message says what was expected, what was found and what to do."""

    code: ClassVar[int] = code_pb2.UNKNOWN
    reason: ClassVar[str] = "UNKNOWN"

    def details(self) -> list[Message]:
        """google.rpc details besides the ErrorInfo."""
        return []

    def status(self) -> status_pb2.Status:
        """The error as a google.rpc.Status."""
        info = error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN)
        status = status_pb2.Status(code=self.code, message=str(self))
        for detail in (info, *self.details()):
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        return status

    def grpc_status(self) -> grpc.Status:
        """The error as `abort_with_status` takes it."""
        return rpc_status.to_status(self.status())


class InvalidArgument(ServiceError):
    """A field of the request is not what it must be."""

    code, reason = code_pb2.INVALID_ARGUMENT, "INVALID_ARGUMENT"

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}")
        self.field, self.description = field, description

    def details(self) -> list[Message]:
        """The field violation."""
        violation = error_details_pb2.BadRequest.FieldViolation(field=self.field, description=self.description)
        return [error_details_pb2.BadRequest(field_violations=[violation])]


class TooLarge(InvalidArgument):
    """The request or its reply is larger than it may be: fewer images in a call would pass."""

    reason = "TOO_LARGE"


class NotFound(ServiceError):
    """No such model, or no such version of it."""

    code, reason = code_pb2.NOT_FOUND, "MODEL_NOT_FOUND"

    def __init__(self, resource: str, description: str) -> None:
        super().__init__(description)
        self.resource = resource

    def details(self) -> list[Message]:
        """Which resource."""
        return [error_details_pb2.ResourceInfo(resource_type="headwise.model", resource_name=self.resource)]


def _retry_info(seconds: float) -> Message:
    delay = duration_pb2.Duration()
    delay.FromNanoseconds(math.ceil(seconds * 1e9))  # not a moment too early
    retry: Message = error_details_pb2.RetryInfo(retry_delay=delay)
    return retry


class Overloaded(ServiceError):
    """There is no room for the request now."""

    code, reason = code_pb2.RESOURCE_EXHAUSTED, "OVERLOADED"

    def __init__(self, why: str, retry_seconds: float) -> None:
        super().__init__(f"no room for this request now: {why}. Try again in {retry_seconds:.2f} s, or add a server.")
        self.retry_seconds = retry_seconds

    def details(self) -> list[Message]:
        """When to try again."""
        return [_retry_info(self.retry_seconds)]


class RateLimited(ServiceError):
    """The client sends more than it may."""

    code, reason = code_pb2.RESOURCE_EXHAUSTED, "RATE_LIMITED"

    def __init__(self, limit: str, retry_seconds: float) -> None:
        super().__init__(
            f"expected at most {limit} from this client, found more. Try again in {retry_seconds:.3f} s, or send it as "
            "a stream, which is read as fast as it may be sent."
        )
        self.retry_seconds = retry_seconds

    def details(self) -> list[Message]:
        """When the request may be sent again."""
        return [_retry_info(self.retry_seconds)]


class DeadlineUnmet(ServiceError):
    """The answer would come too late, or already has."""

    code, reason = code_pb2.DEADLINE_EXCEEDED, "DEADLINE_UNMEETABLE"


class NotReady(ServiceError):
    """Models are still loading, none is served, or the server is draining."""

    code, reason = code_pb2.UNAVAILABLE, "NOT_READY"


class NotLoadable(ServiceError):
    """A model of the repository cannot be served."""

    code, reason = code_pb2.FAILED_PRECONDITION, "MODEL_NOT_LOADABLE"


class NotInBundle(ServiceError):
    """The model was exported without the graph that the request needs, or this server cannot run it."""

    code, reason = code_pb2.FAILED_PRECONDITION, "NOT_IN_BUNDLE"


class Unauthenticated(ServiceError):
    """The call has no token that the server knows."""

    code, reason = code_pb2.UNAUTHENTICATED, "UNAUTHENTICATED"

    def grpc_status(self) -> Any:
        """With the header by which HTTP asks for a token."""
        status: Any = super().grpc_status()
        return status._replace(trailing_metadata=(*status.trailing_metadata, CHALLENGE))


class NotAllowed(ServiceError):
    """This server does not do that for this client."""

    code, reason = code_pb2.PERMISSION_DENIED, "NOT_ALLOWED"


class Internal(ServiceError):
    """The engine failed, or a reply did not pass its own check."""

    code, reason = code_pb2.INTERNAL, "INTERNAL"
