"""When a call that failed is sent again."""

import time

import grpc
import pytest
from headwise import InvalidRequest, Overloaded, Unavailable
from headwise.repeats import LONGEST_WAIT_SECONDS, wait_before_repeat, waits

SOON = Unavailable("no server", grpc.StatusCode.UNAVAILABLE)


def overloaded(retry_seconds: float) -> Overloaded:
    """A refusal that says when to come back."""
    error = Overloaded("full", grpc.StatusCode.RESOURCE_EXHAUSTED)
    error.retry_seconds = retry_seconds
    return error


def test_waits_grow_to_a_limit_and_end() -> None:
    """As many as repeats were asked for."""
    pauses = waits(20, time.monotonic() + 1e6)
    seconds = [wait_before_repeat(SOON, pauses, float("inf")) for _ in range(20)]
    assert 0.05 <= seconds[0] <= 0.1
    assert 0.5 * LONGEST_WAIT_SECONDS <= seconds[-1] <= LONGEST_WAIT_SECONDS
    with pytest.raises(Unavailable):
        wait_before_repeat(SOON, pauses, float("inf"))


def test_server_says_when() -> None:
    """Not a moment sooner; and not at all where the call would be over by then."""
    give_up = time.monotonic() + 60
    assert wait_before_repeat(overloaded(30.0), waits(1, give_up), give_up) == 30.0
    with pytest.raises(Overloaded):
        wait_before_repeat(overloaded(90.0), waits(1, give_up), give_up)


def test_wrong_request_is_not_sent_again() -> None:
    """It would be as wrong."""
    error = InvalidRequest("no", grpc.StatusCode.INVALID_ARGUMENT)
    with pytest.raises(InvalidRequest):
        wait_before_repeat(error, waits(3, float("inf")), float("inf"))
