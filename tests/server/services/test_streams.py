"""Streams that answer in order."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any, cast

import pytest
from headwise_server.errors import InvalidArgument, NotReady, Overloaded
from headwise_server.in_flight import InFlight
from headwise_server.inference import State
from headwise_server.memory import Memory
from headwise_server.receiving import Arrived
from headwise_server.services.streams import WINDOW_BATCHES, in_order

MAX_BATCH, CONTENT_BYTES, REQUEST_BYTES = 4, 100, 300
WINDOW = WINDOW_BATCHES * MAX_BATCH


def arrived(number: int) -> Arrived[int]:
    """A request."""

    async def parsed() -> int:
        return number

    return Arrived(CONTENT_BYTES, REQUEST_BYTES, parsed)


async def numbers(count: int) -> AsyncIterator[Arrived[int]]:
    """Requests, all there at once."""
    for number in range(count):
        yield arrived(number)


def answers(
    requests: AsyncIterator[Arrived[int]],
    answer: Callable[[int], Awaitable[int]],
    *,
    in_flight: InFlight | None = None,
    memory: Memory | None = None,
    images: int = 1,
) -> AsyncGenerator[int, None]:
    """The stream of one client whose requests have so many images."""
    batcher = cast(Any, SimpleNamespace(max_batch=MAX_BATCH))
    state = State(batcher, cast(Any, None), memory or Memory(2**30), in_flight=in_flight or InFlight())
    return in_order(state, "somebody", requests, lambda _: images, answer)


async def test_answers_come_in_the_order_of_the_requests() -> None:
    """Though later ones are done first."""
    ended = []

    async def answer(number: int) -> int:
        for _ in range(20 - number):
            await asyncio.sleep(0)
        ended.append(number)
        return number

    assert [reply async for reply in answers(numbers(10), answer)] == list(range(10))
    assert ended != sorted(ended)


@pytest.mark.parametrize(("images", "at_a_time"), [(1, WINDOW), (4, WINDOW_BATCHES), (1000, 1)])
async def test_few_images_are_worked_on_at_a_time(images: int, at_a_time: int) -> None:
    """So many, however many are sent; the other requests stay with the client."""
    begun, go_on = [], asyncio.Event()

    async def answer(number: int) -> int:
        begun.append(number)
        await go_on.wait()
        return number

    async with aclosing(answers(numbers(10 * WINDOW), answer, images=images)) as replies:
        first = asyncio.ensure_future(anext(replies))
        for _ in range(20 * WINDOW):
            await asyncio.sleep(0)
        assert len(begun) == at_a_time
        go_on.set()
        assert await first == 0


async def test_stream_waits_for_memory() -> None:
    """It is read as far as there is room for its requests, and all are answered."""
    begun, go_on, memory = [], asyncio.Event(), Memory(5 * REQUEST_BYTES)

    async def answer(number: int) -> int:
        begun.append(number)
        await go_on.wait()
        return number

    async with aclosing(answers(numbers(12), answer, memory=memory)) as replies:
        first = asyncio.ensure_future(anext(replies))
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(begun) == 4  # a client alone has four fifths of it
        go_on.set()
        assert [await first, *[reply async for reply in replies]] == list(range(12))
    assert memory.used_bytes == 0


async def test_message_without_any_room_ends_its_stream() -> None:
    """Where nothing of the stream is in hand that could make room, or where not even the message itself has any."""
    go_on, memory = asyncio.Event(), Memory(2 * REQUEST_BYTES)

    async def answer(number: int) -> int:
        await go_on.wait()
        return number

    memory.take("others", REQUEST_BYTES + 1)
    with pytest.raises(Overloaded):
        [reply async for reply in answers(numbers(1), answer, memory=memory)]
    memory.give_back("others", CONTENT_BYTES)
    async with aclosing(answers(numbers(2), answer, memory=memory)) as replies:
        first = asyncio.ensure_future(anext(replies))
        await asyncio.sleep(0)
        memory.take("others", 1)
        go_on.set()
        assert await first == 0
        with pytest.raises(Overloaded):
            await anext(replies)
    memory.give_back("others", memory.used_bytes)
    assert memory.used_bytes == 0


async def test_request_that_cannot_be_parsed_counts_no_more() -> None:
    """What came before is answered."""

    async def requests() -> AsyncIterator[Arrived[int]]:
        async def parsed() -> int:
            raise InvalidArgument("request", "no.")

        yield arrived(1)
        yield Arrived(CONTENT_BYTES, REQUEST_BYTES, parsed)

    async def answer(number: int) -> int:
        return number

    memory, replies = Memory(10 * REQUEST_BYTES), []
    with pytest.raises(InvalidArgument):
        async for reply in answers(requests(), answer, memory=memory):
            replies.append(reply)
    assert replies == [1]
    assert memory.used_bytes == 0


async def test_server_that_drains_answers_what_it_has_received() -> None:
    """And then says that it goes."""
    in_flight, replies = InFlight(), []

    async def requests() -> AsyncIterator[Arrived[int]]:
        yield arrived(1)
        yield arrived(2)
        await asyncio.Event().wait()  # a client that sends no more, and does not say so

    async def answer(number: int) -> int:
        await asyncio.sleep(0)
        if number == 2:
            draining.append(asyncio.ensure_future(in_flight.drain()))
            await asyncio.sleep(0)
        return number

    draining: list[asyncio.Future[None]] = []
    with pytest.raises(NotReady):
        async for reply in answers(requests(), answer, in_flight=in_flight):
            replies.append(reply)
    assert replies == [1, 2]
    await asyncio.gather(*draining)


async def test_stream_that_is_left_leaves_no_work_behind() -> None:
    """What waits for its turn is cancelled."""
    cancelled = []

    async def answer(number: int) -> int:
        if number:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(number)
                raise
        return number

    async with aclosing(answers(numbers(5), answer)) as replies:
        assert await anext(replies) == 0
        for _ in range(20):  # until all have begun
            await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    assert cancelled == [1, 2, 3, 4]
