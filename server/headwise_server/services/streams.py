"""Streams that answer request by request, in order, while later requests are worked on.

A stream that sends faster than it is answered is read more slowly, rather than refused: no more of it is in hand than
keeps the engine busy, and no more than there is memory for.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Protocol, TypeVar

from headwise_server.errors import SHUTTING_DOWN, NotReady
from headwise_server.inference import Caller, State
from headwise_server.receiving import COPIES

WINDOW_BATCHES = 4  # of the images of one stream that are worked on at a time


class Message(Protocol):
    """What protobuf messages have."""

    def ByteSize(self) -> int:
        """Size on the wire."""
        ...


Request = TypeVar("Request", bound=Message)
Reply = TypeVar("Reply")


async def in_order(
    state: State,
    client: str,
    requests: AsyncIterator[Request],
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
        ServiceError: a message could not be parsed; all that was received before is answered.
    """
    tasks: asyncio.Queue[tuple[asyncio.Future[Reply], int, int] | None] = asyncio.Queue()
    in_hand, answered = 0, asyncio.Event()
    window = WINDOW_BATCHES * state.batcher.max_batch

    async def receive() -> None:
        nonlocal in_hand
        async for request in requests:
            size_bytes = COPIES * request.ByteSize()
            while in_hand and (in_hand >= window or not state.memory.has_room(client, size_bytes)):
                answered.clear()
                await answered.wait()
            size = max(1, images(request))
            in_hand += size
            task = asyncio.ensure_future(answer(request))
            state.memory.take(client, size_bytes)
            tasks.put_nowait((task, size, size_bytes))

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
