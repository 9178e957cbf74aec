"""A server that answers as a test wants it to."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from headwise.v1.service_pb2_grpc import add_HeadwiseServiceServicer_to_server
from scripted import ScriptedServer


@pytest.fixture
def scripted_server() -> Iterator[ScriptedServer]:
    """On a free port, in this process."""
    server, servicer = grpc.server(ThreadPoolExecutor(1)), ScriptedServer()
    add_HeadwiseServiceServicer_to_server(servicer, server)
    servicer.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield servicer
    server.stop(None).wait()
