"""Traces in OpenTelemetry's form: a span for each call, below its caller's; one for each batch, linked to its calls.

Nothing is traced unless OTEL_EXPORTER_OTLP_ENDPOINT is set; then the extra `telemetry` must be there. Spans go to that
address over gRPC, in the background; those that nobody takes are dropped by OpenTelemetry's own bounds, which the
other OTEL_ variables set.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from importlib.metadata import version
from typing import Any

ENDPOINT, SERVICE_NAME = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SERVICE_NAME"
FLUSH_MILLISECONDS = 2000  # for the last spans, when the server ends
Attributes = Mapping[str, str | int]
Span = Any  # opentelemetry.trace.Span, whose package need not be there

CURRENT: ContextVar[Span | None] = ContextVar("span", default=None)  # of the call that is being answered


class TracingError(Exception):
    """Traces are asked for and cannot be made."""


@contextmanager
def _call(tracer: Any, name: str, attributes: Attributes, headers: Mapping[str, Any]) -> Iterator[Span]:
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    parent = TraceContextTextMapPropagator().extract(headers)
    span = tracer.start_span(name, context=parent, kind=SpanKind.SERVER, attributes=attributes)
    CURRENT.set(span)  # a call is a task, with a context of its own
    try:
        yield span
    finally:
        span.end()


class Tracing:
    """Makes spans.

    Args:
        provider: of tracers, from OpenTelemetry; None where nothing is traced.
    """

    def __init__(self, provider: Any = None) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("headwise_server") if provider else None

    def call(
        self, name: str, attributes: Attributes, headers: Mapping[str, Any]
    ) -> AbstractContextManager[Span | None]:
        """The span of a call, which the batches that it waits for are linked to.

        Args:
            headers: of the call, whose `traceparent` says what it is a part of.
        """
        return nullcontext() if self._tracer is None else _call(self._tracer, name, attributes, headers)

    @contextmanager
    def batch(self, attributes: Attributes, calls: Iterable[Span | None]) -> Iterator[None]:
        """The span of a batch, with links to the calls that it is for."""
        if self._tracer is None:
            yield
            return
        from opentelemetry.context import Context
        from opentelemetry.trace import Link

        links = [Link(span.get_span_context()) for span in dict.fromkeys(calls) if span]
        span = self._tracer.start_span("batch", context=Context(), links=links, attributes=attributes)
        try:
            yield
        finally:
            span.end()

    def flush(self) -> None:
        """Send what is not sent yet; gives up after a while. Blocks."""
        if self._provider:
            self._provider.force_flush(FLUSH_MILLISECONDS)


def tracing_of_environment() -> Tracing:
    """What the OTEL_ variables ask for.

    Raises:
        TracingError: they ask for traces, and the extra is missing.
    """
    if not os.environ.get(ENDPOINT):
        return Tracing()
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise TracingError(
            f"{ENDPOINT} is set, so expected OpenTelemetry, found no {error.name}. "
            "Install 'headwise[telemetry]', or unset the variable."
        ) from error
    own = {"service.name": os.environ.get(SERVICE_NAME, "headwise-server"), "service.version": version("headwise")}
    provider = TracerProvider(resource=Resource.create(own))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)
