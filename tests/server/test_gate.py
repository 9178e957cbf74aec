"""Who may call what; with real servers in test_tokens.py and test_connections.py."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from headwise import AsyncClient
from headwise.v1 import service_pb2 as pb
from headwise.v1 import service_pb2_grpc
from headwise_server.errors import NotAllowed, RateLimited, Unauthenticated
from headwise_server.gate import CHANNELZ, HEALTH, METRICS, OPEN, Gate
from headwise_server.identity import CURRENT, Limits
from headwise_server.in_flight import InFlight
from headwise_server.memory import Memory
from headwise_server.rate_limits import RateLimits
from headwise_server.receiving import Receiving
from headwise_server.reception import Reception
from headwise_server.tokens import Tokens, sha256

CLASSIFY, PEER = "/headwise.v1.HeadwiseService/Classify", "ipv4:10.0.0.1:5"
ALICE = (("user-agent", "x"), ("authorization", "Bearer a"))


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    """One token, which may classify."""
    path = tmp_path / "t.toml"
    path.write_text(f"[tokens.alice]\nsha256 = '{sha256('a')}'\nmodels = ['*']\nactions = ['classify']\n")
    return Tokens(path, Limits(calls_per_second=1))


def test_without_tokens_a_connection_is_a_client() -> None:
    """Tokens that are sent all the same change nothing."""
    assert Gate().enter(CLASSIFY, ALICE, PEER).client == PEER
    assert Gate().refusal(CHANNELZ, ()) is None


def test_with_tokens_their_name_is_the_client(tokens: Tokens) -> None:
    """From wherever it calls; its turns, memory and rate are those of all its connections."""
    gate = Gate(tokens)
    assert gate.enter(CLASSIFY, ALICE, PEER).client == "alice"
    with pytest.raises(RateLimited):
        gate.enter(CLASSIFY, ALICE, "ipv4:10.0.0.2:5")
    with pytest.raises(Unauthenticated):
        gate.enter(CLASSIFY, (), PEER)


async def test_what_a_client_holds_is_its_tokens(tokens: Tokens) -> None:
    """Handlers see the token's name, over whichever connection, and memory is charged to it."""
    seen: list[str] = []

    class Noted(Memory):
        def take(self, client: str, size_bytes: int) -> None:
            seen.append(client)
            super().take(client, size_bytes)

    class Service(service_pb2_grpc.HeadwiseServiceServicer):
        async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
            seen.append(CURRENT.get().client)
            return pb.ListModelsResponse()

    gate, services = Gate(tokens), ("headwise.v1.HeadwiseService",)
    receiving = Receiving(Noted(2**20), 1, 2**10)
    reception = Reception(services, InFlight(), receiving, gate, max_calls=9, max_fields=9)
    server = grpc.aio.server(interceptors=[reception])
    service_pb2_grpc.add_HeadwiseServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with AsyncClient(f"127.0.0.1:{port}", token="a") as client:
        assert await client.list_models() == []
    await server.stop(None)
    assert set(seen) == {"alice"}
    assert len(seen) >= 2


def test_open_methods_permit_nothing_else(tokens: Tokens) -> None:
    """Whoever asks whether the server lives has no model and no action."""
    for method in OPEN:
        identity = Gate(tokens).enter(method, (), PEER)
        assert (identity.models, identity.actions) == (frozenset(), frozenset())


def test_other_services_need_what_they_show(tokens: Tokens) -> None:
    """Health nothing, reflection a token, channelz and metrics their actions."""
    gate = Gate(tokens)
    assert gate.refusal(f"{HEALTH}Check", ()) is None
    assert isinstance(gate.refusal("/grpc.reflection.v1alpha.ServerReflection/Info", ()), Unauthenticated)
    assert gate.refusal("/grpc.reflection.v1alpha.ServerReflection/Info", ALICE) is None
    for method in (f"{CHANNELZ}GetServers", METRICS):
        assert isinstance(gate.refusal(method, ()), Unauthenticated)
        assert isinstance(gate.refusal(method, ALICE), NotAllowed)


def test_open_methods_have_the_rate_of_an_address() -> None:
    """As all calls of our services."""
    gate = Gate(None, RateLimits(Limits(calls_per_second=1)))
    gate.enter(OPEN[0], (), PEER)
    with pytest.raises(RateLimited):
        gate.enter(CLASSIFY, (), "ipv4:10.0.0.1:6")
