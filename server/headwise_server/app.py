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
import logging
import signal
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_channelz.v1 import channelz
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from headwise.v1 import service_pb2, service_pb2_grpc

from headwise_server.addresses import Address, ListenError, UnixAddress, parse
from headwise_server.allocator import give_back_large_blocks
from headwise_server.batching import Batcher
from headwise_server.decoders import Decoders
from headwise_server.engines import Engine
from headwise_server.gate import Gate
from headwise_server.gauges import observe
from headwise_server.http.listener import http_server
from headwise_server.identity import CURRENT
from headwise_server.in_flight import InFlight
from headwise_server.inference import State
from headwise_server.loading import LoadSettings
from headwise_server.memory import Memory
from headwise_server.open_inference import service_pb2_grpc as oip_grpc
from headwise_server.rate_limits import RateLimits
from headwise_server.reception import Reception
from headwise_server.repository import Repository, RepositorySettings
from headwise_server.services.headwise import HeadwiseService
from headwise_server.services.inference import SERVICE as OPEN_INFERENCE
from headwise_server.services.inference import GRPCInferenceService
from headwise_server.settings import Settings
from headwise_server.telemetry import Telemetry
from headwise_server.tls import server_credentials
from headwise_server.tokens import Tokens
from headwise_server.tracing import tracing_of_environment

logger = logging.getLogger(__name__)
SERVICE = service_pb2.DESCRIPTOR.services_by_name["HeadwiseService"].full_name
REPLY_SLACK_BYTES = 2**16  # ours is the limit that says what to do
FIELDS_PER_IMAGE = 8  # of a request: more than an image has in any form
OTHER_FIELDS = 2**14  # labels to explain, above all
UNLIMITED = 2**31 - 1
KEEPALIVE_SECONDS, KEEPALIVE_TIMEOUT_SECONDS = 30, 10  # a connection without answer for so long is closed
SETTLE_SECONDS = 0.1  # for the last replies to reach their clients before the connections close
WATCH_SECONDS = 0.5
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def _options(settings: Settings) -> list[tuple[str, int]]:
    size_bytes = settings.max_message_mib * 2**20
    age = [
        ("grpc.max_connection_age_ms", round(settings.max_connection_age_seconds * 1000)),
        ("grpc.max_connection_age_grace_ms", round(settings.max_connection_age_grace_seconds * 1000)),
    ]
    return [
        *(age if settings.max_connection_age_seconds else ()),
        ("grpc.max_concurrent_streams", settings.max_concurrent_streams),
        ("grpc.so_reuseport", 0),  # a second server on the same port fails loudly
        ("grpc.max_receive_message_length", size_bytes),
        ("grpc.max_send_message_length", settings.max_reply_mib * 2**20 + REPLY_SLACK_BYTES),
        # The core would drop calls at random, with CANCELLED; we refuse them with a reason.
        ("grpc.server.max_pending_requests", UNLIMITED),
        ("grpc.server.max_pending_requests_hard_limit", UNLIMITED),
        ("grpc.compression_enabled_algorithms_bitset", 1),  # identity: a compressed message may unpack to anything
        ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
        ("grpc.keepalive_permit_without_calls", 1),
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


def _stop_event() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, stop.set)
        except NotImplementedError:  # the loop on Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
    return stop


async def _set_health(
    servicer: health.aio.HealthServicer, repository: Repository, known: set[str], is_stuck: bool
) -> None:
    """Of each model: SERVING where a version of it is; of all: where any model is; of none where a batch hangs.

    Args:
        known: names of all models so far, also of those that are gone; new ones are added.
    """
    served = set() if is_stuck else set(repository.models)
    known |= {state.name for state in repository.index()}
    for name in sorted(known):
        await servicer.set(name, SERVING if name in served else NOT_SERVING)
    for name in ("", SERVICE, OPEN_INFERENCE):
        await servicer.set(name, SERVING if served else NOT_SERVING)


