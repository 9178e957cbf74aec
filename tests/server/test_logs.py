"""What the log says: lines for machines, ids of requests, and not too many."""

import io
import json
import logging
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import hypothesis.strategies as st
import processes
import pytest
import support
from headwise.v1 import service_pb2 as pb
from headwise.v1.service_pb2_grpc import HeadwiseServiceStub
from headwise_server import logs
from headwise_server.logs import JsonFormatter, LimitedHandler, request_id
from http_support import PNG, SECONDS, HttpServer, running_http_server
from hypothesis import given


@pytest.fixture
def stream() -> io.StringIO:
    """Where lines go."""
    return io.StringIO()


@pytest.fixture
def logger(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> Iterator[logging.Logger]:
    """A logger that may write three lines of a kind in a second, in a second that does not end by itself."""
    handler = LimitedHandler(stream, lines_per_second=3)
    handler.setFormatter(JsonFormatter())
    own = logging.Logger("test")
    own.addHandler(handler)
    yield own
    handler.close()


def test_lines_of_one_kind_are_limited_and_counted(
    logger: logging.Logger, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others are written meanwhile; what was left out is said when the second is over."""
    monkeypatch.setattr(logs.time, "monotonic", lambda: 1.0)
    for number in range(10):
        logger.warning("request %d is bad", number)
    logger.warning("another kind")
    monkeypatch.setattr(logs.time, "monotonic", lambda: 2.0)
    logger.warning("request %d is bad", 10)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    texts = [f"request {number} is bad" for number in (0, 1, 2)]
    left_out = "left out 7 more lines of a second like: request %d is bad"
    assert [line["message"] for line in lines] == [*texts, "another kind", left_out, "request 10 is bad"]
    assert [line.get("left_out") for line in lines] == [None] * 4 + [7, None]


def test_what_was_left_out_last_is_said_at_the_end(
    logger: logging.Logger, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the handler is closed."""
    monkeypatch.setattr(logs.time, "monotonic", lambda: 1.0)
    for _ in range(5):
        logger.error("bad")
    logger.handlers[0].close()
    assert json.loads(stream.getvalue().splitlines()[-1])["left_out"] == 2


def test_kinds_are_bounded(logger: logging.Logger, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages that are all different cannot fill the memory, nor the log."""
    monkeypatch.setattr(logs.time, "monotonic", lambda: 1.0)
    for number in range(5000):
        logger.warning(f"message {number}")
    assert len(stream.getvalue().splitlines()) == logs.MOST_KINDS + 3


@given(st.text(), st.text())
def test_json_line_is_one_line(message: str, value: str) -> None:
    """Whatever is in it."""
    record = logging.makeLogRecord({"msg": message, "fields": {"reason": value}})
    line = JsonFormatter().format(record)
    assert len(line.splitlines()) == 1
    assert (json.loads(line)["message"], json.loads(line)["reason"]) == (message, value)


@given(st.text() | st.binary() | st.none())
def test_request_id_is_short_and_printable(given_id: str | bytes | None) -> None:
    """That of the client where it is, else another each time."""
    identifier = request_id(given_id)
    assert logs.REQUEST_ID.fullmatch(identifier)
    if given_id in (identifier, identifier.encode()):
        assert request_id(given_id) == identifier
    else:
        assert request_id(given_id) != identifier


@pytest.fixture(scope="module")
def http(repository: Path) -> Iterator[HttpServer]:
    """A server that logs every request as JSON."""
    with running_http_server(repository, "--log-format", "json", "--access-log") as server:
        server.wait_until_ready()
        yield server


def access(http: HttpServer, identifier: str) -> dict[str, object]:
    """The line of a request."""

    def lines() -> list[dict[str, object]]:
        every = [json.loads(line) for line in http.running.log]
        return [line for line in every if line.get("request_id") == identifier and "access" in line["logger"]]

    support.wait_until(lines)
    [line] = lines()
    return line


def test_request_over_http_has_its_id_in_reply_and_log(http: HttpServer) -> None:
    """Its own, or one that is made; also where it is refused."""
    response = http.get("/v1/models", headers={"x-request-id": "mine-1"})
    assert response.headers["x-request-id"] == "mine-1"
    line = access(http, "mine-1")
    assert (line["service"], line["method"], line["code"]) == ("http", "GET /v1/models", "200")
    refused = http.get("/v1/models/none", headers={"x-request-id": "mine 2"})
    made = refused.headers["x-request-id"]
    assert made != "mine 2"
    line = access(http, made)
    assert (line["code"], line["reason"]) == ("404", "MODEL_NOT_FOUND")
    assert float(str(line["seconds"])) > 0


def test_call_over_grpc_has_its_id_in_trailing_metadata_and_log(http: HttpServer) -> None:
    """Also where it is refused, beside the details of the error."""
    with grpc.insecure_channel(http.running.address) as channel:
        stub, image = HeadwiseServiceStub(channel), pb.Image(encoded=PNG)
        _, call = stub.Classify.with_call(
            pb.ClassifyRequest(images=[image]), metadata=(("x-request-id", "rpc-1"),), timeout=SECONDS
        )
        assert dict(call.trailing_metadata())["x-request-id"] == "rpc-1"
        assert access(http, "rpc-1")["code"] == "OK"
        with pytest.raises(grpc.RpcError) as failed:
            stub.Classify(pb.ClassifyRequest(), metadata=(("x-request-id", "rpc-2"),), timeout=SECONDS)
        metadata = dict(failed.value.trailing_metadata())
        assert metadata["x-request-id"] == "rpc-2"
        assert "grpc-status-details-bin" in metadata
        assert access(http, "rpc-2")["reason"] == "INVALID_ARGUMENT"


def test_flood_of_requests_does_not_fill_the_log(repository: Path) -> None:
    """All are answered; their lines are limited, and the rest is counted."""
    with running_http_server(repository, "--log-format", "json", "--access-log") as http:
        http.wait_until_ready()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: http.get("/v1/models"), range(400)))
    lines = [json.loads(line) for line in http.running.log]
    written = [line for line in lines if line.get("method") == "GET /v1/models"]
    left_out = [line["left_out"] for line in lines if "left_out" in line]
    probes = [line for line in lines if line.get("method") == "GET /readyz"]
    assert len(written) + len(probes) + sum(left_out) >= 400
    by_second = {line["time"][:19] for line in written}
    assert len(written) <= logs.LINES_PER_SECOND * (len(by_second) + 1)


def test_text_is_the_default_and_requests_are_not_logged(repository: Path) -> None:
    """With the level debug they are."""
    with running_http_server(repository) as http:
        http.wait_until_ready()
    assert not any("GET /readyz" in line for line in http.running.log)
    assert any("INFO headwise_server.repository: loaded digits version 1" in line for line in http.running.log)
    with running_http_server(repository, "--log-level", "debug") as http:
        http.wait_until_ready()
    assert any("DEBUG headwise_server.access: http GET /readyz 200" in line for line in http.running.log)


ERRORS = """
import grpc, logging
from headwise_server import logs

logs.configure()
for error in (grpc.aio.InternalError("the client has left"), ValueError("a fault of ours")):
    try:
        raise error
    except Exception:
        logging.getLogger("grpc._cython.cygrpc").exception("raised by servicer method")
"""


def test_client_that_leaves_while_its_reply_is_sent_is_no_error_of_the_server() -> None:
    """What grpc.aio says of it is no line of the log; what it says of other errors is."""
    log = processes.run([sys.executable, "-c", ERRORS]).stderr
    assert log.count("Traceback") == 1
    assert "a fault of ours" in log
    assert "the client has left" not in log
