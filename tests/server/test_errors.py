"""Errors as clients get them."""

import pytest
from google.rpc import code_pb2, error_details_pb2
from headwise_server import errors
from headwise_server.errors import (
    DeadlineUnmet,
    Internal,
    InvalidArgument,
    NotAllowed,
    NotFound,
    NotInBundle,
    NotLoadable,
    NotReady,
    Overloaded,
    RateLimited,
    ServiceError,
    Unauthenticated,
)

ERRORS: list[tuple[ServiceError, int]] = [
    (InvalidArgument("images[0]", "expected a JPEG."), code_pb2.INVALID_ARGUMENT),
    (NotFound("x/2", "no such model."), code_pb2.NOT_FOUND),
    (Overloaded("12 images wait", 0.25), code_pb2.RESOURCE_EXHAUSTED),
    (RateLimited("3 calls a second", 0.0001), code_pb2.RESOURCE_EXHAUSTED),
    (NotLoadable("it is damaged."), code_pb2.FAILED_PRECONDITION),
    (NotInBundle("it has no maps.onnx."), code_pb2.FAILED_PRECONDITION),
    (Unauthenticated("no token."), code_pb2.UNAUTHENTICATED),
    (DeadlineUnmet("too late."), code_pb2.DEADLINE_EXCEEDED),
    (NotReady("still loading."), code_pb2.UNAVAILABLE),
    (NotAllowed("not for a client."), code_pb2.PERMISSION_DENIED),
    (Internal("it broke."), code_pb2.INTERNAL),
]


def details(error: ServiceError, kind: type) -> list[object]:
    """The details of a kind that the error carries."""
    details = []
    for packed in error.status().details:
        message = kind()
        if packed.Unpack(message):
            details.append(message)
    return details


@pytest.mark.parametrize(("error", "code"), ERRORS)
def test_every_error_has_its_code_message_and_reason(error: ServiceError, code: int) -> None:
    """A google.rpc.Status with an ErrorInfo of our domain."""
    assert (error.status().code, error.status().message) == (code, str(error))
    [info] = details(error, error_details_pb2.ErrorInfo)
    assert (info.domain, info.reason) == ("headwise", error.reason)
    assert error.grpc_status().code.value[0] == code


def test_every_error_is_in_the_table() -> None:
    """A new error must be added above, with its code."""
    known = {error for error in ServiceError.__subclasses__() if error.__module__ == errors.__name__}
    assert {type(error) for error, _ in ERRORS} == known


def test_bad_field_is_named() -> None:
    """BadRequest says which field and what was expected of it."""
    [bad] = details(ERRORS[0][0], error_details_pb2.BadRequest)
    assert [(v.field, v.description) for v in bad.field_violations] == [("images[0]", "expected a JPEG.")]


def test_missing_resource_is_named() -> None:
    """ResourceInfo says which model."""
    [resource] = details(ERRORS[1][0], error_details_pb2.ResourceInfo)
    assert (resource.resource_type, resource.resource_name) == ("headwise.model", "x/2")


def test_full_queue_says_when_to_retry() -> None:
    """RetryInfo carries the delay, and the message says it too."""
    [retry] = details(ERRORS[2][0], error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToMilliseconds() == 250
    assert "12 images wait. Try again in 0.25 s" in str(ERRORS[2][0])


def test_missing_token_is_asked_for_as_in_http() -> None:
    """Beside the details, which stay."""
    metadata = dict(Unauthenticated("no token.").grpc_status().trailing_metadata)
    assert metadata["www-authenticate"] == 'Bearer realm="headwise"'
    assert "grpc-status-details-bin" in metadata


def test_retry_is_never_too_early() -> None:
    """RetryInfo rounds up."""
    [retry] = details(RateLimited("3 calls a second", 1.0000000001), error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToNanoseconds() == 1_000_000_001
