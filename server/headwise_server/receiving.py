"""Turns to receive a message, so that what is on its way is counted before it is there.

The size of a message is known only when it has arrived, and until it is asked for, a transport holds no more of it than
its window. So a message is asked for in a turn. There are few, memory for the largest message is kept for each, and
clients take them one after another. Most messages arrive at once. One that does not, after `TICK_SECONDS`, becomes a
slow upload where the memory of requests has room for it: it counts there with the largest size that it may have, and
its turn goes to the next. Where there is no room it keeps its turn for `TICKS` of these times, and is refused then.

Time is counted in ticks of the event loop. However long something else holds the loop up, that is one tick: whatever
has arrived meanwhile is read before the next.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from headwise_server.errors import DeadlineUnmet, Overloaded
from headwise_server.fair import FairQueue
from headwise_server.memory import Memory

TICK_SECONDS = 0.01
TICKS = 5  # that a message may take where there is no room for a slow upload
UPLOAD_SECONDS = 60.0
COPIES = 3  # of a message: as received, parsed, and of the image that is decoded
Content = TypeVar("Content")


@dataclass(frozen=True)
class Arrived(Generic[Content]):
    """A message that is there, and is not parsed yet."""

    content_bytes: int
    size_bytes: int  # that it takes in all, with what is made of it
    parsed: Callable[[], Awaitable[Content]]


async def to_its_end(read: Callable[[], Awaitable[Content]]) -> Content:
    """What `read` gives; it goes on where whoever waits is cancelled.

    When a call is cancelled gRPC ends its read at once, and grpc.aio never frees what it holds for a read that nobody
    waits for any more.
    """
    return await asyncio.shield(read())


class Turns:
    """So many turns, which clients take one after another. Belongs to one event loop."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: FairQueue[asyncio.Future[None]] = FairQueue(float("inf"))  # calls in hand, which are bounded

    @property
    def waiting(self) -> int:
        """How many wait for one."""
        return int(self._waiting.weight)

    async def take(self, client: str) -> None:
        """Wait for a turn; `give_back` ends it."""
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.push(client, turn, 1)
        try:
            await turn
        except asyncio.CancelledError:
            if not self._waiting.discard(client, turn):  # it came in the same moment
                self.give_back()
            raise

    def give_back(self) -> None:
        """End a turn."""
        turn = self._waiting.take(lambda turn: not turn.done())
        if turn:
            turn.set_result(None)
        else:
            self._free += 1


class _Upload:
    """One message from the beginning of its turn until it is there."""

    def __init__(self, memory: Memory, turns: Turns, client: str, largest_bytes: int, seconds: float | None) -> None:
        self._memory, self._client, self._largest_bytes, self._seconds = memory, client, largest_bytes, seconds
        self._end_turn = self._give_back = turns.give_back
        self._refusal: Overloaded | None = None
        self._ticks, self._limit = 0, asyncio.timeout(None)
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        self._ticks += 1
        try:
            self._memory.check(self._client, COPIES * self._largest_bytes)  # as it may need once it is there
        except Overloaded as error:
            if self._ticks < TICKS:
                self._timer = self._loop.call_later(TICK_SECONDS, self._tick)
            else:
                self._refusal = error
                self._limit.reschedule(self._loop.time())
        else:
            self._become_slow()

    def _become_slow(self) -> None:
        self._memory.take(self._client, self._largest_bytes)
        self._end_turn()
        self._give_back = partial(self._memory.give_back, self._client, self._largest_bytes)
        if self._seconds is not None:
            self._limit.reschedule(self._loop.time() + self._seconds)

    async def content(self, read: Callable[[], Awaitable[Content]]) -> Content:
        """What `read` gives, or an error; then nothing of it is counted any more."""
        try:
            async with self._limit:
                return await read()
        except TimeoutError:
            if not self._limit.expired():
                raise
            late = DeadlineUnmet(f"expected the request within {self._seconds} s, found a part of it.")
            raise self._refusal or late from None
        finally:
            self._timer.cancel()
            self._give_back()


class Receiving:
    """Receives messages in turns. Belongs to one event loop.

    Args:
        memory: of requests, where slow uploads count; what is kept for turns is no part of it.
        turns: messages that may be received at a time without being counted.
        max_message_bytes: of one message.
    """

    def __init__(self, memory: Memory, turns: int, max_message_bytes: int) -> None:
        self.memory, self.turns, self.max_message_bytes = memory, Turns(turns), max_message_bytes

    async def received(
        self,
        read: Callable[[], Awaitable[Content]],
        client: str,
        *,
        largest_bytes: int | None = None,
        seconds: float | None = None,
    ) -> Content:
        """What `read` gives; from then on it is the caller's to count, before anything else happens.

        Args:
            read: asks for the message; called once there is a turn for it.
            largest_bytes: that the message may have, where less than any other.
            seconds: that a slow upload may take; for ever where a client may have nothing to send for now.

        Raises:
            DeadlineUnmet: it did not arrive in time.
            Overloaded: it is slow, and there is no memory for one more such message.
        """
        await self.turns.take(client)
        size_bytes = self.max_message_bytes if largest_bytes is None else largest_bytes
        return await _Upload(self.memory, self.turns, client, size_bytes, seconds).content(read)
