"""The server's life: bind, load, warm up, serve, drain.

Health is NOT_SERVING from before the port is bound until every model has run a batch, SERVING until SIGTERM or SIGINT,
and NOT_SERVING while the server drains. It never waits behind inference. On a signal the server keeps accepting for a
short while, so that calls already on their way and clients that have not seen the change are answered, then refuses new
calls, sends the replies to those it has, and stops within the grace time. Streams that only stand open (health's Watch,
an idle ClassifyStream) do not hold it up.
"""

import asyncio
import logging
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from headwise.v1 import service_pb2, service_pb2_grpc

from headwise_server.batching import Batcher
from headwise_server.engines import Engine
from headwise_server.in_flight import CallCounter, InFlight
from headwise_server.inference import State
from headwise_server.open_inference import service_pb2_grpc as oip_grpc
from headwise_server.repository import Models, load_all
from headwise_server.services.headwise import HeadwiseService
from headwise_server.services.inference import SERVICE as OPEN_INFERENCE
from headwise_server.services.inference import GRPCInferenceService

logger = logging.getLogger(__name__)
SERVICE = service_pb2.DESCRIPTOR.services_by_name["HeadwiseService"].full_name
LAME_DUCK_SECONDS = 0.5
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class ListenError(Exception):
    """The address cannot be listened on."""


@dataclass(frozen=True)
class Settings:
    """How a server runs."""

    repository: Path
    listen: str
    precision: str  # of Classify: "auto" or "f32"
    streams: int  # batches that run at the same time
    max_batch: int  # images
    max_queue: int  # images
    max_message_mib: int
    grace_seconds: float


def _options(settings: Settings) -> list[tuple[str, int]]:
    size_bytes = settings.max_message_mib * 2**20
    return [
        ("grpc.so_reuseport", 0),  # a second server on the same port fails loudly
        ("grpc.max_receive_message_length", size_bytes),
        ("grpc.max_send_message_length", size_bytes),
    ]


def _bind(server: grpc.aio.Server, address: str) -> str:
    """The address bound, with the port that was chosen where 0 was asked for."""
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise ListenError(
            f"cannot listen on {address}: is the port in use, or the address not this machine's? "
            f"Choose another with --listen. ({error})"
        ) from error
    return f"{address.rsplit(':', 1)[0]}:{port}"


def warm_up(models: Models, max_batch: int) -> None:
    """Run every session at the smallest and the largest batch, so that no client pays for a first run."""
    for versions in models.values():
        for model in versions.values():
            expected = model.manifest.input
            for session in (model.classify, model.explain):
                for batch in (1, max_batch):
                    session.run(np.zeros((batch, expected.height, expected.width, expected.channels), np.uint8))


def _stop_event() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, stop.set)
        except NotImplementedError:  # the loop on Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
    return stop


async def _load(settings: Settings, engine: Engine) -> Models:
    def load() -> Models:
        models = load_all(settings.repository, engine, settings.precision, settings.streams)
        warm_up(models, settings.max_batch)
        return models

    return await asyncio.to_thread(load)


async def _drain(server: grpc.aio.Server, in_flight: InFlight, grace_seconds: float) -> None:
    """Refuse new calls, and stop when what was accepted is answered or the grace time is over."""
    stopped = asyncio.ensure_future(server.stop(grace_seconds))
    drained = asyncio.ensure_future(in_flight.drain())
    await asyncio.wait((stopped, drained), return_when=asyncio.FIRST_COMPLETED)
    drained.cancel()
    await server.stop(None)  # ends the streams that only stand open
    await stopped


async def serve(settings: Settings, engine: Engine, on_listening: Callable[[str], None] = lambda address: None) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        on_listening: called with the address once the port is bound; health says when models are served.

    Raises:
        ListenError: the port cannot be bound.
        RepositoryError, BundleError, EngineError: a model must not be served.
    """
    stop = _stop_event()
    runners = ThreadPoolExecutor(settings.streams, "engine")
    decoders = ThreadPoolExecutor(max(settings.streams, 2), "decode")
    batcher = Batcher(runners, streams=settings.streams, max_batch=settings.max_batch, max_queue=settings.max_queue)
    state = State(batcher, decoders)
    health_servicer = health.aio.HealthServicer()
    await health_servicer.set("", NOT_SERVING)  # it seeds SERVING
    server = grpc.aio.server(
        interceptors=[CallCounter(state.in_flight, SERVICE, OPEN_INFERENCE)], options=_options(settings)
    )
    service_pb2_grpc.add_HeadwiseServiceServicer_to_server(HeadwiseService(state), server)
    oip_grpc.add_GRPCInferenceServiceServicer_to_server(GRPCInferenceService(state), server)
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    reflection.enable_server_reflection((SERVICE, OPEN_INFERENCE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    on_listening(_bind(server, settings.listen))
    await server.start()
    try:
        loading = asyncio.ensure_future(_load(settings, engine))
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            state.models = loading.result()
            for name in ("", SERVICE, OPEN_INFERENCE, *state.models):
                await health_servicer.set(name, SERVING)
            logger.info("serving %s on %s", ", ".join(state.models), engine.name)
            await stopping
            logger.info("draining")
        await health_servicer.enter_graceful_shutdown()
        await asyncio.sleep(LAME_DUCK_SECONDS if state.models else 0)
    finally:
        await _drain(server, state.in_flight, settings.grace_seconds)
        await batcher.close()
        for pool in (runners, decoders):
            pool.shutdown(wait=False, cancel_futures=True)
