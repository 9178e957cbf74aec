"""What the tests of the services share."""

from collections.abc import Iterator

import grpc
import pytest
import support
from headwise.v1.service_pb2_grpc import HeadwiseServiceStub


@pytest.fixture
def stub(server: support.ServerProcess) -> Iterator[HeadwiseServiceStub]:
    """The service, with nothing of our client in between."""
    with grpc.insecure_channel(server.address) as channel:
        yield HeadwiseServiceStub(channel)
