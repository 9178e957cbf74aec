"""TLS, tokens and rates over HTTP: those of the gRPC port."""

import shutil
from pathlib import Path

import certificates
import pytest
import requests
import support
from headwise_server.settings import SettingsError, resolve
from headwise_server.tokens import sha256
from http_support import PNG, SECONDS, running_http_server, status_of


def as_(token: str) -> dict[str, str]:
    """The header that a token is sent in."""
    return {"authorization": f"Bearer {token}", "content-type": "image/png"}


def test_tokens_permit_over_http_what_they_do_over_grpc(bundle: Path, tmp_path: Path) -> None:
    """Models, actions, metrics and the description; probes are open."""
    for name in ("digits", "other"):
        (tmp_path / "models" / name).mkdir(parents=True)
        support.copy_bundle(bundle, tmp_path / "models", name)
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(
        f"[tokens.user]\nsha256 = '{sha256('u')}'\nmodels = ['digits']\nactions = ['classify']\n"
        f"[tokens.watch]\nsha256 = '{sha256('w')}'\nmodels = []\nactions = ['metrics']\n"
    )
    with running_http_server(tmp_path / "models", "--tokens", str(tokens)) as http:
        http.wait_until_ready()
        assert http.get("/healthz").status_code == http.get("/v2/health/live").status_code == 200
        support.wait_until(lambda: http.post("/v1/models/digits:classify", data=PNG, headers=as_("u")).ok)
        for path in ("/v1/models", "/v1/models/digits", "/v2", "/v2/models/digits", "/openapi.json", "/metrics"):
            refused = http.get(path)
            assert status_of(refused) == (401, "UNAUTHENTICATED"), path
            assert refused.headers["WWW-Authenticate"] == 'Bearer realm="headwise"'
        for path in ("/v1/models/other", "/v1/models/gone", "/v2/models/other", "/v2/models/gone.explain", "/metrics"):
            assert status_of(http.get(path, headers=as_("u"))) == (403, "NOT_ALLOWED"), path
        for path in ("/v1/models/other:classify", "/v1/models/digits:explain"):
            assert status_of(http.post(path, data=PNG, headers=as_("u"))) == (403, "NOT_ALLOWED"), path
        assert status_of(http.get("/v1/models/digits/head-samples", headers=as_("u"))) == (403, "NOT_ALLOWED")
        assert [model["name"] for model in http.get("/v1/models", headers=as_("u")).json()["models"]] == ["digits"]
        assert "other" not in http.get("/openapi.json", headers=as_("u")).text.replace("other_parts", "")
        assert "headwise_requests" in http.get("/metrics", headers=as_("w")).text
        assert status_of(http.post("/v1/models/digits:classify", data=PNG, headers=as_("w")))[0] == 403


def test_rate_of_an_address_is_that_of_both_ports(repository: Path) -> None:
    """429 with the seconds to wait, rounded up; probes are not counted."""
    with running_http_server(repository, "--client-calls-per-second", "0.001") as http:
        assert http.get("/v1/models").status_code == 200
        refused = http.get("/v1/models")
        assert status_of(refused) == (429, "RATE_LIMITED")
        assert 900 < int(refused.headers["Retry-After"]) <= 1000
        assert http.get("/healthz").status_code == 200


def test_http_has_the_certificates_of_grpc(repository: Path, tmp_path: Path) -> None:
    """Also those that come later, and clients must present one where an authority is named."""
    authority = certificates.Authority(tmp_path)
    pair, own = authority.sign("server"), authority.sign("client")
    trust, present = str(authority.certificate), (str(own.certificate), str(own.key))
    arguments = [*pair.options(), "--tls-client-ca", trust]
    with support.running_server(
        repository, ["--engine", "onnxruntime", "--http-listen", "127.0.0.1:0", *arguments]
    ) as running:
        assert running.process.stdout is not None
        url = running.process.stdout.readline().removeprefix("listening on ").strip()
        assert url.startswith("https://")
        assert requests.get(f"{url}/healthz", verify=trust, cert=present, timeout=SECONDS).ok
        with pytest.raises(requests.exceptions.ConnectionError):
            requests.get(f"{url}/healthz", verify=trust, timeout=SECONDS)
        with pytest.raises(requests.exceptions.ConnectionError):
            requests.get(f"{url}/healthz", cert=present, timeout=SECONDS)
        other = certificates.Authority(tmp_path, "other").sign("new")
        shutil.copy(other.key, pair.key)
        shutil.copy(other.certificate, pair.certificate)
        with pytest.raises(requests.exceptions.SSLError):
            requests.get(f"{url}/healthz", verify=trust, cert=present, timeout=SECONDS)
        other_trust = str(tmp_path / "other.pem")
        assert requests.get(f"{url}/healthz", verify=other_trust, cert=present, timeout=SECONDS).ok


def test_http_needs_tls_for_tokens_beyond_this_machine(repository: Path, tmp_path: Path) -> None:
    """As gRPC does; neither port may be the open one."""
    options = {"repository": str(repository), "tokens": str(tmp_path / "t.toml")}
    resolve({**options, "http_listen": "127.0.0.1:0"}, {}, {}, None)
    with pytest.raises(SettingsError, match=r"found 0\.0\.0\.0:8080 in plain text"):
        resolve({**options, "http_listen": "0.0.0.0:8080"}, {}, {}, None)
