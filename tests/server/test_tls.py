"""TLS: certificates made here, and real servers."""

import contextlib
import os
import shutil
import ssl
import sys
from datetime import timedelta
from pathlib import Path

import certificates
import processes
import pytest
import support
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from headwise import AsyncClient, Client, Unavailable
from headwise_server.tls import Certificates, TlsError, TlsFiles, read
from hypothesis import given
from hypothesis import strategies as st

SECONDS = support.LONG_SECONDS


@pytest.fixture
def authority(tmp_path: Path) -> certificates.Authority:
    """An authority of this test."""
    return certificates.Authority(tmp_path)


def test_client_that_trusts_the_authority_is_served(repository: Path, authority: certificates.Authority) -> None:
    """Clients, health check and command; none without TLS or trusting another, and the message says why."""
    pair = authority.sign("server")
    other = certificates.Authority(authority.folder, "other")
    with support.running_server(repository, ["--engine", "onnxruntime", *pair.options()]) as server:
        with Client(server.address, tls=authority.tls()) as client:
            client.wait_until_ready(SECONDS)
        for tls, message in ((False, "may ask for TLS"), (other.tls(), "not signed by one of the root certificates")):
            with Client(server.address, tls=tls) as client, pytest.raises(Unavailable, match=message):
                client.list_models()
        with (
            Client(server.address, tls=authority.tls(server_name="example.org")) as client,
            pytest.raises(Unavailable, match="is for another name"),
        ):
            client.list_models()
        check = (sys.executable, "-m", "headwise_server.healthcheck", server.address)
        assert processes.run(check).returncode == 1
        environment = {**os.environ, "HEADWISE_ROOT_CERTIFICATES": str(authority.certificate)}
        assert processes.run(check, env=environment).returncode == 0
        command = [sys.executable, "-m", "headwise", "models", "--server", server.address]
        assert "digits" in processes.run(command, env=environment).stdout
        wrong = processes.run([*command, "--root-certificates", str(pair.key)])
        assert wrong.returncode == 2
        assert "expected certificates in PEM" in wrong.stderr


async def test_plain_text_server_says_so_to_a_client_with_tls(
    server: support.ServerProcess, authority: certificates.Authority
) -> None:
    """Both clients."""
    with (
        Client(server.address, tls=authority.tls()) as client,
        pytest.raises(Unavailable, match="does not speak TLS"),
    ):
        client.list_models()
    async with AsyncClient(server.address, tls=authority.tls()) as awaiting:
        with pytest.raises(Unavailable, match="does not speak TLS"):
            await awaiting.list_models()


async def test_clients_must_present_a_certificate_where_an_authority_is_named(
    repository: Path, authority: certificates.Authority
) -> None:
    """One that the authority has signed; none, and one that another has signed, are refused."""
    pair, own = authority.sign("server"), authority.sign("client")
    stranger = certificates.Authority(authority.folder, "other").sign("stranger")
    options = ["--engine", "onnxruntime", *pair.options(), "--tls-client-ca", str(authority.certificate)]
    with support.running_server(repository, options) as server:
        with Client(server.address, tls=authority.tls(own)) as client:
            client.wait_until_ready(SECONDS)
        async with AsyncClient(server.address, tls=authority.tls(own)) as awaiting:
            assert await awaiting.list_models()
        for refused in (None, stranger):
            with (
                Client(server.address, tls=authority.tls(refused)) as client,
                pytest.raises(Unavailable),
            ):
                client.list_models()


def test_new_authority_of_clients_counts_without_a_new_start(
    repository: Path, authority: certificates.Authority
) -> None:
    """Whom the old one has signed is refused from then on, and whom the new one has is served."""
    pair, first = authority.sign("server"), authority.sign("first")
    other = certificates.Authority(authority.folder, "other")
    second = other.sign("second")
    clients = authority.folder / "clients.pem"
    shutil.copy(authority.certificate, clients)
    options = ["--engine", "onnxruntime", *pair.options(), "--tls-client-ca", str(clients)]
    with support.running_server(repository, options) as server:
        with Client(server.address, tls=authority.tls(first)) as client:
            client.wait_until_ready(SECONDS)
        shutil.copy(other.certificate, clients)
        with Client(server.address, tls=authority.tls(second)) as client:
            assert client.list_models()
        with Client(server.address, tls=authority.tls(first)) as client, pytest.raises(Unavailable):
            client.list_models()


def presented(address: str) -> bytes:
    """The certificate that a server shows to a new connection."""
    host, _, port = address.rpartition(":")
    return ssl.get_server_certificate((host, int(port))).encode()


