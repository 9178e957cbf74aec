"""The server's life: bind, load, warm up, serve, drain.

Health is NOT_SERVING from before the port is bound until every model has run a batch, SERVING until SIGTERM or SIGINT,
NOT_SERVING while a batch has run for too long, and NOT_SERVING from a signal on. It never waits behind inference.

On a signal the server works on for the lame-duck time, for clients and balancers that have not seen the change. Then
it refuses what is new with UNAVAILABLE, answers what it has, for the grace time at most, and ends with the process: the
connections close, which clients see as UNAVAILABLE. gRPC's own stop is not used, because it answers calls that have
arrived and were not looked at yet with CANCELLED, which nobody repeats. Streams that only stand open (health's Watch,
an idle ClassifyStream) do not hold the server up.
"""

import asyncio
import gc
import json
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
from grpc_channelz.v1 import channelz
from grpc_health.v1 import health, health_pb2_grpc
from headwise.bundle import BundleError
from headwise.v1 import service_pb2, service_pb2_grpc

from headwise_server.addresses import Address, ListenError, UnixAddress, parse
from headwise_server.allocator import give_back_large_blocks
from headwise_server.batching import Batcher
from headwise_server.decoders import Decoders
from headwise_server.engines import Engine, EngineError
from headwise_server.gate import Gate
from headwise_server.gauges import observe
from headwise_server.http.listener import http_server
from headwise_server.identity import CURRENT
from headwise_server.in_flight import InFlight
from headwise_server.inference import State
from headwise_server.loading import LoadSettings, remove_copies
from headwise_server.memory import Memory
from headwise_server.open_inference import service_pb2_grpc as oip_grpc
from headwise_server.peers import PEER_SECONDS, Answers, Peers
from headwise_server.rate_limits import RateLimits
from headwise_server.readiness import Readiness
from headwise_server.receiving import Receiving
from headwise_server.reception import Reception
from headwise_server.repository import Repository, RepositoryError, RepositorySettings
from headwise_server.services.headwise import HeadwiseService
from headwise_server.services.inference import SERVICE as OPEN_INFERENCE
from headwise_server.services.inference import GRPCInferenceService
from headwise_server.services.reflection import enable_reflection
from headwise_server.settings import Settings
from headwise_server.telemetry import Telemetry
from headwise_server.tls import TlsError, server_credentials
from headwise_server.tokens import Tokens, TokensError
from headwise_server.tracing import TracingError, tracing_of_environment

logger = logging.getLogger(__name__)
START_ERRORS = (BundleError, EngineError, ListenError, RepositoryError, TlsError, TokensError, TracingError)
SERVICE = service_pb2.DESCRIPTOR.services_by_name["HeadwiseService"].full_name
REPLY_SLACK_BYTES = 2**16  # ours is the limit that says what to do
FIELDS_PER_IMAGE = 8  # of a request: more than an image has in any form
OTHER_FIELDS = 2**14  # labels to explain, above all
UNLIMITED = 2**31 - 1
WINDOW_BYTES = 2**16
SWITCH_SECONDS = 2e-4  # for which a thread whose batch is done may wait for a busy event loop; 5e-3 without this
KEEPALIVE_SECONDS, KEEPALIVE_TIMEOUT_SECONDS = 30, 10  # a connection without answer for so long is closed
LEAST_PING_SECONDS = 30  # between two pings of a client
SETTLE_SECONDS = 0.1  # for the last replies to reach their clients before the connections close


@dataclass(frozen=True)
class Host:
    """What the process does around serving.

    Args:
        listening: called with each address once it is bound; health says when models are served.
        end: called when all is answered; does not return, and ends the process with all connections.
        may_load: returns when models may be loaded.
        loads_first: models are loaded before any address is bound.
    """

    listening: Callable[[str], None]
    end: Callable[[], None]
    peers: Peers = field(default_factory=Peers)
    may_load: Callable[[], Awaitable[None]] | None = None
    loads_first: bool = False


def end_process() -> None:
    """End at once, with what stands in a thread or waits in gRPC."""
    remove_copies()
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)


