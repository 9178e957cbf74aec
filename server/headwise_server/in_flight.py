"""Calls in flight: what a server that drains still has to answer.

A call is in flight from the moment gRPC hands it over until gRPC has sent its status, so also while its request still
arrives and while its reply is on its way to a slow client. Streams of other services (health's Watch, reflection) stand
open without end and do not count. Our own streams count, and end once they have answered what they received before
the drain.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc


class InFlight:
    """The calls in flight, and the tasks that receive the requests of open streams. Belongs to one event loop."""

    def __init__(self) -> None:
        self._calls: set[asyncio.Task[Any]] = set()
        self._receivers: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self.draining = False  # streams receive no more requests

    def add(self, call: asyncio.Task[Any]) -> None:
        """Count a call until its task is done."""
        self._calls.add(call)
        self._idle.clear()
        call.add_done_callback(self._remove)

    def _remove(self, call: asyncio.Task[Any]) -> None:
        self._calls.discard(call)
        if not self._calls:
            self._idle.set()

    def add_receiver(self, receiver: asyncio.Task[None]) -> None:
        """Cancel a task that receives the requests of a stream once the server drains, or now if it drains already."""
        self._receivers.add(receiver)
        receiver.add_done_callback(self._receivers.discard)
        if self.draining:
            receiver.cancel()

    async def drain(self) -> None:
        """Have streams receive no more requests, and return when no call is in flight."""
        self.draining = True
        for receiver in self._receivers:
            receiver.cancel()
        await self._idle.wait()


class CallCounter(grpc.aio.ServerInterceptor):
    """Counts calls as in flight; grpc.aio runs a call, with the sending of its status, in one task.

    Args:
        services: whose streams count too.
    """

    def __init__(self, in_flight: InFlight, *services: str) -> None:
        self._in_flight, self._prefixes = in_flight, tuple(f"/{service}/" for service in services)

    async def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Count the call, unless it is a stream of another service."""
        handler, call = await continuation(handler_call_details), asyncio.current_task()
        is_own = handler_call_details.method.startswith(self._prefixes)
        if handler and call and (is_own or not handler.response_streaming):
            self._in_flight.add(call)
        return handler
