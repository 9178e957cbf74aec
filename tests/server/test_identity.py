"""Who makes a call, and what they may do."""

import ipaddress

import pytest
from headwise_server.errors import NotAllowed
from headwise_server.identity import Action, Identity, anyone, host_of
from hypothesis import given
from hypothesis import strategies as st

PORTS = st.integers(1, 65535)


@given(st.ip_addresses(v=4), PORTS, PORTS)
def test_port_is_no_part_of_a_host(address: ipaddress.IPv4Address, port: int, other: int) -> None:
    """As gRPC writes peers."""
    assert host_of(f"ipv4:{address}:{port}") == host_of(f"ipv4:{address}:{other}") == f"ipv4:{address}"


@given(st.ip_addresses(v=6), st.integers(0, 2**64 - 1), PORTS)
def test_addresses_of_one_ipv6_network_are_one_host(address: ipaddress.IPv6Address, low: int, port: int) -> None:
    """A household has 2**64 of them; the one above is another's."""
    neighbour = ipaddress.IPv6Address(int(address) >> 64 << 64 | low)
    stranger = ipaddress.IPv6Address(int(address) ^ 1 << 64)
    host = host_of(f"ipv6:%5B{address}%5D:{port}")
    assert host == host_of(f"ipv6:[{neighbour}]:{port}")
    assert host != host_of(f"ipv6:%5B{stranger}%5D:{port}")


def test_sockets_of_the_file_system_are_one_host() -> None:
    """They have no address."""
    assert host_of("unix:") == host_of("unix:/run/s") == "unix"


def test_anyone_may_do_everything() -> None:
    """Where there are no tokens."""
    identity = anyone("ipv4:10.0.0.1:5")
    for action in Action:
        identity.require(action)
    identity.require_model("any")


def test_others_may_do_what_is_named() -> None:
    """The message says what that is, and not whether a model is there."""
    identity = Identity("alice", "alice", frozenset({"digits"}), frozenset({Action.CLASSIFY}))
    identity.require_model("digits")
    identity.require(Action.CLASSIFY)
    with pytest.raises(NotAllowed, match=r"the token of 'alice' permits, found 'flowers'"):
        identity.require_model("flowers")
    with pytest.raises(NotAllowed, match=r"permits \(classify\), found 'explain'"):
        identity.require(Action.EXPLAIN)