def _options(settings: Settings, *, shares_port: bool) -> list[tuple[str, int]]:
    size_bytes = settings.max_message_mib * 2**20
    age = [
        ("grpc.max_connection_age_ms", round(settings.max_connection_age_seconds * 1000)),
        ("grpc.max_connection_age_grace_ms", round(settings.max_connection_age_grace_seconds * 1000)),
    ]
    return [
        *(age if settings.max_connection_age_seconds else ()),
        ("grpc.max_concurrent_streams", settings.max_concurrent_streams),
        # A second server on the same port fails loudly; workers share one that their supervisor holds for them.
        ("grpc.so_reuseport", int(shares_port)),
        ("grpc.max_receive_message_length", size_bytes),
        ("grpc.max_send_message_length", settings.max_reply_mib * 2**20 + REPLY_SLACK_BYTES),
        # The core would drop calls at random, with CANCELLED; we refuse them with a reason.
        ("grpc.server.max_pending_requests", UNLIMITED),
        ("grpc.server.max_pending_requests_hard_limit", UNLIMITED),
        ("grpc.compression_enabled_algorithms_bitset", 1),  # identity: a compressed message may unpack to anything
        # What arrives of a message before it is asked for; probing would let that grow to MiB for each call.
        ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Of clients: our own ask every minute while they wait for an answer; the core would take that for an attack.
        ("grpc.http2.min_ping_interval_without_data_ms", LEAST_PING_SECONDS * 1000),
    ]


def _bind(server: grpc.aio.Server, address: Address, credentials: grpc.ServerCredentials | None) -> str:
    """The address bound, with the port that was chosen where 0 was asked for."""
    why = address.why_not_free() if isinstance(address, UnixAddress) else ""
    if not why:
        try:
            if credentials:
                return str(address.bound(server.add_secure_port(str(address), credentials)))
            return str(address.bound(server.add_insecure_port(str(address))))
        except RuntimeError as error:
            why = f"is the port in use, or the address not this machine's? ({error})"
    raise ListenError(f"cannot listen on {address}: {why}. Choose another with --listen.")


