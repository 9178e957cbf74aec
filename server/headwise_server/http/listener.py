"""The second port: uvicorn in the event loop of the gRPC server.

It neither handles signals nor drains: `app` does both, for the calls of both ports together.
"""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from grpc_health.v1 import health
from uvicorn.protocols.http.h11_impl import H11Protocol

from headwise_server.addresses import ListenError, TcpAddress, parse
from headwise_server.http.certificates import ListeningContext
from headwise_server.http.routes import application
from headwise_server.inference import State
from headwise_server.listening import ListeningSocket
from headwise_server.reception import Reception
from headwise_server.settings import Settings

HEADER_SECONDS = 10.0  # for the headers of a connection's first request, and between two requests
BACKLOG = 2048


class _Protocol(H11Protocol):
    """Closes a connection whose request is not there in time; a part of the headers is no request."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn narrows it as well
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(HEADER_SECONDS, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        self.conn.receive_data(data)
        self.handle_events()


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to whoever handles them."""
        yield


def _bound(address: TcpAddress, *, shares_port: bool) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        place = (address.host, address.port)
        bound = socket.create_server(place, family=family, backlog=BACKLOG, reuse_port=shares_port)
        return ListeningSocket(fileno=bound.detach())
    except OSError as error:
        raise ListenError(
            f"cannot listen on {address}: is the port in use, or the address not this machine's? ({error}). "
            "Choose another with --http-listen."
        ) from error


def http_server(
    settings: Settings,
    state: State,
    reception: Reception,
    health_servicer: health.aio.HealthServicer,
    on_listening: Callable[[str], None],
) -> "asyncio.Task[None]":
    """Serve HTTP until the task is cancelled.

    Args:
        health_servicer: what is ready is what it says is serving.
        on_listening: called with the URL once the port is bound.

    Raises:
        ListenError: the port cannot be bound.
        TlsError: the certificates cannot be used.
    """
    address = parse(settings.http_listen or "")
    assert isinstance(address, TcpAddress)  # noqa: S101  # the settings are checked
    config = uvicorn.Config(
        application(state, reception, health_servicer, has_page=settings.ui),
        http=_Protocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,  # whose request it is says the connection, not a header
        timeout_keep_alive=int(HEADER_SECONDS),
    )
    config.load()
    if settings.tls:
        config.ssl = ListeningContext(settings.tls)
    listening = _bound(address, shares_port=state.peers.are_possible)
    task = asyncio.ensure_future(_Server(config).serve(sockets=[listening]))
    on_listening(f"http{'s' * bool(settings.tls)}://{address.bound(listening.getsockname()[1])}")
    return task
