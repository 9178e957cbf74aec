"""What happens to every HTTP request before and after its handler, as `headwise_server.reception` does it for gRPC.

The limits are the same ones: calls in hand, the size of a body before it is read, slow uploads, and memory. JSON takes
many times its size once it is parsed, holds Python's lock meanwhile, and is therefore counted as `JSON_COPIES` and
limited to `MAX_JSON_BYTES`. A client that closes its connection cancels its request.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

from starlette.datastructures import Headers, QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from headwise_server import logs
from headwise_server.calls import Call, observed
from headwise_server.errors import SHUTTING_DOWN, InvalidArgument, NotReady
from headwise_server.http.replies import JSON, BodyTooLarge, error_response
from headwise_server.inference import Caller, State
from headwise_server.receiving import COPIES, UPLOAD_SECONDS
from headwise_server.reception import Reception, as_service_error

SERVICE = "http"
JSON_COPIES = 32  # 26 were measured, of a body of empty objects
MAX_JSON_BYTES = 2**20  # which takes up to 0.4 s
CLIENT_CLOSED = "499"  # nginx's code for a client that did not wait
TIMEOUT = "timeout_seconds"
METRICS = "/metrics"


@dataclass(frozen=True)
class Received:
    """A request whose body is there."""

    path: Mapping[str, str]  # what the names in the path stand for
    query: QueryParams
    headers: Headers
    media_type: str  # in lower case, without parameters
    content: bytes
    caller: Caller


Handler = Callable[[State, Received], Awaitable[Response]]


def _deadline(query: QueryParams) -> float | None:
    text = query.get(TIMEOUT)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise InvalidArgument(TIMEOUT, f"expected a positive number, found {text[:64]!r}.")
    return time.monotonic() + seconds


def _peer(request: Request) -> str:
    """The address of a client as gRPC writes it, so that both ports have one view of who calls."""
    if not request.client:
        return "http"
    host, port = request.client
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"


def _length(headers: Headers) -> int | None:
    """What a request says of its body, which the parser of HTTP then holds it to."""
    text = headers.get("content-length", "")
    is_number = text.isascii() and text.isdecimal() and len(text) < 20
    return int(text) if is_number and "transfer-encoding" not in headers else None


async def _body(receive: Receive, limit_bytes: int, too_large: BodyTooLarge) -> bytes:
    chunks, size_bytes = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunks.append(message.get("body", b""))
        size_bytes += len(chunks[-1])
        if size_bytes > limit_bytes:
            raise too_large
        if not message.get("more_body", False):
            return b"".join(chunks)


@asynccontextmanager
async def _cancelled_when_left(receive: Receive) -> AsyncIterator[None]:
    """Cancel the task that waits here once its client is gone."""
    task = asyncio.current_task()

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if task:
            task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()


class Endpoint:
    """One method of one path, as an ASGI application.

    Args:
        reception: of the gRPC services, whose limits hold here as well.
        method, path: as metrics name it; the path with the names of its parts in braces.
        admits: whether it counts among the calls in hand, and is refused where there are too many.
    """

    def __init__(
        self, state: State, reception: Reception, method: str, path: str, handler: Handler, *, admits: bool = True
    ) -> None:
        self._state, self._reception, self._handler = state, reception, handler
        self._method, self._path, self._admits = method, path, admits
        self._name = f"{method} {path}"  # as metrics and the gate name it

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        task = asyncio.current_task()
        if task and self._admits:
            self._state.in_flight.add(task)
        request = Request(scope, receive)
        peer = _peer(request)
        identifier = logs.request_id(request.headers.get(logs.REQUEST_ID_HEADER))
        arrived = Call(SERVICE, self._name, peer, identifier, request.headers, CLIENT_CLOSED)
        with observed(self._reception.telemetry, arrived) as call:
            try:
                client, response = await self._response(request, peer, call)
                response.headers[logs.REQUEST_ID_HEADER] = identifier
                self._reception.hold_until_sent(client, len(response.body))
                await response(scope, receive, send)
                call.code = str(response.status_code)
            except (asyncio.CancelledError, ClientDisconnect):  # nobody listens any more
                if task:
                    task.uncancel()

    async def _response(self, request: Request, peer: str, call: Call) -> tuple[str, Response]:
        """Whose reply it is, and the reply."""
        client = peer
        try:
            client = self._entered(request, peer)
            return client, await self._answered(request, client)
        except ClientDisconnect:
            raise
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError):
                if not self._state.in_flight.ended:
                    raise
                error = NotReady(SHUTTING_DOWN)
            refusal = as_service_error(error)
            call.reason = refusal.reason
            return client, error_response(refusal, self._path)

    def _entered(self, request: Request, peer: str) -> str:
        """Whose turn and whose memory it is, where the request may be answered."""
        if self._admits:
            return self._reception.admit(self._name, request.headers.items(), peer).client
        if self._path == METRICS and (refusal := self._reception.gate.refusal(self._name, request.headers.items())):
            raise refusal  # they name the models
        return peer

    async def _answered(self, request: Request, client: str) -> Response:
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        caller = Caller(client, _deadline(request.query_params))
        received = Received(request.path_params, request.query_params, request.headers, media_type, b"", caller)
        if self._method != "POST":
            return await self._handler(self._state, received)
        largest_bytes, read = self._content(request, media_type == JSON)
        receiving = self._reception.receiving
        content = await receiving.received(read, client, largest_bytes=largest_bytes, seconds=UPLOAD_SECONDS)
        size_bytes = (JSON_COPIES if media_type == JSON else COPIES) * len(content)
        with self._reception.memory.hold(client, size_bytes):
            async with _cancelled_when_left(request.receive):
                return await self._handler(self._state, replace(received, content=content))

    def _content(self, request: Request, is_json: bool) -> tuple[int, Callable[[], Awaitable[bytes]]]:
        """How large the body may be, and what reads it."""
        max_message_bytes = self._reception.receiving.max_message_bytes
        memory_bytes = self._reception.memory.limit_bytes // JSON_COPIES  # more would never have room
        limit_bytes = min(MAX_JSON_BYTES, max_message_bytes, memory_bytes)
        advice = "Send the image itself rather than JSON, or fewer images in a call."
        if not is_json:
            limit_bytes = max_message_bytes
            advice = "Send fewer or smaller images in a call, or start the server with --max-message-mib."
        too_large = BodyTooLarge("body", f"expected at most {limit_bytes / 2**20:.1f} MiB, found more. {advice}")
        length = _length(request.headers)
        if length is not None and length > limit_bytes:
            raise too_large
        largest_bytes = limit_bytes if length is None else length
        return largest_bytes, partial(_body, request.receive, limit_bytes, too_large)
