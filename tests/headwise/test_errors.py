"""The client's errors: one for each thing a caller can do."""

import grpc
import pytest
from headwise.errors import (
    BY_CODE,
    HeadwiseError,
    InvalidRequest,
    ServerFailure,
    from_rpc_error,
    make_error,
    status_code,
)


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
    assert isinstance(from_rpc_error(_TooLarge(), "x"), InvalidRequest)
