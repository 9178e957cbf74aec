"""A server that answers as a test wants it to."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc
import pytest
from headwise.v1 import service_pb2 as pb
from headwise.v1.service_pb2_grpc import HeadwiseServiceServicer, add_HeadwiseServiceServicer_to_server

Answer = Callable[[int, grpc.ServicerContext], pb.ClassifyResponse]


@dataclass
class ScriptedServer(HeadwiseServiceServicer):
    """Answers Classify with what `answer` gives for the number of the call."""

    address: str = ""
    calls: int = 0
    answer: Answer = lambda number, context: pb.ClassifyResponse()

    def Classify(self, request: pb.ClassifyRequest, context: grpc.ServicerContext) -> pb.ClassifyResponse:
        """One after the other."""
        self.calls += 1
        return self.answer(self.calls, context)


@pytest.fixture
def scripted_server() -> Iterator[ScriptedServer]:
    """On a free port, in this process."""
    server, servicer = grpc.server(ThreadPoolExecutor(1)), ScriptedServer()
    add_HeadwiseServiceServicer_to_server(servicer, server)
    servicer.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield servicer
    server.stop(None).wait()
