"""The client's errors: one for each thing a caller can do."""

import grpc
import pytest
from headwise.errors import (
    BY_CODE,
    HeadwiseError,
    InvalidRequest,
    Overloaded,
    ServerFailure,
    TooLarge,
    from_rpc_error,
    make_error,
    status_code,
)
from headwise_server import errors


@pytest.mark.parametrize("code", grpc.StatusCode)
def test_every_status_is_an_error_of_ours(code: grpc.StatusCode) -> None:
    """Known ones by what to do about them, all others the server's failure; the code is kept."""
    error = make_error(status_code(code.value[0]), "why")
    assert isinstance(error, HeadwiseError)
    assert type(error) is BY_CODE.get(code, ServerFailure)
    assert (error.code, str(error)) == (code, "why")


def test_number_that_is_no_status_is_unknown() -> None:
    """What a later gRPC may send."""
    assert status_code(99) is grpc.StatusCode.UNKNOWN


class _TooLarge:
    """What grpc raises for a message above the limit."""

    def code(self) -> grpc.StatusCode:
        """The status."""
        return grpc.StatusCode.RESOURCE_EXHAUSTED

    def details(self) -> str:
        """The words of gRPC's core."""
        return "CLIENT: Sent message larger than max (5 vs. 4)"


def test_message_too_large_is_the_requests_fault_and_not_to_be_retried() -> None:
    """gRPC gives it the same status as a full queue; the two want different things of the caller."""
    error = from_rpc_error(_TooLarge(), "x")
    assert isinstance(error, TooLarge)
    assert isinstance(error, InvalidRequest)


class _Refused:
    """What grpc raises for a status of ours."""

    def __init__(self, status: grpc.Status, metadata: tuple[tuple[str, bytes], ...] | None = None) -> None:
        self.status = status
        self.metadata = status.trailing_metadata if metadata is None else metadata

    def code(self) -> grpc.StatusCode:
        """The status."""
        return self.status.code

    def details(self) -> str:
        """The words of the server."""
        return str(self.status.details)

    def trailing_metadata(self) -> object:
        """What else it says."""
        return self.metadata


@pytest.mark.parametrize(
    "refused", [errors.Overloaded("the queue is full", 0.25), errors.RateLimited("3 calls a second", 0.25)]
)
def test_refusal_for_want_of_room_says_when_to_try_again(refused: errors.ServiceError) -> None:
    """As a number, as the server's RetryInfo has it."""
    error = from_rpc_error(_Refused(refused.grpc_status()), "x")
    assert isinstance(error, Overloaded)
    assert error.retry_seconds == 0.25


@pytest.mark.parametrize("metadata", [(), (("grpc-status-details-bin", b"\xff\xff"),), (("other", b""),)])
def test_refusal_by_another_says_nothing_of_when(metadata: tuple[tuple[str, bytes], ...]) -> None:
    """A proxy sends no details, or none that are read here."""
    error = from_rpc_error(_Refused(errors.Overloaded("full", 1.0).grpc_status(), metadata), "x")
    assert isinstance(error, Overloaded)
    assert error.retry_seconds is None


def test_call_that_fewer_images_would_help_is_too_large() -> None:
    """By the reason that the server gives, whatever its words."""
    assert type(from_rpc_error(_Refused(errors.TooLarge("images", "too many").grpc_status()), "x")) is TooLarge
    refused = errors.InvalidArgument("images", "none")
    assert type(from_rpc_error(_Refused(refused.grpc_status()), "x")) is InvalidRequest
