"""What happens to every call of our services before and after its handler: in one place, so that none is left out.

A call is counted, refused while the server drains or is full, received (`receiving`), parsed, handled and answered;
whatever goes wrong on the way ends it with a google.rpc.Status of ours. To decide before a message is received, unary
calls are taken as streams of one message, which look the same on the wire.
"""

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2

from headwise_server import logs
from headwise_server.calls import CANCELLED, OK, Call, observed
from headwise_server.errors import (
    SHUTTING_DOWN,
    DeadlineUnmet,
    Internal,
    InvalidArgument,
    NotReady,
    Overloaded,
    ServiceError,
)
from headwise_server.gate import Gate, Metadata
from headwise_server.identity import CURRENT, Identity
from headwise_server.in_flight import InFlight
from headwise_server.parsing import parsing_bytes
from headwise_server.receiving import COPIES, UPLOAD_SECONDS, Arrived, Receiving, to_its_end
from headwise_server.telemetry import Telemetry

logger = logging.getLogger(__name__)
DEADLINE_EXCEEDED = code_pb2.Code.Name(code_pb2.DEADLINE_EXCEEDED)
OFF_LOOP_BYTES = 2**20  # a message larger than this is parsed in a thread
FULL_RETRY_SECONDS = 0.1

Context = grpc.aio.ServicerContext[Any, Any]
Handler = Any  # grpc.RpcMethodHandler; its published types are those of the synchronous server
Parse = Callable[[bytes], Message]


def as_service_error(error: BaseException) -> ServiceError:
    """The error that the client gets; an unforeseen one is logged and becomes Internal.

    Its traceback is cleared: a future and the frame that waited for it keep each other, and with them the images of a
    request, until the garbage collector comes, which with few and large objects is late.
    """
    if not isinstance(error, (ServiceError, asyncio.CancelledError)):
        logger.error("unforeseen error in a handler", exc_info=error)
    _clear(error)
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, asyncio.CancelledError):
        return DeadlineUnmet("the call was cancelled while it was worked on.")
    return Internal("an unforeseen error; the server's log has it.")


