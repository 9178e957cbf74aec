"""Every path of the HTTP port, with what answers it."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from grpc_health.v1 import health
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from headwise_server.errors import ServiceError
from headwise_server.http import classification, explanation, open_inference, page, probes
from headwise_server.http.bodies import check_query
from headwise_server.http.openapi import document
from headwise_server.http.reception import METRICS, Endpoint, Handler, Received
from headwise_server.http.replies import MethodNotAllowed, NoSuchPath, error_response, json_response
from headwise_server.inference import State
from headwise_server.reception import Reception

GET, POST = "GET", "POST"
V1, V2 = "/v1/models/{name}", "/v2/models/{name}"
VERSION = "/versions/{version}"
HEAD_SAMPLES = "/head-samples"


async def openapi(state: State, received: Received) -> Response:
    """GET /openapi.json."""
    check_query(received.query, ())
    name = min(state.visible, default="digits")
    return json_response(document(name, str(max(state.visible.get(name, [1])))))


Routes = Mapping[tuple[str, str], Handler]


def probe_routes(health_servicer: health.aio.HealthServicer) -> Routes:
    """What is always answered, like gRPC's health, even while the server drains or is full."""
    ready = probes.ready(health_servicer)
    return {
        (GET, METRICS): probes.metrics,
        (GET, "/healthz"): probes.alive,
        (GET, "/readyz"): ready,
        (GET, "/v2/health/live"): probes.alive,
        (GET, "/v2/health/ready"): ready,
    }


def model_routes(health_servicer: health.aio.HealthServicer) -> Routes:
    """The others, under the limits of the server."""
    model_ready = probes.model_ready(health_servicer)
    return {
        (GET, "/openapi.json"): openapi,
        (GET, "/v1/models"): classification.models,
        (GET, V1): classification.model,
        (GET, V1 + VERSION): classification.model,
        (GET, V1 + HEAD_SAMPLES): classification.head_samples,
        (GET, V1 + VERSION + HEAD_SAMPLES): classification.head_samples,
        (POST, V1 + ":classify"): classification.classify,
        (POST, V1 + VERSION + ":classify"): classification.classify,
        (POST, V1 + ":explain"): explanation.explain,
        (POST, V1 + VERSION + ":explain"): explanation.explain,
        (GET, "/v2"): open_inference.server,
        (GET, V2): open_inference.model,
        (GET, V2 + VERSION): open_inference.model,
        (GET, V2 + "/ready"): model_ready,
        (GET, V2 + VERSION + "/ready"): model_ready,
        (POST, V2 + "/infer"): open_inference.infer,
        (POST, V2 + VERSION + "/infer"): open_inference.infer,
    }


def page_routes() -> Routes:
    """The page for people, whose files need no token: what it asks the server for does."""
    answer = page.page_file(page.page_files())
    return {(GET, "/"): page.to_page, (GET, "/ui"): page.to_page, (GET, "/ui/"): answer, (GET, "/ui/{file}"): answer}


async def _refused(request: Request, error: Exception) -> Response:
    """What Starlette refuses by itself."""
    refusal: ServiceError = NoSuchPath("expected a path of /openapi.json, found another.")
    if isinstance(error, HTTPException) and error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        refusal = MethodNotAllowed(f"expected one of the methods {allowed}, found another.")
        response = error_response(refusal, request.url.path)
        response.headers["Allow"] = allowed
        return response
    return error_response(refusal, request.url.path)


def application(
    state: State, reception: Reception, health_servicer: health.aio.HealthServicer, *, has_page: bool
) -> Starlette:
    """The paths as an ASGI application.

    Args:
        health_servicer: what is ready is what it says is serving.
        has_page: whether the page for people is served as well.
    """
    open_routes = {**probe_routes(health_servicer), **(page_routes() if has_page else {})}
    routes = [
        Route(path, Endpoint(state, reception, method, path, handler, admits=admits), methods=[method])
        for admits, group in ((False, open_routes), (True, model_routes(health_servicer)))
        for (method, path), handler in group.items()
    ]
    routes.sort(key=lambda route: ":" not in route.path)  # `NAME:classify` before a model of that name
    handlers: Mapping[Any, Callable[[Request, Exception], Awaitable[Response]]] = {404: _refused, 405: _refused}
    application = Starlette(routes=routes, exception_handlers=handlers)
    application.router.redirect_slashes = False
    return application
