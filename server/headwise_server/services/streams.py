"""Streams that answer request by request, in order, while later requests are worked on.

A stream that sends faster than it is answered is read more slowly, rather than refused: no more of it is in hand than
keeps the engine busy, and no more than there is memory for. A message counts in memory from its arrival until its
answer is taken.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TypeVar

from headwise_server.errors import SHUTTING_DOWN, NotReady
from headwise_server.inference import Caller, State
from headwise_server.receiving import Arrived

WINDOW_BATCHES = 4  # of the images of one stream that are worked on at a time


Request = TypeVar("Request")
Reply = TypeVar("Reply")


async def in_order(
    state: State,
    client: str,
    requests: AsyncIterator[Arrived[Request]],
    images: Callable[[Request], int],
    answer: Callable[[Request], Awaitable[Reply]],
) -> AsyncGenerator[Reply, None]:
    """The answer to each request.

    Args:
        client: whose stream it is.
        images: how many a request has.
        answer: raises nothing that a client could do something about.

    Raises:
        NotReady: the server drains, and all that was received before is answered.
        Overloaded: there is no memory for a message as it arrives, or none though nothing of the stream is in hand.
        ServiceError: a message could not be parsed; all that was received before is answered.
    """
    tasks: asyncio.Queue[tuple[asyncio.Future[Reply], int, int] | None] = asyncio.Queue()
    in_hand, answered = 0, asyncio.Event()
    window = WINDOW_BATCHES * state.batcher.max_batch

    async def take_memory(content_bytes: int, size_bytes: int) -> None:
        more_bytes = size_bytes - content_bytes
        if in_hand:
            with state.memory.hold_beyond_share(client, content_bytes):
                while in_hand and (in_hand >= window or not state.memory.has_room(client, more_bytes)):
                    answered.clear()
                    await answered.wait()
        state.memory.check(client, size_bytes)
        state.memory.take(client, size_bytes)

    async def parsed(arrived: Arrived[Request]) -> Request:
        try:
            return await arrived.parsed()
        except BaseException:
            state.memory.give_back(client, arrived.size_bytes)
            raise

    async def receive() -> None:
        nonlocal in_hand
        async for arrived in requests:
            try:
                await take_memory(arrived.content_bytes, arrived.size_bytes)
                request = await parsed(arrived)
                size = max(1, images(request))
                in_hand += size
                tasks.put_nowait((asyncio.ensure_future(answer(request)), size, arrived.size_bytes))
                del request
            finally:
                del arrived  # neither an error nor a stream that waits for its client keeps it

    receiver = asyncio.create_task(receive())
    receiver.add_done_callback(lambda _: tasks.put_nowait(None))  # also where it is cancelled before it starts
    state.in_flight.add_receiver(receiver)
    try:
        while entry := await tasks.get():
            task, size, size_bytes = entry
            try:
                yield await task
            finally:
                state.memory.give_back(client, size_bytes)
            in_hand -= size
            answered.set()
        if receiver.cancelled():
            raise NotReady(SHUTTING_DOWN)
        receiver.result()  # raises what ended it
    finally:
        receiver.cancel()
        while not tasks.empty():
            if entry := tasks.get_nowait():
                task, _, size_bytes = entry
                task.cancel()
                state.memory.give_back(client, size_bytes)


def patient(caller: Caller) -> Caller:
    """The same caller, who waits for room in a full queue."""
    return Caller(caller.client, caller.deadline, waits_for_room=True)
