"""Who may call what; with real servers in test_tokens.py and test_connections.py."""

from pathlib import Path

import pytest
from headwise_server.errors import NotAllowed, RateLimited, Unauthenticated
from headwise_server.gate import CHANNELZ, HEALTH, OPEN, Gate
from headwise_server.identity import Limits
from headwise_server.rate_limits import RateLimits
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


def test_open_methods_permit_nothing_else(tokens: Tokens) -> None:
    """Whoever asks whether the server lives has no model and no action."""
    for method in OPEN:
        identity = Gate(tokens).enter(method, (), PEER)
        assert (identity.models, identity.actions) == (frozenset(), frozenset())


def test_other_services_need_what_they_show(tokens: Tokens) -> None:
    """Health nothing, reflection a token, channelz its action."""
    gate = Gate(tokens)
    assert gate.refusal(f"{HEALTH}Check", ()) is None
    assert isinstance(gate.refusal("/grpc.reflection.v1alpha.ServerReflection/Info", ()), Unauthenticated)
    assert gate.refusal("/grpc.reflection.v1alpha.ServerReflection/Info", ALICE) is None
    assert isinstance(gate.refusal(f"{CHANNELZ}GetServers", ALICE), NotAllowed)


def test_open_methods_have_the_rate_of_an_address() -> None:
    """As all calls of our services."""
    gate = Gate(None, RateLimits(Limits(calls_per_second=1)))
    gate.enter(OPEN[0], (), PEER)
    with pytest.raises(RateLimited):
        gate.enter(CLASSIFY, (), "ipv4:10.0.0.1:6")
