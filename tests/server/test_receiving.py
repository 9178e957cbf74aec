"""Turns to receive messages: few at a time, one client after another, and a slow server is held against nobody."""

import asyncio
import time
from collections import deque
from collections.abc import Callable

import pytest
import support
from headwise_server.errors import DeadlineUnmet, Overloaded
from headwise_server.memory import Memory
from headwise_server.receiving import COPIES, TICK_SECONDS, TICKS, Receiving, Turns, to_its_end
from hypothesis import given
from hypothesis import strategies as st

LARGEST_BYTES = 100
ROOM_BYTES = COPIES * LARGEST_BYTES
MESSAGE = b"message"


class Sender:
    """Sends messages when a test says so, and knows how many are asked for."""

    def __init__(self) -> None:
        self.asked: list[asyncio.Future[bytes]] = []

    async def read(self) -> bytes:
        """The next message."""
        self.asked.append(asyncio.get_running_loop().create_future())
        return await self.asked[-1]


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    await asyncio.to_thread(support.wait_until, condition)


async def pass_rounds(count: int = 10) -> None:
    """Let whatever is ready go on."""
    for _ in range(count):
        await asyncio.sleep(0)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["take", "give back", "leave"])), max_size=40))
def test_turns_are_never_lost_and_never_too_many(steps: list[tuple[str, str]]) -> None:
    """Whoever takes them, gives them back or leaves, also in the moment in which the turn comes."""

    async def scenario() -> None:
        turns, calls = Turns(2), deque[asyncio.Task[None]]()
        for client, step in steps:
            if step == "take":
                calls.append(asyncio.create_task(turns.take(client)))
                await pass_rounds(2)
            holder = next((call for call in calls if call.done()), None)
            waiter = next((call for call in reversed(calls) if not call.done()), None)
            if step == "give back" and holder:
                calls.remove(holder)
                turns.give_back()
            elif step == "leave" and waiter:
                calls.remove(waiter)
                waiter.cancel()
        await pass_rounds()
        assert sum(call.done() for call in calls) == min(2, len(calls))
        assert turns.waiting == max(0, len(calls) - 2)
        while calls:  # in the order of their turns, which is not that of their arrival
            holder = next(call for call in calls if call.done())
            calls.remove(holder)
            turns.give_back()
            await pass_rounds(2)
        await asyncio.wait_for(asyncio.gather(turns.take("a"), turns.take("b")), 1)

    asyncio.run(scenario())


async def test_clients_take_turns() -> None:
    """One with many calls that wait delays another by one of them."""
    turns, order = Turns(1), []
    await turns.take("first")

    async def call(client: str) -> None:
        await turns.take(client)
        order.append(client)

    calls = [asyncio.create_task(call(client)) for client in ("greedy",) * 5 + ("modest",) * 2]
    await pass_rounds()
    for _ in calls:
        turns.give_back()
        await pass_rounds()
    assert order == ["greedy", "modest", "greedy", "modest", "greedy", "greedy", "greedy"]


async def test_message_is_asked_for_in_its_turn() -> None:
    """No more at a time than there are turns; nothing is counted of those that arrive at once."""
    memory, sender = Memory(0), Sender()
    receiving = Receiving(memory, 2, LARGEST_BYTES)
    calls = [asyncio.create_task(receiving.received(sender.read, str(number))) for number in range(6)]
    for asked in (2, 4, 6):
        await pass_rounds()
        assert len(sender.asked) == asked
        for message in sender.asked[-2:]:
            message.set_result(MESSAGE)
    assert await asyncio.gather(*calls) == [MESSAGE] * 6
    assert memory.used_bytes == 0


async def test_slow_upload_counts_with_its_largest_size_and_gives_its_turn_back() -> None:
    """So that the next is asked for; when it is there it is counted no more."""
    memory, sender = Memory(10 * ROOM_BYTES), Sender()
    receiving = Receiving(memory, 1, LARGEST_BYTES)
    largest = asyncio.create_task(receiving.received(sender.read, "a"))
    await until(lambda: memory.used_bytes == LARGEST_BYTES)
    short = asyncio.create_task(receiving.received(sender.read, "a", largest_bytes=7))
    await until(lambda: memory.used_bytes == LARGEST_BYTES + 7)
    for message in sender.asked:
        message.set_result(MESSAGE)
    assert await asyncio.gather(largest, short) == [MESSAGE] * 2
    assert memory.used_bytes == 0


