"""Traces, as a collector gets them from a real server: calls below their callers, batches linked to their calls."""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import processes
import pytest
from headwise.v1 import service_pb2 as pb
from headwise.v1.service_pb2_grpc import HeadwiseServiceStub
from http_support import PNG, SECONDS, running_http_server
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as collector_pb
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(TraceServiceServicer):
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Take spans."""
        for resource in request.resource_spans:
            self.resources.append({each.key: each.value.string_value for each in resource.resource.attributes})
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        return collector_pb.ExportTraceServiceResponse()

    def named(self, name: str) -> list[Any]:
        """The spans of that name."""
        return [span for span in list(self.spans) if span.name == name]


@pytest.fixture
def collector() -> Iterator[tuple[Collector, str]]:
    """A collector, and where it listens."""
    kept, server = Collector(), grpc.server(ThreadPoolExecutor(2))
    add_TraceServiceServicer_to_server(kept, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield kept, f"http://127.0.0.1:{port}"
    server.stop(None).wait(SECONDS)


def attributes(span: Any) -> dict[str, str]:
    """Those of a span that are texts."""
    return {each.key: each.value.string_value for each in span.attributes}


def test_spans_of_calls_and_batches(collector: tuple[Collector, str], repository: Path) -> None:
    """Of both ports; the last ones are sent before the server ends."""
    kept, endpoint = collector
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
    with running_http_server(repository, environment=variables) as http:
        http.wait_until_ready()
        with grpc.insecure_channel(http.running.address) as channel:
            metadata = (("traceparent", f"00-{TRACE}-{PARENT}-01"), ("x-request-id", "traced"))
            request = pb.ClassifyRequest(images=[pb.Image(encoded=PNG)])
            HeadwiseServiceStub(channel).Classify(request, metadata=metadata, timeout=SECONDS)
        assert http.classify().status_code == 200
        assert http.classify(b"no picture").status_code == 400
    assert http.running.process.returncode == 0
    [call] = kept.named("headwise.v1.HeadwiseService/Classify")
    assert (call.trace_id.hex(), call.parent_span_id.hex()) == (TRACE, PARENT)
    assert attributes(call) == {
        "rpc.service": "headwise.v1.HeadwiseService",
        "rpc.method": "Classify",
        "request_id": "traced",
        "code": "OK",
        "reason": "",
    }
    answered, refused = kept.named("http/POST /v1/models/{name}:classify")
    assert not answered.parent_span_id
    assert attributes(refused)["reason"] == "INVALID_ARGUMENT"
    batches = kept.named("batch")
    links = [link.span_id for batch in batches for link in batch.links]
    assert links == [call.span_id, answered.span_id]
    assert attributes(batches[0]) == {"model": "digits", "graph": "classify", "images": ""}
    assert kept.resources[0]["service.name"] == "headwise-server"


def test_no_span_without_the_variable(collector: tuple[Collector, str], repository: Path) -> None:
    """Another variable does not switch traces on."""
    kept, endpoint = collector
    variables = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": endpoint}
    with running_http_server(repository, environment=variables) as http:
        http.wait_until_ready()
        assert http.classify().status_code == 200
    assert kept.spans == []


def test_collector_that_is_not_there_costs_no_request(repository: Path) -> None:
    """Calls are answered, and the server ends in time."""
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    with running_http_server(repository, environment=variables) as http:
        http.wait_until_ready()
        assert http.classify().status_code == 200
        assert http.running.stop() == 0


def test_missing_extra_is_an_error(repository: Path) -> None:
    """One line says what to install."""
    code = "import sys; sys.modules['opentelemetry.sdk.trace'] = None; from headwise_server.cli import main; main()"
    completed = processes.run(
        [sys.executable, "-c", code, "--repository", str(repository), "--listen", "127.0.0.1:0"],
        env={**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
    )
    assert completed.returncode == 1
    assert "headwise[telemetry]" in completed.stderr
    assert "Traceback" not in completed.stderr
