"""Who may call over HTTP is who may call over gRPC: tokens, rates and certificates are the same."""

import ssl
from collections.abc import Iterator
from pathlib import Path

import certificates
import pytest
import requests
import support
from cryptography import x509
from headwise import Client, Overloaded
from headwise_server.tokens import sha256
from http_support import PNG, SECONDS, HttpServer, running_http_server, status_of

TOKENS = """
[tokens.classifier]
sha256 = "{classifier}"
models = ["digits"]
actions = ["classify"]

[tokens.other]
sha256 = "{other}"
models = ["another"]
actions = ["classify", "explain"]
"""


def bearer(token: str) -> dict[str, str]:
    """The header of a token."""
    return {"authorization": f"Bearer {token}", "content-type": "image/png"}


@pytest.fixture(scope="module")
def guarded(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    """A server that asks for tokens."""
    file = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    file.write_text(TOKENS.format(classifier=sha256("classifier"), other=sha256("other")))
    with running_http_server(repository, "--tokens", str(file)) as http:
        http.wait_until_ready()
        yield http


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/digits", "/v2", "/v2/models/digits", "/openapi.json"])
def test_without_a_token_nothing_is_told(guarded: HttpServer, path: str) -> None:
    """The reply says how to send one."""
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic classifier"}):
        refused = guarded.get(path, headers=headers)
        assert status_of(refused) == (401, "UNAUTHENTICATED")
        assert refused.headers["www-authenticate"].startswith("Bearer")


def test_token_has_what_it_permits(guarded: HttpServer) -> None:
    """One model and one action; whether there are other models is not told."""
    path = "/v1/models/digits:classify"
    assert guarded.post(path, data=PNG, headers=bearer("classifier")).status_code == 200
    refused = guarded.post("/v1/models/digits:explain", data=PNG, headers=bearer("classifier"))
    assert status_of(refused) == (403, "NOT_ALLOWED")
    assert status_of(guarded.post(path, data=PNG, headers=bearer("other"))) == (403, "NOT_ALLOWED")
    assert guarded.get("/v1/models", headers=bearer("other")).json() == {"models": []}
    headers = {**bearer("other"), "content-type": "application/json"}
    refused = guarded.post("/v2/models/digits.explain/infer", data=b"{}", headers=headers)
    assert status_of(refused) == (403, "NOT_ALLOWED")


def test_probes_are_open_and_metrics_are_not(guarded: HttpServer) -> None:
    """Balancers ask for the first; the second name the models, and Prometheus can send a token."""
    for path in ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"):
        assert guarded.get(path).status_code == 200
    assert status_of(guarded.get("/metrics")) == (401, "UNAUTHENTICATED")
    assert "headwise_requests_total" in guarded.get("/metrics", headers=bearer("other")).text


def test_rates_of_a_client_count_both_ports(repository: Path) -> None:
    """Whoever has sent too much over gRPC is refused over HTTP, and told when to try again."""
    with running_http_server(repository, "--client-calls-per-second", "0.001") as http:
        http.wait_until_ready()
        with Client(http.running.address, timeout_seconds=SECONDS) as client, pytest.raises(Overloaded):
            for _ in range(100):
                client.list_models()
        refused = http.get("/v1/models")
        assert status_of(refused) == (429, "RATE_LIMITED")
        assert int(refused.headers["retry-after"]) > 1
        assert http.get("/readyz").status_code == 200


def presented(url: str) -> bytes:
    """The certificate that a server shows to a new connection."""
    host, _, port = url.removeprefix("https://").rpartition(":")
    return ssl.get_server_certificate((host, int(port))).encode()


def test_tls_is_that_of_grpc(repository: Path, tmp_path: Path) -> None:
    """With the certificates of the files; others and plain text get no answer."""
    authority = certificates.Authority(tmp_path)
    with running_http_server(repository, *authority.sign("server").options()) as http:
        assert http.url.startswith("https://")
        root = str(authority.certificate)
        support.wait_until(lambda: requests.get(f"{http.url}/readyz", verify=root, timeout=SECONDS).status_code == 200)
        with pytest.raises(requests.exceptions.SSLError):
            requests.get(f"{http.url}/readyz", timeout=SECONDS)
        with pytest.raises(requests.exceptions.ConnectionError):
            requests.get(http.url.replace("https", "http") + "/readyz", timeout=SECONDS)


def test_new_certificates_are_used_without_a_new_start(repository: Path, tmp_path: Path) -> None:
    """One whose key is not there yet changes nothing; with it, new connections see it."""
    authority = certificates.Authority(tmp_path)
    pair = authority.sign("server")
    with running_http_server(repository, *pair.options()) as http:
        first = presented(http.url)
        new = authority.sign("new")
        new.certificate.replace(pair.certificate)
        assert presented(http.url) == first
        support.wait_until(lambda: any("certificates of HTTP stay as they are" in line for line in http.running.log))
        new.key.replace(pair.key)
        second = presented(http.url)
        assert x509.load_pem_x509_certificate(second).subject.rfc4514_string() == "CN=new"


def test_clients_must_present_a_certificate_where_an_authority_is_named(repository: Path, tmp_path: Path) -> None:
    """As over gRPC."""
    authority = certificates.Authority(tmp_path)
    options = [*authority.sign("server").options(), "--tls-client-ca", str(authority.certificate)]
    client = authority.sign("client")
    with running_http_server(repository, *options) as http:
        root = str(authority.certificate)
        with pytest.raises(requests.exceptions.ConnectionError):
            requests.get(f"{http.url}/healthz", verify=root, timeout=SECONDS)
        own = (str(client.certificate), str(client.key))
        assert requests.get(f"{http.url}/healthz", verify=root, cert=own, timeout=SECONDS).status_code == 200
