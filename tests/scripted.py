"""A server that answers as a test wants it to."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import grpc
from headwise.v1 import service_pb2 as pb
from headwise.v1.service_pb2_grpc import HeadwiseServiceServicer

Answer = Callable[[int, grpc.ServicerContext], pb.ClassifyResponse]
Stream = Callable[[Iterator[pb.ClassifyStreamRequest]], Iterator[pb.ClassifyResponse]]


@dataclass
class ScriptedServer(HeadwiseServiceServicer):
    """Answers Classify with what `answer` gives for the number of the call, and ClassifyStream with `stream`."""

    address: str = ""
    calls: int = 0
    answer: Answer = lambda number, context: pb.ClassifyResponse()
    stream: Stream = lambda requests: (pb.ClassifyResponse() for _ in requests)

    def Classify(self, request: pb.ClassifyRequest, context: grpc.ServicerContext) -> pb.ClassifyResponse:
        """One after the other."""
        self.calls += 1
        return self.answer(self.calls, context)

    def ClassifyStream(
        self, requests: Iterator[pb.ClassifyStreamRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.ClassifyStreamResponse]:
        """As `stream` does."""
        for number, response in enumerate(self.stream(requests)):
            yield pb.ClassifyStreamResponse(request_id=str(number), response=response)
