"""Streams that answer request by request, in order, while later requests are worked on."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TypeVar

from headwise_server.errors import SHUTTING_DOWN, NotReady
from headwise_server.in_flight import InFlight

WINDOW = 64  # requests of one stream that are worked on beside the one whose turn it is

Request = TypeVar("Request")
Reply = TypeVar("Reply")


async def in_order(
    in_flight: InFlight, requests: AsyncIterator[Request], answer: Callable[[Request], Awaitable[Reply]]
) -> AsyncGenerator[Reply, None]:
    """The answer to each request.

    Args:
        answer: raises nothing that a client could do something about.

    Raises:
        NotReady: the server drains, and all that was received before is answered.
    """
    tasks: asyncio.Queue[asyncio.Future[Reply] | None] = asyncio.Queue()
    window = asyncio.Semaphore(WINDOW)

    async def receive() -> None:
        async for request in requests:
            tasks.put_nowait(asyncio.ensure_future(answer(request)))
            await window.acquire()

    receiver = asyncio.create_task(receive())
    receiver.add_done_callback(lambda _: tasks.put_nowait(None))  # also where it is cancelled before it starts
    in_flight.add_receiver(receiver)
    try:
        while task := await tasks.get():
            yield await task
            window.release()
        if receiver.cancelled():
            raise NotReady(SHUTTING_DOWN)
        receiver.result()  # raises what ended it
    finally:
        receiver.cancel()
        while not tasks.empty():
            if task := tasks.get_nowait():
                task.cancel()
