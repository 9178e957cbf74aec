"""The memory budget of the requests in hand."""

from contextlib import ExitStack

import pytest
from headwise_server.errors import Overloaded
from headwise_server.memory import RETRY_SECONDS, Memory
from hypothesis import given
from hypothesis import strategies as st

LIMIT_BYTES = 1000
HOLDS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 1200)), max_size=30)


@given(HOLDS)
def test_budget_is_kept_and_given_back(holds: list[tuple[str, int]]) -> None:
    """However much is asked for: no more is held than there is, and nothing is left at the end."""
    memory, held = Memory(LIMIT_BYTES), 0
    with ExitStack() as stack:
        for client, size_bytes in holds:
            room = memory.has_room(client, size_bytes)
            try:
                stack.enter_context(memory.hold(client, size_bytes))
            except Overloaded:
                assert not room
            else:
                assert room
                held += size_bytes
            assert memory.used_bytes == held <= LIMIT_BYTES
    assert memory.used_bytes == 0
    assert memory.has_room("a", LIMIT_BYTES)


def test_refusal_says_how_much_and_when_to_try_again() -> None:
    """What is taken, what is asked for, and a delay."""
    memory = Memory(10 * 2**20)
    memory.take("a", 8 * 2**20)
    with pytest.raises(Overloaded, match=r"requests take 8 MiB, and this one 3.0 MiB more") as caught:
        memory.check("b", 3 * 2**20)
    assert caught.value.retry_seconds == RETRY_SECONDS
    assert memory.used_bytes == 8 * 2**20


def test_one_client_leaves_room_for_others() -> None:
    """With four fifths it has its share; another finds room all the same."""
    memory = Memory(LIMIT_BYTES)
    memory.take("greedy", 800)
    assert not memory.has_room("greedy", 1)
    assert memory.has_room("modest", 200)


def test_what_is_there_already_counts_beyond_the_limit() -> None:
    """Nothing fits until it has gone, and then all does."""
    memory = Memory(LIMIT_BYTES)
    memory.take("a", 5000)
    assert not memory.has_room("b", 1)
    memory.give_back("a", 5000)
    assert memory.has_room("b", LIMIT_BYTES)


def test_what_was_held_is_given_back_after_an_error() -> None:
    """Whatever went wrong with the request."""
    memory = Memory(LIMIT_BYTES)
    with pytest.raises(ZeroDivisionError), memory.hold("a", 500):
        raise ZeroDivisionError
    assert memory.used_bytes == 0
