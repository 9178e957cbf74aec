"""The limits of the server hold for HTTP as for gRPC, and a client that leaves costs nothing."""

import asyncio
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import numpy as np
import pytest
import support
from headwise_server.errors import NotFound
from headwise_server.gate import Gate
from headwise_server.http.reception import Endpoint, Received
from headwise_server.identity import Limits
from headwise_server.inference import State
from headwise_server.memory import Memory
from headwise_server.receiving import Receiving
from headwise_server.reception import Reception
from headwise_server.tokens import Tokens, sha256
from http_support import PNG, SECONDS, HttpServer, running_http_server, status_of
from starlette.responses import Response
from starlette.types import Message

CLASSIFY = "/v1/models/digits:classify"


@contextmanager
def connected(http: HttpServer) -> Iterator[socket.socket]:
    """A connection on which a test writes what it wants."""
    parts = urlsplit(http.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=SECONDS) as connection:
        yield connection


def head(content_length: int) -> bytes:
    """The headers of a request."""
    lines = ("content-type: image/png", f"content-length: {content_length}", "", "")
    return "\r\n".join((f"POST {CLASSIFY} HTTP/1.1", "host: a", *lines)).encode()


def test_body_is_refused_by_its_length_before_it_is_read(http: HttpServer) -> None:
    """The reply comes though no byte of the body was sent."""
    with connected(http) as connection:
        connection.sendall(head(8 * 2**20 + 1))
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_body_without_a_length_is_refused_once_it_is_too_large(http: HttpServer) -> None:
    """A chunked upload is read no further than the limit."""
    with connected(http) as connection:
        lines = ("host: a", "content-type: image/png", "transfer-encoding: chunked", "", "")
        connection.sendall("\r\n".join((f"POST {CLASSIFY} HTTP/1.1", *lines)).encode())
        for _ in range(8):
            connection.sendall(b"100000\r\n" + bytes(2**20) + b"\r\n")
        connection.sendall(b"1\r\nx")
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_json_has_a_smaller_limit(http: HttpServer) -> None:
    """Which the error says how to get round."""
    refused = http.post(CLASSIFY, data=b" " * (2**20 + 1), headers={"content-type": "application/json"})
    assert status_of(refused) == (413, "BODY_TOO_LARGE")
    assert "rather than JSON" in refused.json()["message"]


def test_calls_in_hand_are_bounded(repository: Path, tmp_path: Path) -> None:
    """One more is refused with 429 and when to try again, while the probes answer."""
    with running_http_server(repository, "--max-calls", "2", gates=tmp_path) as http:
        http.wait_until_ready()
        http.close("run")
        with ThreadPoolExecutor(2) as pool:
            held = [pool.submit(http.classify) for _ in range(2)]
            support.wait_until(lambda: http.metrics()["headwise_calls_in_flight"] == 2)
            refused = http.classify()
            assert status_of(refused) == (429, "OVERLOADED")
            assert int(refused.headers["retry-after"]) >= 1
            assert any(detail["@type"].endswith("RetryInfo") for detail in refused.json()["details"])
            assert http.get("/readyz").status_code == 200
            http.open("run")
            assert [each.result(SECONDS).status_code for each in held] == [200, 200]


def test_memory_is_bounded(repository: Path, tmp_path: Path) -> None:
    """A body for which there is no room is refused, and taken once there is."""
    large = support.png(np.random.default_rng(0).integers(0, 256, (1900, 1900, 1), np.uint8))  # noise is not compressed
    with running_http_server(repository, "--max-message-mib", "4", "--memory-mib", "32", gates=tmp_path) as http:
        http.wait_until_ready()
        http.close("run")
        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(http.classify, large)
            support.wait_until(lambda: http.metrics()["headwise_memory_used_bytes"] >= 3 * len(large))
            assert status_of(http.classify(large)) == (429, "OVERLOADED")
            http.open("run")
            assert held.result(SECONDS).status_code == 200
        assert http.classify(large).status_code == 200
        assert http.metrics()["headwise_memory_used_bytes"] == 0


@pytest.mark.parametrize("fails", [False, True])
async def test_reply_is_charged_to_whom_the_token_names(tmp_path: Path, fails: bool) -> None:
    """Not to its connection: whoever has a token has one share of the memory, also for what is not read yet."""
    file = tmp_path / "tokens.toml"
    file.write_text(f"[tokens.alice]\nsha256='{sha256('a')}'\nmodels=['*']\nactions=['classify']\n")
    memory = Memory(10_000)
    state = State(cast(Any, None), cast(Any, None), memory)
    gate = Gate(Tokens(file, Limits()))
    reception = Reception((), state.in_flight, Receiving(memory, 1, 100), gate, max_calls=8, max_fields=8)

    async def handler(_: State, received: Received) -> Response:
        if fails:
            raise NotFound("digits", "x" * 6000)
        return Response(b"x" * 6000)

    async def send(_: Message) -> None:
        assert memory.used_bytes >= 6000
        assert (memory.has_room("alice", 3000), memory.has_room("ipv4:127.0.0.1:5", 3000)) == (False, True)

    headers = [(b"authorization", b"Bearer a")]
    scope = {"type": "http", "method": "GET", "path": "/x", "headers": headers, "client": ("127.0.0.1", 5)}
    endpoint = Endpoint(state, reception, "GET", "/x", handler)
    await asyncio.create_task(endpoint({**scope, "query_string": b""}, cast(Any, None), send))
    await asyncio.sleep(0)
    assert memory.used_bytes == 0


