"""Addresses to listen on: `host:port`, `[IPv6]:port` and `unix:/path`, each as a client connects to it.

gRPC itself takes `127.0.0.1` as port 443, a port beyond 65,535 modulo 65,536, and `unix:` as a socket without a name;
it reads percent signs, `?` and `#` in a path as parts of a URI, and it deletes the socket of a server that runs. None
of that is left to it here.
"""

import ipaddress
import os
import re
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

EXPECTED = "host:port, [IPv6 address]:port or unix:/path, such as 127.0.0.1:50051"
UNIX = "unix:"
MAX_PORT = 65535
MAX_PATH_BYTES = 107 if sys.platform.startswith("linux") else 103  # of sockaddr_un, without the final zero
MAX_HOST_CHARACTERS = 253
SHOWN_CHARACTERS = 200
CONNECT_SECONDS = 1.0
NAME = re.compile(
    r"(?=.*[A-Za-z])[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*"
)
PORT = re.compile(r"[0-9]{1,5}")
PATH = re.compile(r"/[A-Za-z0-9/._~+@=,:-]+")


class AddressError(ValueError):
    """A text is no address; the message says what was expected and what was found."""


class ListenError(Exception):
    """The address cannot be listened on."""


@dataclass(frozen=True)
class TcpAddress:
    """A host and a port; port 0 takes a free one."""

    host: str  # a name, or an IP address without brackets
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether what is sent there stays on this machine."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def bound(self, port: int) -> "TcpAddress":
        """The address with the port that was bound."""
        return TcpAddress(self.host, port)


@dataclass(frozen=True)
class UnixAddress:
    """A socket in the file system."""

    path: str

    def __str__(self) -> str:
        return UNIX + self.path

    @property
    def is_local(self) -> bool:
        """Whether what is sent there stays on this machine."""
        return True

    def bound(self, _: int) -> "UnixAddress":
        """The address; sockets in the file system have no port."""
        return self

    def why_not_free(self) -> str:
        """Why nobody can listen there, or nothing where a server can; the socket of one that has ended is no reason."""
        path = Path(self.path)
        if not path.parent.is_dir():
            return f"there is no folder {path.parent}"
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            return ""
        except OSError as error:
            return f"{path} cannot be looked at: {error.strerror}"
        if not stat.S_ISSOCK(mode):
            return f"{path} is there already, and is no socket; remove it"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(CONNECT_SECONDS)
            try:
                client.connect(str(path))
            except ConnectionRefusedError:
                return ""  # nobody listens any more
            except OSError as error:
                return f"{path} is the socket of another: {error.strerror or error}"
        return f"another server listens on {path}"


Address = TcpAddress | UnixAddress


def _wrong(text: str, why: str) -> AddressError:
    return AddressError(f"expected {EXPECTED}; found {text[:SHOWN_CHARACTERS]!r}: {why}.")


def _unix(text: str) -> UnixAddress:
    path = text.removeprefix(UNIX)
    if not path.startswith("/"):
        raise _wrong(text, "the path must begin with /")
    path = "/" + path.lstrip("/")
    if len(path.encode("utf-8", "surrogateescape")) > MAX_PATH_BYTES:
        raise _wrong(text, f"the path of a socket has at most {MAX_PATH_BYTES} bytes")
    if not PATH.fullmatch(path) or path.endswith("/"):
        raise _wrong(text, "the path must be a file's, of ASCII letters, digits and / . _ ~ + @ = , : -")
    return UnixAddress(path)


def _host(text: str, host: str) -> str:
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            raise _wrong(text, "no IPv6 address stands in the brackets") from None
    if ":" in host:
        raise _wrong(text, "an IPv6 address stands in brackets")
    if NAME.fullmatch(host) and len(host) <= MAX_HOST_CHARACTERS:
        return host
    try:
        return str(ipaddress.IPv4Address(host))
    except ValueError:
        raise _wrong(text, "the host is no name and no IPv4 address") from None


def parse(text: str) -> Address:
    """The address that a text names.

    Raises:
        AddressError: it names none.
    """
    if text.startswith(UNIX):
        return _unix(text)
    host, colon, port = text.rpartition(":")
    if not colon or (host.startswith("[") and not host.endswith("]")):
        raise _wrong(text, "the port is missing")
    if not PORT.fullmatch(port) or int(port) > MAX_PORT:
        raise _wrong(text, f"a port is a number from 0 to {MAX_PORT}")
    return TcpAddress(_host(text, host), int(port))


@contextmanager
def reserved(address: TcpAddress) -> Iterator[TcpAddress]:
    """Hold an address for processes that share it; nobody else can listen there. Gives the port where 0 was asked for.

    The sockets held receive no connections. They are bound as a server's alone would be, which fails where anybody is,
    and opened for sharing after that. Linux alone has it so.

    Raises:
        ListenError: it cannot be had.
    """
    with ExitStack() as held:
        port = address.port
        try:
            infos = socket.getaddrinfo(address.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, kind, protocol, _, place in infos:
                holder = held.enter_context(socket.socket(family, kind, protocol))
                holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # past connections that still fade
                if family == socket.AF_INET6:
                    holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                holder.bind((place[0], port, *place[2:]))
                holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
                holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                port = holder.getsockname()[1]
        except OSError as error:
            why = f"is the port in use, or the address not this machine's? ({error})"
            raise ListenError(f"cannot listen on {address}: {why}. Choose another.") from error
        yield address.bound(port)