def _was_cancelled(error: BaseException) -> bool:
    """Whether somebody has cancelled the call's task, rather than a part of the work."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def _clear(error: BaseException | None) -> None:
    while error:
        for each in (error, *(error.exceptions if isinstance(error, BaseExceptionGroup) else ())):
            traceback.clear_frames(each.__traceback__)
            each.__traceback__ = None  # the frame that handles the error is still running, and keeps it in turn
        error = error.__context__


def _refusing(error: ServiceError) -> Handler:
    """A handler that refuses a call, whatever it takes and gives."""

    async def refuse(_: AsyncIterator[bytes], context: Context) -> None:
        await context.abort_with_status(error.grpc_status())

    return grpc.stream_stream_rpc_method_handler(refuse, None, None)


class _Requests(AsyncIterator[Arrived[Message]]):
    """The requests of a stream; a generator would keep each until the next has come."""

    def __init__(self, receive: Callable[[], Awaitable[Arrived[Message] | None]]) -> None:
        self._receive = receive

    async def __anext__(self) -> Arrived[Message]:
        if (arrived := await self._receive()) is None:
            raise StopAsyncIteration
        return arrived


class Reception(grpc.aio.ServerInterceptor):
    """The calls of our services, from their arrival to their end. Belongs to one event loop.

    Args:
        services: full names of those that are ours; of others (health, reflection) unary calls are counted only, and
            let in or not.
        receiving: receives messages.
        gate: lets calls in.
        max_calls: that may be in hand at a time.
        max_fields: of one message, those of the messages inside included.
        telemetry: where calls are measured.
    """

    def __init__(
        self,
        services: tuple[str, ...],
        in_flight: InFlight,
        receiving: Receiving,
        gate: Gate,
        *,
        max_calls: int,
        max_fields: int,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.telemetry = telemetry or Telemetry()
        self._prefixes = tuple(f"/{service}/" for service in services)
        self.in_flight, self.receiving, self.memory, self.gate = in_flight, receiving, receiving.memory, gate
        self._max_calls, self._max_fields = max_calls, max_fields

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Take the call."""
        handler, call = await continuation(handler_call_details), asyncio.current_task()
        if handler is None or call is None:
            return handler
        method = handler_call_details.method
        if not method.startswith(self._prefixes):
            if not handler.response_streaming:
                self.in_flight.add(call)
            refusal = self.gate.refusal(method, handler_call_details.invocation_metadata or ())
            return _refusing(refusal) if refusal else handler
        self.in_flight.add(call)
        if handler.response_streaming:
            stream = partial(self._stream, handler, method)
            return grpc.stream_stream_rpc_method_handler(stream, None, handler.response_serializer)
        return grpc.stream_unary_rpc_method_handler(partial(self._unary, handler, method), None, None)

    def admit(self, method: str, metadata: Metadata, peer: str) -> Identity:
        """Let one more call be worked on; it is in flight already. Who makes it is `CURRENT` from here on.

        Raises:
            NotReady: the server drains.
            Overloaded: too many calls are in hand.
            Unauthenticated, RateLimited: the gate does not let it in.
        """
        if self.in_flight.draining:
            raise NotReady(SHUTTING_DOWN)
        if self.in_flight.calls > self._max_calls:
            raise Overloaded(f"{self.in_flight.calls} calls are in hand", FULL_RETRY_SECONDS)
        identity = self.gate.enter(method, metadata, peer)
        CURRENT.set(identity)
        return identity

    async def _unary(self, handler: Handler, method: str, contents: AsyncIterator[bytes], context: Context) -> bytes:
        with observed(self.telemetry, _call(method, context)) as call:
            try:
                client = self.admit(method, context.invocation_metadata() or (), context.peer()).client
                reply = await self._reply(handler, client, context)
            except (Exception, asyncio.CancelledError) as error:
                if (ending := self._ending(error, context, call)) is None:
                    raise asyncio.CancelledError from None
            else:
                self.hold_until_sent(client, len(reply))
                call.code = OK
                return reply
            del context, contents  # the error below stays with the call, and must not keep it in turn
            await _ended(ending)
        raise AssertionError("abort_with_status raises")

    async def _reply(self, handler: Handler, client: str, context: Context) -> bytes:
        content = await self.receiving.received(partial(_message, context), client, seconds=UPLOAD_SECONDS)
        with self.memory.hold(client, self._size_bytes(handler, content)):
            request = await _parsed(handler.request_deserializer, content)
            del content
            reply: bytes = (await handler.unary_unary(request, context)).SerializeToString()
        return reply

    def _size_bytes(self, handler: Handler, content: bytes) -> int:
        """What the message takes with what is made of it; an error where it has too many fields."""
        message_class: Any = handler.request_deserializer.__self__  # whose class method FromString it is
        parsed_bytes = parsing_bytes(content, message_class.DESCRIPTOR, self._max_fields)
        return (COPIES - 1) * len(content) + parsed_bytes

    def _ending(self, error: BaseException, context: Context, call: Call) -> Awaitable[None] | None:
        """What ends a call with a status; None where gRPC has ended it: its client has left, or its deadline is over.

        Nobody would get that status, and gRPC's core loses half a kilobyte with each that it cannot send.
        """
        is_late, is_cancelled = context.time_remaining() == 0, _was_cancelled(error)
        if is_cancelled and self.in_flight.ended:
            error, is_cancelled = NotReady(SHUTTING_DOWN), False
        refusal = as_service_error(error)
        call.code, call.reason = code_pb2.Code.Name(refusal.code), refusal.reason
        if is_cancelled:
            call.code, call.reason = DEADLINE_EXCEEDED if is_late else CANCELLED, ""
        if is_cancelled or is_late:
            return None
        status: Any = refusal.grpc_status()
        metadata = (*status.trailing_metadata, (logs.REQUEST_ID_HEADER, call.request_id))
        return context.abort_with_status(status._replace(trailing_metadata=metadata))

    def hold_until_sent(self, client: str, size_bytes: int) -> None:
        """Count the reply of the call that this task answers, until the task is done."""
        self.memory.take(client, size_bytes)
        if call := asyncio.current_task():
            call.add_done_callback(lambda _: self.memory.give_back(client, size_bytes))

    async def _next(self, handler: Handler, client: str, context: Context) -> Arrived[Message] | None:
        """The next request of a stream, or None at its end; while it is waited for it counts as a slow upload."""
        content = await self.receiving.received(partial(to_its_end, context.read), client)
        if content is grpc.aio.EOF:
            return None
        parsed = partial(_parsed, handler.request_deserializer, content)
        return Arrived(len(content), self._size_bytes(handler, content), parsed)

    async def _stream(
        self, handler: Handler, method: str, _: AsyncIterator[bytes], context: Context
    ) -> AsyncIterator[Any]:
        with observed(self.telemetry, _call(method, context)) as call:
            try:
                client = self.admit(method, context.invocation_metadata() or (), context.peer()).client
                requests = _Requests(partial(self._next, handler, client, context))
                async for reply in handler.stream_stream(requests, context):
                    yield reply
                call.code = OK
                return
            except (Exception, asyncio.CancelledError) as error:
                if (ending := self._ending(error, context, call)) is None:
                    raise asyncio.CancelledError from None
            del context
            await _ended(ending)


def _call(method: str, context: Context) -> Call:
    """A call as it arrives; its reply says which id it has."""
    service, _, name = method.removeprefix("/").partition("/")
    metadata = dict(context.invocation_metadata() or ())
    identifier = logs.request_id(metadata.get(logs.REQUEST_ID_HEADER))
    context.set_trailing_metadata(((logs.REQUEST_ID_HEADER, identifier),))
    return Call(service, name, context.peer(), identifier, metadata)


async def _message(context: Context) -> bytes:
    """The one message of a unary call."""
    content = await to_its_end(context.read)
    if content is grpc.aio.EOF:
        raise InvalidArgument("request", "expected a message, found the end of the call.")
    return bytes(content)


async def _ended(ending: Awaitable[None]) -> None:
    """End a call; always raises."""
    try:
        await ending
    except grpc.aio.InternalError:  # its client has left meanwhile; grpc.aio would log that
        raise asyncio.CancelledError from None


async def _parsed(parse: Parse, content: bytes) -> Message:
    try:
        if len(content) > OFF_LOOP_BYTES:
            return await asyncio.to_thread(parse, content)
        return parse(content)
    except DecodeError:
        raise InvalidArgument("request", f"expected a protobuf message, found {len(content)} other bytes.") from None
