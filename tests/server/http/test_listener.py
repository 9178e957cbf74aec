"""The second port: bound before anything is loaded, beside the first, and not held by those who send nothing."""

import socket
import sys
from pathlib import Path

import processes
import pytest
from http_support import SECONDS, HttpServer, running_http_server

SHORT = """
from headwise_server import cli
from headwise_server.http import listener
listener.HEADER_SECONDS = 0.2
cli.main()
"""


def start(repository: Path, address: str) -> processes.Completed:
    """A server that is to fail."""
    command = [sys.executable, "-m", "headwise_server", "--repository", str(repository), "--listen", "127.0.0.1:0"]
    return processes.run([*command, "--http-listen", address])


def test_port_in_use_is_an_error(http: HttpServer, repository: Path) -> None:
    """In one line, with the option."""
    completed = start(repository, http.url.removeprefix("http://"))
    assert completed.returncode == 1
    assert "--http-listen" in completed.stderr
    assert "Traceback" not in completed.stderr


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nhost: a\r\nx: "])
def test_connection_without_a_whole_request_is_closed(repository: Path, sent: bytes) -> None:
    """Whether it sends nothing or a part of the headers."""
    with running_http_server(repository, code=SHORT) as http:
        host, _, port = http.url.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
            connection.sendall(sent)
            assert connection.recv(100) == b""


def test_connection_is_used_again(http: HttpServer) -> None:
    """Several requests go over one connection."""
    with socket.create_connection(tuple(http.url.removeprefix("http://").split(":")), timeout=SECONDS) as connection:
        for _ in range(3):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
            answer = b""
            while b'{"live":true}' not in answer:
                answer += connection.recv(1000)
            assert answer.startswith(b"HTTP/1.1 200 ")
