"""Addresses to listen on."""

import ipaddress
import re
import socket
import sys
from pathlib import Path

import processes
import pytest
import support
from headwise import Client
from headwise_server.addresses import (
    MAX_PATH_BYTES,
    AddressError,
    ListenError,
    TcpAddress,
    UnixAddress,
    parse,
    reserved,
)
from hypothesis import given
from hypothesis import strategies as st

PORTS = st.integers(0, 65535)


@given(st.ip_addresses(), PORTS)
def test_ip_addresses_are_what_they_were_written_as(address: ipaddress.IPv4Address, port: int) -> None:
    """Of both versions; what is announced is parsed as the same address."""
    text = f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
    parsed = parse(text)
    assert parsed == TcpAddress(str(address), port)
    assert parsed.is_local == address.is_loopback
    assert parse(str(parsed)) == parsed


@given(st.text())
def test_whatever_is_taken_is_announced_as_itself(text: str) -> None:
    """Any text is an address whose text is that address, or refused; nothing else is raised."""
    try:
        parsed = parse(text)
    except AddressError:
        return
    assert parse(str(parsed)) == parsed


@given(st.integers().filter(lambda port: not 0 <= port <= 65535))
def test_ports_beyond_16_bits_are_refused(port: int) -> None:
    """gRPC would take them modulo 65,536."""
    with pytest.raises(AddressError, match="a port is a number from 0 to 65535"):
        parse(f"127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("127.0.0.1", "the port is missing"),
        ("", "the port is missing"),
        ("[::1]", "the port is missing"),
        (":50051", "the host is no name"),
        ("*:50051", "the host is no name"),
        ("1.2.3:50051", "the host is no name"),
        ("127.0.0.256:50051", "the host is no name"),
        ("::1:50051", "stands in brackets"),
        ("[localhost]:50051", "no IPv6 address"),
        ("localhost:", "a port is a number"),
        ("localhost:http", "a port is a number"),
        ("localhost:٤", "a port is a number"),
        ("unix:", "must begin with /"),
        ("unix:server.sock", "must begin with /"),
        ("unix:/", "must be a file's"),
        ("unix:/run/", "must be a file's"),
        ("unix:/run/a%20b", "must be a file's"),
        ("unix:/run/a?b", "must be a file's"),
        (f"unix:/{'a' * MAX_PATH_BYTES}", f"at most {MAX_PATH_BYTES} bytes"),
    ],
)
def test_everything_else_is_refused(text: str, why: str) -> None:
    """With what was expected, what was found and why that is none."""
    with pytest.raises(AddressError) as caught:
        parse(text)
    assert "expected host:port" in str(caught.value)
    assert why in str(caught.value)


def test_the_longest_path_is_one_that_a_socket_takes() -> None:
    """Not a byte less."""
    assert parse(f"unix:/{'a' * (MAX_PATH_BYTES - 1)}").is_local


def listening(path: Path) -> socket.socket:
    """A socket on which somebody listens."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()
    return server


def test_sockets_that_nobody_listens_on_are_free(tmp_path: Path) -> None:
    """Those that a server left behind, and those that are not there yet; not those of others, files and bad folders."""
    path = tmp_path / "s"
    address = UnixAddress(str(path))
    assert not address.why_not_free()
    with listening(path):
        assert "another server listens" in address.why_not_free()
    assert not address.why_not_free()
    path.unlink()
    path.write_text("mine")
    assert "is no socket" in address.why_not_free()
    assert "no folder" in UnixAddress(str(tmp_path / "gone" / "s")).why_not_free()


def test_clients_reach_a_socket_in_the_file_system(repository: Path, tmp_path: Path) -> None:
    """At the address announced, also where a killed server has left its socket; a second server does not take it."""
    listen = ["--engine", "onnxruntime", "--listen", f"unix:{tmp_path}/s"]
    with support.running_server(repository, listen) as killed:
        killed.process.kill()
        killed.process.wait()
        with support.running_server(repository, listen) as server, Client(server.address) as client:
            client.wait_until_ready(support.LONG_SECONDS)
            command = [*support.server_command(repository), *listen]
            second = processes.run(command)
            assert second.returncode == 1
            assert "another server listens" in second.stderr
            assert client.list_models()


def shared(address: TcpAddress) -> socket.socket:
    """A socket that listens there and would share the port."""
    return socket.create_server((address.host, address.port), reuse_port=True)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone shares ports between processes")
def test_reserved_address_is_shared_by_those_who_ask_and_by_no_other_server() -> None:
    """Before they listen there, and while they do; it is free afterwards, also with connections that still fade."""
    with reserved(TcpAddress("127.0.0.1", 0)) as address:
        assert address.port
        with pytest.raises(ListenError, match="is the port in use"), reserved(address):
            pass
        with shared(address) as listener, shared(address), socket.create_connection((address.host, address.port)):
            with pytest.raises(ListenError), reserved(address):
                pass
            with pytest.raises(OSError, match="in use"):
                socket.create_server((address.host, address.port))
            del listener
    with reserved(address) as again, shared(again):
        pass


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone shares ports between processes")
def test_address_of_another_machine_cannot_be_reserved() -> None:
    """The message says where."""
    with pytest.raises(ListenError, match=re.escape("192.0.2.1:0")), reserved(TcpAddress("192.0.2.1", 0)):
        pass
