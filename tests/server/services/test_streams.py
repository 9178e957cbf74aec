"""Streams that answer in order."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any, cast

import pytest
from headwise_server.errors import NotReady
from headwise_server.in_flight import InFlight
from headwise_server.inference import State
from headwise_server.memory import Memory
from headwise_server.receiving import COPIES
from headwise_server.services.streams import WINDOW_BATCHES, in_order

MAX_BATCH, REQUEST_BYTES = 4, 100
WINDOW = WINDOW_BATCHES * MAX_BATCH


class Number(int):
    """A request."""

    def ByteSize(self) -> int:
        """As a message has it."""
        return REQUEST_BYTES


async def numbers(count: int) -> AsyncIterator[Number]:
    """Requests, all there at once."""
    for number in range(count):
        yield Number(number)


def answers(
    requests: AsyncIterator[Number],
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
    begun, go_on, memory = [], asyncio.Event(), Memory(5 * COPIES * REQUEST_BYTES)

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


async def test_server_that_drains_answers_what_it_has_received() -> None:
    """And then says that it goes."""
    in_flight, replies = InFlight(), []

    async def requests() -> AsyncIterator[Number]:
        yield Number(1)
        yield Number(2)
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
