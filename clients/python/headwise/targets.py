"""Addresses of servers, as people write them."""

from urllib.parse import urlsplit

DEFAULT_PORT = 50051
OTHER_SCHEMES = ("http", "https", "grpc", "grpcs")  # which gRPC takes for the name of a resolver, or of a host
RESOLVERS = ("dns:", "unix:", "unix-abstract:", "ipv4:", "ipv6:", "vsock:", "xds:")


def check_target(target: str) -> str:
    """The address of a server.

    Raises:
        ValueError: it is a URL, has no port, or is none; the message says which address was probably meant.
    """
    scheme, separator, _ = target.partition("://")
    if separator and scheme.lower() in OTHER_SCHEMES:
        parts = urlsplit(target)
        meant = f"{parts.hostname or 'localhost'}:{parts.port or DEFAULT_PORT}"
        encrypted = ", with TLS" if scheme.lower() in ("https", "grpcs") else ""
        raise ValueError(f"expected host:port of a gRPC server, found the URL {target}: {meant}{encrypted}?")
    if target.startswith(RESOLVERS):
        return target
    host, _, port = target.rpartition(":")
    if not host or (":" in host and not (host.startswith("[") and host.endswith("]"))):
        meant = f"[{target}]" if ":" in target else target or "localhost"
        raise ValueError(f"expected host:port, found {target!r} without a port: {meant}:{DEFAULT_PORT}?")
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 2**16):
        raise ValueError(f"expected host:port with a port of 1 to 65535, found {target!r}: {host}:{DEFAULT_PORT}?")
    return target