def test_new_certificates_are_used_without_a_new_start(repository: Path, authority: certificates.Authority) -> None:
    """A certificate whose key is not there yet changes nothing; with it, new connections see it, and old ones stay."""
    pair = authority.sign("server")
    with support.running_server(repository, ["--engine", "onnxruntime", *pair.options()]) as server:
        with Client(server.address, tls=authority.tls()) as client:
            client.wait_until_ready(SECONDS)
            first = presented(server.address)
            new = authority.sign("new")
            new.certificate.replace(pair.certificate)
            assert presented(server.address) == first
            support.wait_until(lambda: any("the certificates stay as they are" in line for line in server.log))
            new.key.replace(pair.key)
            second = presented(server.address)
            assert second != first
            assert x509.load_pem_x509_certificate(second).subject.rfc4514_string() == "CN=new"
            assert client.list_models()
        with Client(server.address, tls=authority.tls()) as client:
            assert client.list_models()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("missing", "cannot be read: No such file or directory"),
        ("garbage", "expected certificates in PEM"),
        ("garbage key", "expected a private key in PEM"),
        ("passphrase", "without a passphrase"),
        ("other key", "expected the key of the first certificate"),
        ("expired", "expected certificates that are valid now"),
        ("large", "expected a PEM file of at most"),
        ("client authority", "expected certificates in PEM"),
    ],
)
def test_files_that_cannot_be_used_are_refused(authority: certificates.Authority, wrong: str, message: str) -> None:
    """In one line that names the file."""
    pair, files = authority.sign("server"), authority.folder
    client_ca = authority.certificate
    if wrong == "missing":
        pair.certificate.unlink()
    elif wrong == "garbage":
        pair.certificate.write_text("nothing")
    elif wrong == "garbage key":
        pair.key.write_text("nothing")
    elif wrong == "passphrase":
        pair = authority.sign("server", passphrase=b"secret")
    elif wrong == "other key":
        authority.sign("other").key.replace(pair.key)
    elif wrong == "expired":
        pair = authority.sign("server", lasts=timedelta(days=-1))
    elif wrong == "large":
        pair.key.write_bytes(bytes(2**20 + 1))
    else:
        client_ca = pair.key
    with pytest.raises(TlsError) as caught:
        read(TlsFiles(pair.certificate, pair.key, client_ca))
    assert message in str(caught.value)
    assert str(files) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_server_does_not_start_with_them(repository: Path, authority: certificates.Authority) -> None:
    """Status 1 and one line, before anything is loaded; status 2 where the key is not named."""
    pair = authority.sign("server", lasts=timedelta(days=-1))
    command = [*support.server_command(repository), "--listen", "127.0.0.1:0"]
    process = processes.run([*command, *pair.options()])
    assert process.returncode == 1
    assert process.stderr.startswith(f"headwise-server: {pair.certificate}: expected certificates that are valid now")
    process = processes.run([*command, "--tls-certificate", str(pair.certificate)])
    assert process.returncode == 2
    assert "tls_certificate and tls_key together" in " ".join(process.stderr.replace("│", " ").split())


def test_unchanged_files_are_not_read_again(authority: certificates.Authority) -> None:
    """A connection costs no more than a look at their times; what is gone leaves the certificates as they are."""
    pair = authority.sign("server")
    files = Certificates(TlsFiles(pair.certificate, pair.key))
    assert files.changed() is None
    content = pair.key.read_bytes()
    pair.key.unlink()
    assert files.changed() is None
    pair.key.write_bytes(content)
    assert files.changed() is not None
    assert files.changed() is None


PARTS = st.floats(0, 1, exclude_max=True)


@given(st.integers(0, 2), PARTS, st.integers(1, 255), st.just(1.0) | PARTS)
def test_damaged_files_are_refused_or_used(
    tmp_path_factory: pytest.TempPathFactory, file: int, place: float, bits: int, end: float
) -> None:
    """Whatever byte of whichever file is changed, and wherever it is cut off: nothing else is raised."""
    authority = certificates.Authority(tmp_path_factory.mktemp("tls"))
    pair = authority.sign("server")
    files = TlsFiles(pair.certificate, pair.key, authority.certificate)
    path = files.all()[file]
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= bits
    path.write_bytes(content[: int(end * len(content))])
    with contextlib.suppress(TlsError):
        read(files)


def test_certificate_of_another_version_is_refused(authority: certificates.Authority) -> None:
    """The parser's error for it is no ValueError."""
    pair = authority.sign("server")
    content = x509.load_pem_x509_certificate(pair.certificate.read_bytes()).public_bytes(Encoding.DER)
    third, second = bytes.fromhex("a003020102"), bytes.fromhex("a003020101")
    pair.certificate.write_text(ssl.DER_cert_to_PEM_cert(content.replace(third, second, 1)), encoding="ascii")
    with pytest.raises(TlsError, match="expected certificates in PEM, found none that can be read"):
        read(TlsFiles(pair.certificate, pair.key))