def test_slow_upload_counts_with_its_length(repository: Path) -> None:
    """As many as there is room for; one more is refused, a shorter one is not, and room comes back when they go."""
    length = 4 * 2**20
    with running_http_server(repository, "--max-message-mib", "4", "--memory-mib", "32") as http:

        def used_bytes() -> float:
            return http.metrics()["headwise_memory_used_bytes"]

        http.wait_until_ready()
        with connected(http) as first, connected(http) as second, connected(http) as short:
            for number, slow in enumerate((first, second), 1):
                slow.sendall(head(length) + b"x")
                support.wait_until(lambda number=number: used_bytes() == number * length)  # type: ignore[misc]  # untyped
            short.sendall(head(1000) + b"x")
            support.wait_until(lambda: used_bytes() == 2 * length + 1000)
            with connected(http) as third:
                third.sendall(head(length) + b"x")
                assert third.recv(100).startswith(b"HTTP/1.1 429 ")
        support.wait_until(lambda: used_bytes() == 0)


def test_slow_upload_without_a_length_counts_with_the_largest(repository: Path) -> None:
    """As it may still become."""
    lines = ("host: a", "content-type: image/png", "transfer-encoding: chunked", "", "1\r\nx")
    with running_http_server(repository, "--max-message-mib", "4", "--memory-mib", "32") as http:
        http.wait_until_ready()
        with connected(http) as slow:
            slow.sendall("\r\n".join((f"POST {CLASSIFY} HTTP/1.1", *lines)).encode())
            support.wait_until(lambda: http.metrics()["headwise_memory_used_bytes"] == 4 * 2**20)


def test_deadline_that_passes_in_the_queue_is_504(repository: Path, tmp_path: Path) -> None:
    """And the images are never run."""
    with running_http_server(repository, "--streams", "1", gates=tmp_path) as http:
        http.wait_until_ready()
        http.close("run")
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(http.classify)
            support.wait_until(lambda: http.metrics()["headwise_batch_images_count"] == 1)
            late = pool.submit(http.classify, PNG, "?timeout_seconds=0.3")
            support.wait_until(lambda: http.metrics()["headwise_queue_images"] == 1)
            support.wait_until(lambda: http.metrics()["headwise_longest_batch_seconds"] > 1)
            http.open("run")
            assert first.result(SECONDS).status_code == 200
            assert status_of(late.result(SECONDS)) == (504, "DEADLINE_UNMEETABLE")
        assert http.metrics()["headwise_batch_images_sum"] == 1


def test_client_that_leaves_while_it_waits_is_never_run(repository: Path, tmp_path: Path) -> None:
    """And one that leaves while its batch runs is counted as that."""
    with running_http_server(repository, "--streams", "1", gates=tmp_path) as http:
        http.wait_until_ready()
        http.close("run")
        with connected(http) as running:
            running.sendall(head(len(PNG)) + PNG)
            support.wait_until(lambda: http.metrics()["headwise_batch_images_count"] == 1)
            with connected(http) as waiting:
                waiting.sendall(head(len(PNG)) + PNG)
                support.wait_until(lambda: http.metrics()["headwise_queue_images"] == 1)
            support.wait_until(lambda: http.metrics()["headwise_queue_images"] == 0)
        support.wait_until(lambda: http.metrics()["headwise_calls_in_flight"] == 0)
        http.open("run")
        support.wait_until(lambda: http.metrics()["headwise_abandoned_images_total"] == 1)
        counts = http.metrics()
        assert counts["headwise_requests_total 499 POST /v1/models/{name}:classify http"] == 2
        assert counts["headwise_wasted_images_total"] == 0
        assert counts["headwise_batch_images_sum"] == 1
        assert http.classify().status_code == 200
        assert "Traceback" not in "".join(http.running.log)


def test_unforeseen_error_is_500_and_its_text_stays_in_the_log(repository: Path) -> None:
    """The client learns that there is one, and the server goes on."""
    code = """
from headwise_server import cli
from headwise_server.services import headwise
def broken(*arguments): raise RuntimeError("secret")
headwise.classify_response = broken
cli.main()
"""
    with running_http_server(repository, code=code) as http:
        http.wait_until_ready()
        refused = http.classify()
        assert status_of(refused) == (500, "INTERNAL")
        assert "secret" not in refused.text
        support.wait_until(lambda: any("secret" in line for line in http.running.log))
        assert http.get("/v1/models").status_code == 200
