"""A server that tests of HTTP leave running."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from http_support import HttpServer, running_http_server


@pytest.fixture(scope="session")
def http(repository: Path) -> Iterator[HttpServer]:
    """A server with a bundle, on ONNX Runtime in float32."""
    with running_http_server(repository, "--max-message-mib", "8") as server:
        server.wait_until_ready()
        yield server
