"""Certificates over HTTP, and whom they let in, as their files change."""

import shutil
import socket
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import certificates
import pytest
import support
from http_support import SECONDS, HttpServer, running_http_server


def client_context(
    authority: certificates.Authority, own: certificates.Pair, version: ssl.TLSVersion
) -> ssl.SSLContext:
    """Of a client that presents a certificate of its own."""
    context = ssl.create_default_context(cafile=authority.certificate)
    context.load_cert_chain(own.certificate, own.key)
    context.maximum_version = version
    return context


def visit(http: HttpServer, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> ssl.SSLSession | None:
    """Ask over a connection of its own; gives its session.

    Raises:
        OSError: the server does not let this client in.
    """
    address = urlsplit(http.url)
    with (
        socket.create_connection((address.hostname, address.port), SECONDS) as plain,
        context.wrap_socket(plain, server_hostname="localhost", session=session) as connection,
    ):
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        if not connection.recv(1):  # TLS 1.3 refuses a client once that believes to be in
            raise ConnectionRefusedError
        return connection.session


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_new_authority_of_clients_counts_without_a_new_start(
    repository: Path, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """Whom the old one has signed is refused from then on, also with a session of before; the new one's are let in."""
    authority, other = certificates.Authority(tmp_path), certificates.Authority(tmp_path, "other")
    first = client_context(authority, authority.sign("first"), version)
    second = client_context(authority, other.sign("second"), version)
    clients = tmp_path / "clients.pem"
    shutil.copy(authority.certificate, clients)
    arguments = [*authority.sign("server").options(), "--tls-client-ca", str(clients)]
    with running_http_server(repository, *arguments) as http:
        session = visit(http, first)
        visit(http, first, session)
        with pytest.raises(OSError):  # of whichever kind
            visit(http, second)
        shutil.copy(other.certificate, clients)
        visit(http, second)
        for before in (None, session):
            with pytest.raises(OSError):
                visit(http, first, before)
        clients.write_text("nothing")
        visit(http, second)
        support.wait_until(lambda: any("of HTTP stay as they are" in line for line in http.running.log))