async def test_slow_upload_without_room_is_refused_after_its_turn() -> None:
    """Where what it may need once it is there does not fit; the turn is free again."""
    memory, sender = Memory(ROOM_BYTES - 1), Sender()
    receiving = Receiving(memory, 1, LARGEST_BYTES)
    began = time.monotonic()
    with pytest.raises(Overloaded):
        await receiving.received(sender.read, "a")
    assert time.monotonic() - began >= TICKS * TICK_SECONDS * 0.9
    assert memory.used_bytes == 0
    await receiving.turns.take("b")


async def test_slow_uploads_of_one_client_do_not_hold_up_another() -> None:
    """Of 20 that are refused, one at a time, another's message waits for two at most."""
    memory, sender = Memory(0), Sender()
    receiving = Receiving(memory, 1, LARGEST_BYTES)
    slow = [asyncio.create_task(receiving.received(sender.read, "greedy")) for _ in range(20)]
    await pass_rounds()

    async def prompt() -> bytes:
        return MESSAGE

    assert await receiving.received(prompt, "modest") == MESSAGE
    assert sum(call.done() for call in slow) <= 2
    for call in slow:
        call.cancel()
    await asyncio.gather(*slow, return_exceptions=True)


async def test_room_that_comes_in_the_turn_is_taken() -> None:
    """The upload stays."""
    memory, sender = Memory(ROOM_BYTES), Sender()
    memory.take("other", 1)
    call = asyncio.create_task(Receiving(memory, 1, LARGEST_BYTES).received(sender.read, "a"))
    await asyncio.sleep(TICK_SECONDS * 1.5)
    memory.give_back("other", 1)
    await until(lambda: memory.used_bytes == LARGEST_BYTES)
    sender.asked[0].set_result(MESSAGE)
    assert await call == MESSAGE


async def test_slow_upload_has_its_time() -> None:
    """Then it ends, and is counted no more."""
    memory = Memory(ROOM_BYTES)
    with pytest.raises(DeadlineUnmet, match="expected the request within"):
        await Receiving(memory, 1, LARGEST_BYTES).received(Sender().read, "a", seconds=0.01)
    assert memory.used_bytes == 0


@pytest.mark.parametrize("holds", [1, TICKS - 1])
async def test_server_that_is_held_up_refuses_nobody_for_it(holds: int) -> None:
    """The loop stands still for longer than a turn lasts, and the message, there all the time, comes afterwards."""
    memory, sender = Memory(0), Sender()
    call = asyncio.create_task(Receiving(memory, 1, LARGEST_BYTES).received(sender.read, "a"))
    await pass_rounds()
    for _ in range(holds):
        time.sleep(2 * TICKS * TICK_SECONDS)  # noqa: ASYNC251  # it is to stand still
        await pass_rounds(2)
    sender.asked[0].set_result(MESSAGE)
    assert await call == MESSAGE


async def test_error_and_cancellation_end_the_turn() -> None:
    """Whether it waits, has just come or lasts; the error is the reader's."""
    memory, sender = Memory(0), Sender()
    receiving = Receiving(memory, 1, LARGEST_BYTES)
    failing, leaving, waiting, last = (
        asyncio.create_task(receiving.received(sender.read, client)) for client in "abcd"
    )
    await pass_rounds()
    waiting.cancel()
    sender.asked[0].set_exception(TimeoutError("of the reader"))
    with pytest.raises(TimeoutError, match="of the reader"):
        await failing
    await pass_rounds()
    leaving.cancel()
    await pass_rounds()
    sender.asked[-1].set_result(MESSAGE)
    assert await last == MESSAGE
    assert [leaving.cancelled(), waiting.cancelled()] == [True, True]


async def test_read_goes_on_to_its_end_though_whoever_waits_is_cancelled() -> None:
    """It is not cancelled with them."""
    released, came = asyncio.Event(), list[str]()

    async def read() -> None:
        try:
            await released.wait()
        except asyncio.CancelledError:
            came.append("cancelled")
            raise
        came.append("to its end")

    waiting = asyncio.ensure_future(to_its_end(read))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    released.set()
    await asyncio.sleep(0)
    assert waiting.cancelled()
    assert came == ["to its end"]
