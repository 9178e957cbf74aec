"""Paths for those who run the server: metrics, whether the process answers, whether it should be sent requests."""

import asyncio

from grpc_health.v1 import health, health_pb2
from starlette.responses import Response

from headwise_server.http.bodies import check_query
from headwise_server.http.reception import Handler, Received
from headwise_server.http.replies import json_response
from headwise_server.inference import State
from headwise_server.model_descriptions import served
from headwise_server.peers import PEER_SECONDS
from headwise_server.telemetry import CONTENT_TYPE, merged


async def metrics(state: State, received: Received) -> Response:
    """GET /metrics: of all workers, but for one that hangs; health says so of it."""
    own, peers = state.telemetry.exposition(), state.peers
    if not peers.are_possible:
        return Response(own, media_type=CONTENT_TYPE)
    others = await peers.ask("metrics", timeout_seconds=PEER_SECONDS)
    texts = {worker: text for worker, text in others.items() if isinstance(text, str)}
    whole = await asyncio.to_thread(merged, dict(sorted({**texts, str(peers.number): own.decode()}.items())))
    return Response(whole, media_type=CONTENT_TYPE)


async def alive(state: State, received: Received) -> Response:
    """GET /healthz and /v2/health/live."""
    return json_response({"live": True})


async def _is_serving(health_servicer: health.aio.HealthServicer) -> bool:
    reply = await health_servicer.Check(health_pb2.HealthCheckRequest(), None)  # type: ignore[arg-type]  # of a name it knows
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


def ready(health_servicer: health.aio.HealthServicer) -> Handler:
    """GET /readyz and /v2/health/ready: whether gRPC's health says that the server is serving."""

    async def answer(state: State, received: Received) -> Response:
        is_serving = await _is_serving(health_servicer)
        return json_response({"ready": is_serving}, 200 if is_serving else 503)

    return answer


def model_ready(health_servicer: health.aio.HealthServicer) -> Handler:
    """GET /v2/models/NAME/ready."""

    async def answer(state: State, received: Received) -> Response:
        check_query(received.query, ())
        asked = served(state, received.path["name"], received.path.get("version", ""))
        is_serving = await _is_serving(health_servicer)
        return json_response({"name": asked.name, "ready": is_serving}, 200 if is_serving else 503)

    return answer
