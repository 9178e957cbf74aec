"""Addresses of servers, as people write them."""

import pytest
from headwise import AsyncClient, Client
from headwise.targets import check_target


@pytest.mark.parametrize(
    "target", ["localhost:50051", "127.0.0.1:1", "[::1]:50051", "unix:/run/headwise", "dns:///a.example:443"]
)
def test_address_of_a_server_is_taken(target: str) -> None:
    """As gRPC has it."""
    assert check_target(target) == target


@pytest.mark.parametrize(
    ("target", "meant"),
    [
        ("http://localhost:8080", "found the URL http://localhost:8080: localhost:8080?"),
        ("https://models.example.org/v1", "models.example.org:50051, with TLS?"),
        ("grpc://host", "host:50051?"),
        ("localhost", "found 'localhost' without a port: localhost:50051?"),
        ("", "found '' without a port: localhost:50051?"),
        ("::1", r"without a port: [::1]:50051?"),
        ("host:http", "expected host:port with a port of 1 to 65535, found 'host:http': host:50051?"),
        ("host:0", "found 'host:0'"),
        ("host:65536", "found 'host:65536'"),
    ],
)
def test_other_address_is_refused_with_the_one_that_was_meant(target: str, meant: str) -> None:
    """By both clients, before anything is connected."""
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match="expected host:port") as caught:
            kind(target)
        assert meant in str(caught.value)