def stop_event() -> asyncio.Event:
    """Set by SIGTERM and SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, stop.set)
        except NotImplementedError:  # the loop on Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
    return stop


async def _drain(in_flight: InFlight, grace_seconds: float) -> None:
    """Refuse what is new, and return when all that came before is answered or the grace time is over."""
    try:
        async with asyncio.timeout(grace_seconds):
            await in_flight.drain()
    except TimeoutError:
        logger.warning("%d calls are not answered after %.1f s; they end now", in_flight.calls, grace_seconds)
        await in_flight.end()
    await asyncio.sleep(SETTLE_SECONDS)


async def _loaded(load: Awaitable[None], stopping: "asyncio.Future[Any]") -> bool:
    """Load the models; whether that was done before the server was stopped."""
    loading = asyncio.ensure_future(load)
    await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
    if stopping.done():
        return False
    loading.result()
    return True


async def _hold_back(repository: Repository, peers: Peers) -> None:
    """Leave unloaded what the other workers were asked to unload."""
    for names in (await peers.ask("unloaded", timeout_seconds=PEER_SECONDS)).values():
        repository.hold_back(json.loads(names) if isinstance(names, str) else ())


def _answers(state: State, repository: Repository, readiness: Readiness) -> Answers:
    """What this worker says to the others."""

    async def changed(change: Callable[[str], Awaitable[None]], name: str) -> str:
        await change(name)
        return ""

    async def said(say: Callable[[], str], _: str) -> str:
        return say()

    return {
        "served": partial(said, lambda: json.dumps(sorted(readiness.own()))),
        "unloaded": partial(said, lambda: json.dumps(repository.unloaded)),
        "metrics": partial(said, lambda: state.telemetry.exposition().decode()),
        "statistics": partial(said, state.statistics.text),
        "load": partial(changed, repository.load),
        "unload": partial(changed, repository.unload),
    }


async def serve(settings: Settings, engine: Engine, host: Host) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ListenError: the port cannot be bound.
        TlsError, TokensError: the certificates or tokens cannot be used.
        TracingError: traces are asked for and cannot be made.
        RepositoryError, BundleError, EngineError: a model must not be served.
    """
    give_back_large_blocks()
    sys.setswitchinterval(SWITCH_SECONDS)
    stopping, telemetry = asyncio.ensure_future(stop_event().wait()), Telemetry(tracing_of_environment())
    credentials = server_credentials(settings.tls) if settings.tls else None
    threads = max(settings.streams, 2)
    batcher = Batcher(
        ThreadPoolExecutor(settings.streams, "engine"),
        streams=settings.streams,
        max_batch=settings.max_batch,
        max_queue=settings.max_queue,
        telemetry=telemetry,
    )
    decoders = Decoders(
        ThreadPoolExecutor(threads, "decode"),
        threads=threads,
        memory_bytes=settings.decoding_mib * 2**20,
        max_queue=settings.max_queue,
        telemetry=telemetry,
    )
    rates = RateLimits(settings.limits)
    tokens = Tokens(settings.tokens, settings.limits) if settings.tokens else None
    state = State(
        batcher,
        decoders,
        Memory(settings.counted_bytes),
        settings.max_reply_mib * 2**20,
        telemetry=telemetry,
        identity=CURRENT.get,
        rates=rates,
        peers=host.peers,
    )

    def is_stuck() -> bool:
        return batcher.longest_running_seconds > settings.stuck_seconds

    async def publish() -> None:
        state.models, state.is_loading = repository.models, False
        await readiness.publish()

    repository = Repository(
        RepositorySettings(
            settings.repository, settings.strict, settings.keep_versions, settings.reload_seconds, settings.max_slowdown
        ),
        LoadSettings(engine, settings.precision, settings.streams, settings.max_batch),
        publish,
    )
    readiness = Readiness((SERVICE, OPEN_INFERENCE), repository, is_stuck, host.peers)
    await readiness.start()
    observe(telemetry, state, repository.index)
    reception = Reception(
        (SERVICE, OPEN_INFERENCE),
        state.in_flight,
        Receiving(state.memory, settings.turns, settings.max_message_mib * 2**20),
        Gate(tokens, rates),
        max_calls=settings.max_calls,
        max_fields=FIELDS_PER_IMAGE * settings.max_queue + OTHER_FIELDS,
        telemetry=telemetry,
    )
    server = grpc.aio.server(interceptors=[reception], options=_options(settings, shares_port=host.peers.are_possible))
    service_pb2_grpc.add_HeadwiseServiceServicer_to_server(HeadwiseService(state), server)
    open_inference = GRPCInferenceService(
        state, repository, readiness.servicer, is_controlled=settings.repository_control
    )
    oip_grpc.add_GRPCInferenceServiceServicer_to_server(open_inference, server)
    health_pb2_grpc.add_HealthServicer_to_server(readiness.servicer, server)
    enable_reflection((SERVICE, OPEN_INFERENCE, health.SERVICE_NAME), server)
    if settings.channelz:
        channelz.add_channelz_servicer(server)

    async def load() -> None:
        if host.may_load:
            await host.may_load()
        await readiness.look()
        await repository.start()

    if host.loads_first:
        await _hold_back(repository, host.peers)
        if not await _loaded(repository.start(), stopping):
            host.end()
    bound = _bind(server, parse(settings.listen), credentials)
    await host.peers.listen(_answers(state, repository, readiness))  # who listens is there for the others
    host.listening(bound)
    http = http_server(settings, state, reception, readiness.servicer, host.listening) if settings.http_listen else None
    await server.start()
    following = asyncio.ensure_future(tokens.watch()) if tokens else None
    try:
        if await _loaded(load(), stopping):
            gc.freeze()  # what is there by now is not looked through again and again, 60 ms at a time, while calls wait
            logger.info("serving %s on %s", ", ".join(state.models) or "nothing yet", engine.name)
            watches = [asyncio.ensure_future(watch) for watch in (repository.watch(), readiness.watch())]
            await stopping
            for watch in watches:
                watch.cancel()
        await readiness.servicer.enter_graceful_shutdown()
        await asyncio.sleep(settings.lame_duck_seconds if state.models else 0)
        logger.info("draining")
        await _drain(state.in_flight, settings.grace_seconds)
        await asyncio.to_thread(telemetry.tracing.flush)
        if following:
            following.cancel()
        host.end()
    except BaseException:
        host.peers.close()
        if http:
            http.cancel()
        await server.stop(None)
        raise
