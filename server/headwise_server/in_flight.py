"""The calls in flight, so that a drain loses none: a call counts from its arrival until its status is sent."""

import asyncio
from typing import Any

END_SECONDS = 1.0  # for clients to take the status


class InFlight:
    """The calls in flight, and the tasks that receive the requests of open streams. Belongs to one event loop."""

    def __init__(self) -> None:
        self._calls: set[asyncio.Task[Any]] = set()
        self._receivers: set[asyncio.Task[None]] = set()
        self.draining = False  # new calls are refused, and streams receive no more requests
        self.ended = False  # and what is still there is cut off

    @property
    def calls(self) -> int:
        """How many there are."""
        return len(self._calls)

    def add(self, call: asyncio.Task[Any]) -> None:
        """Count a call until its task is done; grpc.aio runs a call, with the sending of its status, in one task."""
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    def add_receiver(self, receiver: asyncio.Task[None]) -> None:
        """Cancel a task that receives the requests of a stream once the server drains, or now if it drains already."""
        self._receivers.add(receiver)
        receiver.add_done_callback(self._receivers.discard)
        if self.draining:
            receiver.cancel()

    async def drain(self) -> None:
        """Refuse new calls, have streams receive no more requests, and return when all that came before is done."""
        self.draining = True
        for receiver in self._receivers:
            receiver.cancel()
        if self._calls:
            await asyncio.wait(self._calls)

    async def end(self) -> None:
        """Cut off the calls that are still there, and return when they know it."""
        self.ended = True
        for call in self._calls:
            call.cancel()
        if self._calls:
            await asyncio.wait(self._calls, timeout=END_SECONDS)