async def _watch(is_stuck: Callable[[], bool], publish: Callable[[], Awaitable[None]]) -> None:
    """Publish the health when a batch begins to hang, and when it no longer does."""
    was_stuck = False
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        if is_stuck() != was_stuck:
            was_stuck = not was_stuck
            logger.error("a batch hangs: NOT_SERVING" if was_stuck else "no batch hangs any more")
            await publish()


async def _drain(in_flight: InFlight, grace_seconds: float) -> None:
    """Refuse what is new, and return when all that came before is answered or the grace time is over."""
    try:
        async with asyncio.timeout(grace_seconds):
            await in_flight.drain()
    except TimeoutError:
        logger.warning("%d calls are not answered after %.1f s; they end now", in_flight.calls, grace_seconds)
        await in_flight.end()
    await asyncio.sleep(SETTLE_SECONDS)


async def serve(
    settings: Settings, engine: Engine, on_listening: Callable[[str], None], end_process: Callable[[], None]
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        on_listening: called with the address once the port is bound; health says when models are served.
        end_process: called when all is answered; does not return, and ends the process with all connections.

    Raises:
        ListenError: the port cannot be bound.
        TlsError, TokensError: the certificates or tokens cannot be used.
        TracingError: traces are asked for and cannot be made.
        RepositoryError, BundleError, EngineError: a model must not be served.
    """
    give_back_large_blocks()
    stop, telemetry = _stop_event(), Telemetry(tracing_of_environment())
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
        Memory(settings.memory_mib * 2**20),
        settings.max_reply_mib * 2**20,
        telemetry=telemetry,
        identity=CURRENT.get,
        rates=rates,
    )
    health_servicer = health.aio.HealthServicer()
    await health_servicer.set("", NOT_SERVING)  # it seeds SERVING
    names: set[str] = set()

    def is_stuck() -> bool:
        return batcher.longest_running_seconds > settings.stuck_seconds

    async def publish() -> None:
        state.models, state.is_loading = repository.models, False
        await _set_health(health_servicer, repository, names, is_stuck())

    repository = Repository(
        RepositorySettings(
            settings.repository, settings.strict, settings.keep_versions, settings.reload_seconds, settings.max_slowdown
        ),
        LoadSettings(engine, settings.precision, settings.streams, settings.max_batch),
        publish,
    )
    observe(telemetry, state, repository.index)
    reception = Reception(
        (SERVICE, OPEN_INFERENCE),
        state.in_flight,
        state.memory,
        Gate(tokens, rates),
        max_calls=settings.max_calls,
        max_message_bytes=settings.max_message_mib * 2**20,
        max_fields=FIELDS_PER_IMAGE * settings.max_queue + OTHER_FIELDS,
        telemetry=telemetry,
    )
    server = grpc.aio.server(interceptors=[reception], options=_options(settings))
    service_pb2_grpc.add_HeadwiseServiceServicer_to_server(HeadwiseService(state), server)
    open_inference = GRPCInferenceService(state, repository, health_servicer, is_controlled=settings.repository_control)
    oip_grpc.add_GRPCInferenceServiceServicer_to_server(open_inference, server)
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    reflection.enable_server_reflection((SERVICE, OPEN_INFERENCE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    if settings.channelz:
        channelz.add_channelz_servicer(server)
    on_listening(_bind(server, parse(settings.listen), credentials))
    http = http_server(settings, state, reception, health_servicer, on_listening) if settings.http_listen else None
    await server.start()
    following = asyncio.ensure_future(tokens.watch()) if tokens else None
    try:
        loading = asyncio.ensure_future(repository.start())
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            loading.result()
            logger.info("serving %s on %s", ", ".join(state.models) or "nothing yet", engine.name)
            watches = [asyncio.ensure_future(watch) for watch in (repository.watch(), _watch(is_stuck, publish))]
            await stopping
            for watch in watches:
                watch.cancel()
        await health_servicer.enter_graceful_shutdown()
        await asyncio.sleep(settings.lame_duck_seconds if state.models else 0)
        logger.info("draining")
        await _drain(state.in_flight, settings.grace_seconds)
        await asyncio.to_thread(telemetry.tracing.flush)
        if following:
            following.cancel()
        end_process()
    except BaseException:
        if http:
            http.cancel()
        await server.stop(None)
        raise
