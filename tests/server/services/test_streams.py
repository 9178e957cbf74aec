"""Streams that answer in order."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from headwise_server.errors import NotReady
from headwise_server.in_flight import InFlight
from headwise_server.services.streams import WINDOW, in_order


async def numbers(count: int) -> AsyncIterator[int]:
    """Requests, all there at once."""
    for number in range(count):
        yield number


async def test_answers_come_in_the_order_of_the_requests() -> None:
    """Though later ones are done first."""
    ended = []

    async def answer(number: int) -> int:
        for _ in range(20 - number):
            await asyncio.sleep(0)
        ended.append(number)
        return number

    assert [reply async for reply in in_order(InFlight(), numbers(10), answer)] == list(range(10))
    assert ended != sorted(ended)


async def test_few_requests_are_worked_on_at_a_time() -> None:
    """So many, however many are sent; the others stay with the client."""
    begun, go_on = [], asyncio.Event()

    async def answer(number: int) -> int:
        begun.append(number)
        await go_on.wait()
        return number

    async with aclosing(in_order(InFlight(), numbers(10 * WINDOW), answer)) as replies:
        first = asyncio.ensure_future(anext(replies))
        for _ in range(20 * WINDOW):
            await asyncio.sleep(0)
        assert len(begun) == WINDOW + 1
        go_on.set()
        assert await first == 0


async def test_server_that_drains_answers_what_it_has_received() -> None:
    """And then says that it goes."""
    in_flight, replies = InFlight(), []

    async def requests() -> AsyncIterator[int]:
        yield 1
        yield 2
        await asyncio.Event().wait()  # a client that sends no more, and does not say so

    async def answer(number: int) -> int:
        await asyncio.sleep(0)
        if number == 2:
            draining.append(asyncio.ensure_future(in_flight.drain()))
            await asyncio.sleep(0)
        return number

    draining: list[asyncio.Future[None]] = []
    with pytest.raises(NotReady):
        async for reply in in_order(in_flight, requests(), answer):
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

    async with aclosing(in_order(InFlight(), numbers(5), answer)) as replies:
        assert await anext(replies) == 0
        for _ in range(20):  # until all have begun
            await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    assert cancelled == [1, 2, 3, 4]
