"""Turns and room in the queue that its clients share."""

from collections import Counter

import pytest
from headwise_server.fair import SHARE, FairQueue, fits
from hypothesis import given
from hypothesis import strategies as st

LIMIT = 20.0
CLIENTS = st.sampled_from("abcd")
PUSHES = st.lists(st.tuples(CLIENTS, st.integers(1, 8)), max_size=40)


def filled(pushes: list[tuple[str, int]]) -> tuple[FairQueue[int], dict[int, tuple[str, int]]]:
    """A queue with every entry that it had room for, and what is in it, in order."""
    queue: FairQueue[int] = FairQueue(LIMIT)
    entries = {}
    for number, (client, weight) in enumerate(pushes):
        if queue.has_room(client, weight):
            queue.push(client, number, weight)
            entries[number] = (client, weight)
    return queue, entries


def anything(entry: int) -> bool:
    """Any entry is suitable."""
    return True


@pytest.mark.parametrize(
    ("own", "used", "weight", "expected"),
    [
        (0, 0, 20, True),  # what is no larger than the limit fits where nothing is used
        (0, 0, 21, False),
        (15, 15, 1, True),  # 16, and 4 are left
        (16, 16, 1, False),
        (0, 16, 4, True),  # and another client finds room
        (0, 16, 5, False),
        (10, 10, 10, False),  # which would leave none
        (3, 18, 1, True),  # 4 are what one may have that leaves 1
        (4, 18, 1, False),
    ],
)
def test_what_fits_depends_on_what_is_free(own: float, used: float, weight: float, expected: bool) -> None:
    """A client's first entry may take all of it; with the others it has at most 4 times what they leave."""
    assert fits(own, used, weight, LIMIT) is expected


@given(PUSHES)
def test_weights_add_up_and_stay_within_the_limit(pushes: list[tuple[str, int]]) -> None:
    """Whatever was pushed, the queue weighs what its entries weigh."""
    queue, entries = filled(pushes)
    assert queue.weight == sum(weight for _, weight in entries.values()) <= LIMIT
    for client in {client for client, _ in entries.values()}:
        own = sum(weight for owner, weight in entries.values() if owner == client)
        assert queue.has_room(client, 1) is fits(own, queue.weight, 1, LIMIT)
    assert sorted(queue) == sorted(entries)


@given(st.integers(1, 8), CLIENTS)
def test_client_that_took_all_it_may_leaves_a_fifth_to_others(weight: int, greedy: str) -> None:
    """Beside its first entry it takes four fifths at most, and a newcomer finds a place."""
    queue, _ = filled([(greedy, weight)] * 100)
    assert queue.weight <= max(weight, LIMIT * SHARE / (SHARE + 1))
    assert queue.has_room("newcomer", 1)


@given(PUSHES)
def test_nobody_waits_for_the_backlog_of_another(pushes: list[tuple[str, int]]) -> None:
    """In as many takes as there are clients that wait, each is served once; its oldest entry comes first."""
    queue, entries = filled(pushes)
    while entries:
        waiting = {client for client, _ in entries.values()}
        taken = [queue.take(anything) for _ in waiting]
        assert None not in taken
        served = Counter(entries[entry][0] for entry in taken if entry is not None)
        assert served == dict.fromkeys(waiting, 1)
        for entry in taken:
            assert entry is not None
            client, _ = entries[entry]
            assert entry == min(number for number, (owner, _) in entries.items() if owner == client)
            del entries[entry]
    assert queue.take(anything) is None
    assert queue.weight == 0


@given(PUSHES, st.data())
def test_what_is_taken_out_weighs_no_more(pushes: list[tuple[str, int]], data: st.DataObject) -> None:
    """From wherever it stands, once; the others stay."""
    queue, entries = filled(pushes)
    for entry in data.draw(st.lists(st.sampled_from(sorted(entries)), unique=True)) if entries else []:
        client, _ = entries.pop(entry)
        assert queue.discard(client, entry)
        assert not queue.discard(client, entry)
        assert queue.weight == sum(weight for _, weight in entries.values())
    assert sorted(queue) == sorted(entries)


def test_client_without_a_suitable_entry_keeps_its_turn() -> None:
    """It is passed over, and comes first once an entry of it suits."""
    queue, _ = filled([("a", 1), ("b", 1), ("b", 1), ("c", 1)])
    assert queue.take(lambda entry: entry > 0) == 1
    assert queue.take(lambda entry: entry > 0) == 3
    assert queue.take(anything) == 0
    assert queue.take(anything) == 2
